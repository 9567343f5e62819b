//! Clocks of one daemon, preloaded into it: they are as far ahead of the machine's as a test says.

use std::{os::unix::fs::FileExt as _, process::Command};

use super::{Daemon, Lab};

/// By how many seconds each of two clocks is ahead is in the file `clocks`, shared by mapping it.
const SHIM: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *ahead;

__attribute__((constructor)) static void map(void) {
    int file = open(getenv("CLOCKS"), O_RDONLY);
    ahead = mmap(NULL, 2 * sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (ahead == MAP_FAILED)
        abort();
    close(file);
    unsetenv("LD_PRELOAD");
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_BOOTTIME)
        time->tv_sec += ahead[0];
    if (result == 0 && clock == CLOCK_REALTIME)
        time->tv_sec += ahead[1];
    return result;
}
"#;

/// The file of clocks.
pub(crate) struct Clocks(std::fs::File);

impl Clocks {
    pub(crate) fn make(lab: &Lab) -> Self {
        lab.file("shim.c", SHIM);
        lab.run("cc -shared -fPIC -o shim.so shim.c");
        let path = lab.file("clocks", &"\0".repeat(16));
        Self(std::fs::File::options().write(true).open(path).expect("a file"))
    }

    pub(crate) fn set(&self, boot_time: i64, wall_clock: i64) {
        let bytes = [boot_time, wall_clock].map(i64::to_ne_bytes).concat();
        self.0.write_all_at(&bytes, 0).expect("written");
    }

    /// A daemon that goes by them.
    pub(crate) fn daemon(&self, lab: &Lab, mut command: Command, name: &str) -> Daemon {
        command.env("CLOCKS", lab.dir.join("clocks")).env("LD_PRELOAD", lab.dir.join("shim.so"));
        let daemon = lab.daemon_from(command, name);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).expect("its mappings");
        assert!(maps.contains("shim.so"), "the shim is not loaded");
        daemon
    }
}

//! Who may run on which processors.

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The processors of what is measured, and those of the load that measures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The daemon's.
    pub daemon: Vec<usize>,
    /// The load generator's: others, as far as there are any.
    pub load: Vec<usize>,
}

impl Placement {
    /// Gives the daemon the first `cores` of the processors that this process may use, and the load the rest of them.
    /// When none remain, the load shares the last one: were it free to roam, two runs would not be alike.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn cores(cores: usize) -> Result<Self> {
        Self::of(&allowed()?, cores)
    }

    fn of(allowed: &[usize], cores: usize) -> Result<Self> {
        ensure!(cores > 0, "a daemon needs a processor");
        ensure!(cores <= allowed.len(), "{cores} processors are wanted, and there are {}", allowed.len());
        let (daemon, rest) = allowed.split_at(cores);
        let load = if rest.is_empty() { &daemon[cores - 1..] } else { rest };
        Ok(Self { daemon: daemon.to_vec(), load: load.to_vec() })
    }
}

/// Confines the calling thread, and the threads and processes that it starts from now on, to these processors.
///
/// # Errors
/// When none of them is there.
pub(crate) fn confine(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|&cpu| set.set(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on processors {cpus:?}"))
}

fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("which processors may be used")?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_keeps_off_the_daemons_processors_where_it_can() {
        let placement = Placement::of(&[2, 3, 5], 2).unwrap();
        assert_eq!((placement.daemon, placement.load), (vec![2, 3], vec![5]));
        let shared = Placement::of(&[0, 1], 2).unwrap();
        assert_eq!((shared.daemon, shared.load), (vec![0, 1], vec![1]));
        for impossible in [0, 3] {
            assert!(Placement::of(&[0, 1], impossible).is_err());
        }
    }

    #[test]
    fn a_confined_thread_starts_confined_threads() {
        let one = vec![*allowed().unwrap().last().unwrap()];
        let there = std::thread::spawn(move || {
            confine(&one).unwrap();
            assert_eq!(std::thread::spawn(|| allowed().unwrap()).join().unwrap(), one);
        });
        there.join().unwrap();
    }
}

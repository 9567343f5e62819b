"""A container's runtime, as small as can be: `docker run`, or `docker run --detach` for what stays.

The arguments are a program whose child is the first process of a PID namespace. Unless that is asked to stay in the
foreground, this returns when it ends, or when it says that it is ready. The container holds nothing of the caller's:
what it has said until then is passed on.
"""

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

command = sys.argv[1:]
asked = os.environ.get("WG_PROCESS_FOREGROUND", "0") in ("1", "true", "yes")
if asked or "-f" in command or "--foreground" in command:
    os.execv(command[0], command)

# The terminal, or `timeout`, signals the group: the first process gets it as well, and decides.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)

said = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.bind(f"{directory}/notify")
    os.chmod(directory, 0o711)
    os.chmod(f"{directory}/notify", 0o622)  # the container may run as another user
    environment = os.environ | {"NOTIFY_SOCKET": f"{directory}/notify"}
    container = subprocess.Popen(command, env=environment, stdout=said[0], stderr=said[1])
    either = selectors.DefaultSelector()
    either.register(told, selectors.EVENT_READ)
    either.register(os.pidfd_open(container.pid), selectors.EVENT_READ)
    status = None
    while status is None:
        happened = [key.fileobj for key, _ in either.select()]
        if told in happened:
            status = 0 if b"READY=1" in told.recv(4096) else None
        else:
            status = container.wait()

for file, stream in zip(said, (sys.stdout.buffer, sys.stderr.buffer)):
    file.seek(0)
    shutil.copyfileobj(file, stream)
    stream.flush()
sys.exit(status if status >= 0 else 128 - status)

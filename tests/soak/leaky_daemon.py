"""A daemon that leaks: the control run that proves the soak's judge.

    python leaky_daemon.py LAB_NAME ARGUMENT...      # ARGUMENTs as for `replicator`

At once a process of its own session, a namespace and a TAP, which nobody will remove; then, all the time, descriptors and
memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from replicator.cli.main import main
from replicator.demo.lab import run_ip

LEFT_PROCESS = ("sleep", "1000")
LEFT_TAP = "left0"
EVERY_S = 0.1
#: Each time; every page of it is touched.
LEAKED_BYTES = 256 << 10


def left_namespace(lab: str) -> str:
    return f"{lab}-left"


def leave_behind(lab: str) -> None:
    subprocess.Popen(LEFT_PROCESS, start_new_session=True)
    run_ip(["netns", "add", left_namespace(lab)])
    run_ip(["tuntap", "add", "dev", LEFT_TAP, "mode", "tap"])


def leak() -> None:
    hoard: list[bytes] = []
    while True:
        os.open("/dev/null", os.O_RDONLY)
        hoard.append(b"\1" * LEAKED_BYTES)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    leave_behind(sys.argv.pop(1))
    threading.Thread(target=leak, daemon=True).start()
    main()

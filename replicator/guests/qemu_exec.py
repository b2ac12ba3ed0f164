"""Becomes QEMU: run as a program of its own between the daemon and QEMU, so that nothing of ours runs in a forked copy
of the daemon with its threads and mappings.

    python -I -S qemu_exec.py PARENT_PID NAME=VALUE... -- PROGRAM ARGUMENT...

Asks the kernel to kill this process when the thread that started it ends, which outlasts `exec`, then becomes PROGRAM
with the variables added to its environment. Imports nothing of the package.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> NoReturn:
    parent, *rest = arguments
    split = rest.index("--")
    variables, command = rest[:split], rest[split + 1 :]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the daemon ended before QEMU was started")
    environment = dict(os.environ)
    for variable in variables:
        name, _, value = variable.partition("=")
        environment[name] = value
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])

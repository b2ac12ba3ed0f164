"""The child process that takes a stream on its standard input, through a pipe of ours.

It has a session of its own: ctrl-C at a terminal reaches us alone, and we tell it. Signals go to its whole process
group, so that a shell passes them on to what it runs; its end is that of the process that was started, whatever that
leaves behind. Only this class waits for it, so that its number means no other process as long as we signal it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from replicator.errors import ReceiverError

#: What an unprivileged process may ask for; much less costs speed.
_PIPE_BYTES: Final = 1 << 20


class Receiver:
    """A running child. `sink_fd` is our end of its standard input and does not block; `pidfd` is readable once it
    has ended. Standard output and error are ours."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Start it. ReceiverError when that cannot be done."""
        theirs, self.sink_fd = os.pipe()
        try:
            self._process = subprocess.Popen(list(argv), stdin=theirs, start_new_session=True)
        except OSError as error:
            self.close_sink()
            raise ReceiverError(f"cannot start {argv[0]}: {error.strerror}") from error
        finally:
            os.close(theirs)
        self.pidfd = -1
        try:
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self.close()
            raise ReceiverError(f"cannot watch {argv[0]}: {error.strerror}") from error
        self._prepare_sink()

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def reap(self) -> ReceiverError | None:
        """Wait for its end; what there is to complain about that."""
        status = self._process.wait()
        return ReceiverError(f"the receiver {_describe_status(status)}") if status else None

    def close_sink(self) -> None:
        """It sees the end of its input. May be repeated."""
        if self.sink_fd >= 0:
            os.close(self.sink_fd)
            self.sink_fd = -1

    def close(self) -> None:
        """Kill and reap it if nobody has, give the descriptors back."""
        self.kill()
        self._process.wait()
        self.close_sink()
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def _prepare_sink(self) -> None:
        os.set_blocking(self.sink_fd, False)
        # Refused when the user has too many large pipes: then it is only slower.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.sink_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            return
        # A child that took other rights (sudo) can only be told by the end of its input.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _describe_status(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-status}"

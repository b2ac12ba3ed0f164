"""The whole exception tree. Each class has an exit code for the CLI; each error may carry a hint for the operator."""

from __future__ import annotations


class ReplicatorError(Exception):
    """Base of all expected failures. `hint` says what the operator can do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(ReplicatorError):
    """A configuration or command line that cannot work."""

    exit_code = 2


class WireError(ReplicatorError):
    """Bytes that are not a valid stream. `offset` counts from the start of the stream, `record` names the record."""

    exit_code = 3

    def __init__(self, message: str, *, offset: int | None = None, record: str = "", hint: str = "") -> None:
        where = "" if offset is None else f" at offset {offset}"
        what = f" in {record}" if record else ""
        super().__init__(f"{message}{what}{where}", hint=hint)
        self.offset = offset
        self.record = record


class RemoteWireError(WireError):
    """The peer or the file broke the protocol."""


class LocalWireError(WireError):
    """We were asked to write something the protocol forbids."""


class TruncatedStream(RemoteWireError):
    """The stream ends inside a record or before its END; what came until then is right."""

    exit_code = 11


class BadHeader(RemoteWireError):
    """An image, domain or stream header is not acceptable."""


class UnknownMandatoryRecord(RemoteWireError):
    """A record type we do not know and may not skip."""


class RecordOrder(RemoteWireError):
    """A record that may not stand at this place."""


class RecordTooLarge(RemoteWireError):
    """A length beyond limits.py."""


class BadRecord(RemoteWireError):
    """A record whose body contradicts its type."""


class TransportError(ReplicatorError):
    """The link to the peer failed or refused us."""

    exit_code = 4


class GuestError(ReplicatorError):
    """The hypervisor or the guest cannot do what was asked."""

    exit_code = 5


class GuestMayHaveRun(GuestError):
    """The guest was told to run and it is not known whether it did: what it was before may be too old."""


class EpochError(ReplicatorError):
    """An epoch cannot be committed: wrong sequence, count or digest."""

    exit_code = 6

    def __init__(self, message: str, *, epoch: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.epoch = epoch


class ArbiterError(ReplicatorError):
    """The arbiter cannot be reached or refused."""

    exit_code = 7


class LeaseLost(ArbiterError):
    """Another side holds the guest, or our lease ran out."""


class FenceError(ReplicatorError):
    """The other side may still run."""

    exit_code = 8


class StoreError(ReplicatorError):
    """The replica's files cannot be used."""

    exit_code = 9


class NativeError(ReplicatorError):
    """The native core returned an error code (negative errno)."""

    exit_code = 10

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ReceiverError(ReplicatorError):
    """A receiving process failed, stalled or ended early."""

    exit_code = 13


class FileAccessError(ReplicatorError):
    """A file or pipe that a tool was given cannot be read or written."""

    exit_code = 14


class DrillFailed(ReplicatorError):
    """A drill has shown that the pair does not do what it must."""

    exit_code = 15


class SwitchoverFailed(ReplicatorError):
    """The guest was to be moved and was not; it is where the error says."""

    exit_code = 16


class InvariantError(Exception):
    """Our own bug. Outside the tree: nothing may catch it as an expected failure."""


def require(condition: bool, message: str) -> None:
    """Raise InvariantError unless `condition` holds. Used instead of assert, which -O strips."""
    if not condition:
        raise InvariantError(message)

"""The device model's state behind the tail of an HVM guest: libxl wrote it there, libxc knew nothing of it.

It starts with a signature of 21 letters. Two of them announce a length; the oldest reaches to the end of the
bytes. Whether there is a record at all only the next bytes tell, or their end: another checkpoint may start there,
but no chunk is as large as four letters are as a number.
"""

from __future__ import annotations

from typing import Final

from replicator.limits import LIBXL_RECORD_BYTES_MAX
from replicator.wire import layout
from replicator.wire.layout import LibxlType
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.libxl import check_length
from replicator.wire.records import Place

NAME: Final = "legacy device model record"
_SIGNATURES: Final = (*layout.LEGACY_SIGNATURES, layout.LEGACY_SIGNATURE_QEMU)
_STARTS: Final = tuple(signature[: layout.LEGACY_SIGNATURE_START_BYTES] for signature in _SIGNATURES)


def read_device_model(source: Source, expected: bool | None) -> Steps[bytes | None]:
    """The state of the device model, or None when no record of it follows. `expected` says whether one must
    follow; None: the bytes tell. Raises BadRecord and RecordTooLarge."""
    if expected is False:
        return None
    place = source.begin(NAME)
    start = yield from source.peek_until_end(layout.LEGACY_SIGNATURE_START_BYTES)
    if start not in _STARTS:
        if _may_become_record(start, expected):
            raise source.truncated()
        if expected:
            raise place.bad(f"{start!r} instead of a signature")
        return None
    signature = bytes((yield from source.take(layout.LEGACY_SIGNATURE_BYTES)))
    if signature not in _SIGNATURES:
        raise place.bad(f"signature {signature!r}, known are {', '.join(map(repr, _SIGNATURES))}")
    if signature == layout.LEGACY_SIGNATURE_QEMU:
        return (yield from _read_to_end(source, place))
    (length,) = yield from source.unpack(layout.LEGACY_LENGTH)
    check_length(LibxlType.EMULATOR_CONTEXT, layout.EMULATOR.size + length, place)
    return bytes((yield from source.take(length)))


def _may_become_record(start: bytes, expected: bool | None) -> bool:
    """Whether the bytes, which end here, could be the start of a record."""
    if not start:
        return bool(expected)
    return any(signature.startswith(start) for signature in _STARTS)


def _read_to_end(source: Source, place: Place) -> Steps[bytes]:
    state = bytearray()
    while not (yield from source.at_end()):
        state += yield from source.take_some(LIBXL_RECORD_BYTES_MAX)
        check_length(LibxlType.EMULATOR_CONTEXT, layout.EMULATOR.size + len(state), place)
    return bytes(state)

"""Bodies of the libxl stream (version 2): bytes to records and back.

libxl wraps a libxc stream and adds what belongs to the device model. Framing is that of libxc; unlike libxc,
a libxl receiver refuses every type it does not know, whatever bit 31 says, and has no length cap of its own,
so limits.py gives one. As in libxc.py a function here looks at one header or body; order is grammar.py's
business.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import error as StructError

from replicator.errors import BadHeader, LocalWireError, RemoteWireError, UnknownMandatoryRecord
from replicator.limits import LIBXL_RECORD_BYTES_MAX
from replicator.wire import layout
from replicator.wire.layout import CheckpointStateId, LibxlType
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointState,
    EmulatorContext,
    EmulatorXenstoreData,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    LibxlRecord,
    Place,
    record_name,
)

#: Xenstore data becomes a tuple of Python objects; real ones have a few hundred bytes.
XENSTORE_BYTES_MAX = 1 << 20
_SIGNAL_BYTES_MAX = 1 << 20

#: Shortest and longest body of each type.
_BODY_BYTES: dict[int, tuple[int, int]] = {
    LibxlType.END: (0, _SIGNAL_BYTES_MAX),
    LibxlType.LIBXC_CONTEXT: (0, _SIGNAL_BYTES_MAX),
    LibxlType.EMULATOR_XENSTORE_DATA: (layout.EMULATOR.size, XENSTORE_BYTES_MAX),
    LibxlType.EMULATOR_CONTEXT: (layout.EMULATOR.size, LIBXL_RECORD_BYTES_MAX),
    LibxlType.CHECKPOINT_END: (0, _SIGNAL_BYTES_MAX),
    # The specification draws the padding into the body (8 bytes), every sender writes 4.
    LibxlType.CHECKPOINT_STATE: (layout.CHECKPOINT_STATE.size, layout.padded(layout.CHECKPOINT_STATE.size)),
}
_SIGNALS = (LibxlType.END, LibxlType.LIBXC_CONTEXT, LibxlType.CHECKPOINT_END)


def name_type(record_type: int) -> str:
    """The name of a libxl record type, or its number."""
    if record_type == LibxlType.END:
        return "libxl END"
    try:
        return LibxlType(record_type).name
    except ValueError:
        return f"libxl record {record_type:#010x}"


def check_length(record_type: int, length: int, place: Place) -> None:
    """Refuse from the record header alone what no body can make good."""
    if length > LIBXL_RECORD_BYTES_MAX:
        raise place.too_large(f"body of {length} bytes, at most {LIBXL_RECORD_BYTES_MAX} are allowed")
    limits = _BODY_BYTES.get(record_type)
    if limits is None:
        raise UnknownMandatoryRecord("libxl knows no such record", offset=place.offset, record=place.name)
    shortest, longest = limits
    if length < shortest:
        raise place.bad(f"body of {length} bytes, at least {shortest} are needed")
    if length > longest:
        kind = place.bad if record_type == LibxlType.CHECKPOINT_STATE else place.too_large
        raise kind(f"body of {length} bytes, at most {longest} are allowed")


def decode_header(data: memoryview, offset: int) -> LibxlHeader:
    """16 bytes to the stream header; raises BadHeader."""
    ident, version, options = layout.LIBXL_HEADER.unpack(data)
    name = LibxlHeader.NAME
    if ident != layout.LIBXL_IDENT:
        raise BadHeader(f"ident {ident:#018x} instead of LibxlFmt", offset=offset, record=name)
    if version != layout.LIBXL_VERSION:
        raise BadHeader(f"version {version} instead of {layout.LIBXL_VERSION}", offset=offset, record=name)
    if options & layout.LIBXL_OPTION_BIG_ENDIAN:
        raise BadHeader("big endian streams are not supported", offset=offset, record=name)
    return LibxlHeader(bool(options & layout.LIBXL_OPTION_CONVERTED))


def encode_header(header: LibxlHeader) -> bytes:
    """The 16 bytes of a stream header."""
    options = layout.LIBXL_OPTION_CONVERTED if header.converted else 0
    return layout.LIBXL_HEADER.pack(layout.LIBXL_IDENT, layout.LIBXL_VERSION, options)


def _decode_xenstore_data(body: memoryview, place: Place) -> EmulatorXenstoreData:
    emulator_id, index = layout.EMULATOR.unpack_from(body)
    data = bytes(body[layout.EMULATOR.size :])
    if data and not data.endswith(b"\0"):
        raise place.bad("the last key or value has no NUL behind it")
    strings = data.split(b"\0")[:-1]
    keys, values = strings[0::2], strings[1::2]
    if len(keys) != len(values):
        raise place.bad(f"key {keys[-1]!r} has no value")
    for key in keys:
        if not key:
            raise place.bad("empty key")
        if key.startswith(b"/"):
            raise place.bad(f"absolute path {key!r} as key")
    return EmulatorXenstoreData(emulator_id, index, tuple(zip(keys, values, strict=True)))


def _decode_emulator_context(body: memoryview) -> EmulatorContext:
    emulator_id, index = layout.EMULATOR.unpack_from(body)
    return EmulatorContext(emulator_id, index, bytes(body[layout.EMULATOR.size :]))


def _decode_checkpoint_state(body: memoryview, place: Place) -> CheckpointState:
    (state,) = layout.CHECKPOINT_STATE.unpack_from(body)
    try:
        return CheckpointState(CheckpointStateId(state))
    except ValueError:
        raise place.bad(f"checkpoint state {state:#x}, known are 0 to 3") from None


def decode_body(record_type: int, body: memoryview, place: Place) -> LibxlRecord:
    """One body (without padding), whose length passed `check_length`, to its record; raises BadRecord."""
    match LibxlType(record_type):
        case LibxlType.END:
            return LibxlEnd()
        case LibxlType.LIBXC_CONTEXT:
            return LibxcContext()
        case LibxlType.EMULATOR_XENSTORE_DATA:
            return _decode_xenstore_data(body, place)
        case LibxlType.EMULATOR_CONTEXT:
            return _decode_emulator_context(body)
        case LibxlType.CHECKPOINT_END:
            return CheckpointEnd()
        case LibxlType.CHECKPOINT_STATE:
            return _decode_checkpoint_state(body, place)


def encode_body(record: LibxlRecord) -> bytes:
    """The body of a record, unchecked (use `encode`)."""
    match record:
        case EmulatorXenstoreData(emulator_id=emulator_id, index=index, entries=entries):
            strings = b"".join(key + b"\0" + value + b"\0" for key, value in entries)
            return layout.EMULATOR.pack(emulator_id, index) + strings
        case EmulatorContext(emulator_id=emulator_id, index=index, blob=blob):
            return layout.EMULATOR.pack(emulator_id, index) + blob
        case CheckpointState(id=state):
            return layout.CHECKPOINT_STATE.pack(state)
        case _:
            return b""


def encode(record: LibxlRecord) -> bytes:
    """A whole record with header and padding. What we could not read ourselves is a LocalWireError."""
    name = record_name(record)
    try:
        body = encode_body(record)
        header = layout.RECORD_HEADER.pack(record.TYPE, len(body))
    except StructError as error:
        raise LocalWireError(str(error), record=name) from None
    place = Place(0, name)
    try:
        check_length(record.TYPE, len(body), place)
        again = decode_body(record.TYPE, memoryview(body), place)
    except RemoteWireError as error:
        raise LocalWireError(f"may not be written: {error}") from None
    if again != record:
        raise LocalWireError("a NUL inside a key or value", record=name)
    return header + layout.pad(body)


def list_header_faults(data: memoryview) -> Iterator[str]:
    """Reserved bits of the stream header (16 bytes) that are not zero."""
    options = layout.LIBXL_HEADER.unpack(data)[2]
    if options & ~(layout.LIBXL_OPTION_BIG_ENDIAN | layout.LIBXL_OPTION_CONVERTED):
        yield f"reserved option bits 0 (are {options:#x})"


def list_faults(record_type: int, body: memoryview, record: LibxlRecord) -> Iterator[str]:
    """What a strict reader expects of a body that `decode_body` accepted, and does not find."""
    if record_type in _SIGNALS and body:
        yield f"an empty body ({len(body)} bytes)"
    elif record_type == LibxlType.CHECKPOINT_STATE and len(body) != layout.CHECKPOINT_STATE.size:
        yield f"a body of {layout.CHECKPOINT_STATE.size} bytes ({len(body)})"
    elif isinstance(record, EmulatorXenstoreData) and not record.entries:
        yield "at least one key"
    elif isinstance(record, EmulatorContext) and not record.blob:
        yield "a state of the device model"

"""What the strict mode takes is written again in every framing, is strictly valid, and has the same records.

Of version 3 the same framing gives the same bytes. LocalWireError only where the framing has no place for
something: bare libxc for the device model, unless that may be dropped, and for COLO.
"""

from __future__ import annotations

import harness
from harness import Outcome, expect
from mutations import mutate_stream

from replicator.errors import LocalWireError, WireError
from replicator.wire import xl
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Strict
from replicator.wire.legacy import MemoryBases, TmemPolicy
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointState,
    EmulatorContext,
    EmulatorXenstoreData,
    Envelope,
    Handshake,
    ImageHeader,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    Record,
    StaticDataEnd,
    XlHeader,
)
from replicator.wire.rewrite import Framing, Rewriter
from replicator.wire.sniff import StreamFormat

FRAMINGS = (None, *Framing)
NEWEST = 3
#: A strict reader wants a configuration, which only an xl header has.
CONFIGURED = xl.make_header(b"{}", is_json=True)
_DEVICE_MODEL = (EmulatorContext, EmulatorXenstoreData)
_LIBXL = (LibxlHeader, LibxcContext, CheckpointEnd, LibxlEnd)
_LEGACY = (StreamFormat.LEGACY_32, StreamFormat.LEGACY_64)


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    framing, may_drop = fuzzed.choose(FRAMINGS), fuzzed.choose((False, True))
    decoder = AnyDecoder(ReadOptions(tmem=TmemPolicy.DROP), judge=Strict(), bases=MemoryBases())
    source = harness.read(decoder, [fuzzed.stream], len(fuzzed.stream))
    if source.error is not None:
        return
    written = _write(fuzzed.stream, source, framing, may_drop)
    if written is None:
        return
    found = harness.read(AnyDecoder(judge=Strict()), [written], len(written))
    expect(found.error is None, f"written as {framing}, refused: {found.error}")
    names = _common(found, framing), _common(source, framing)
    expect(
        names[0] == names[1], f"written as {framing}: {harness.brief(names[0])} of {harness.brief(names[1])}"
    )
    is_newest = decoder.grammar is not None and decoder.grammar.version == NEWEST
    if framing is None and is_newest and decoder.inner_format not in _LEGACY:
        expect(fuzzed.stream.startswith(written), "the same framing, other bytes")


def _write(stream: bytes, source: Outcome, framing: Framing | None, may_drop: bool) -> bytes | None:
    """None: the framing has no place for it."""
    decoder = AnyDecoder(ReadOptions(tmem=TmemPolicy.DROP), bases=MemoryBases())
    has_header = any(isinstance(each, XlHeader) for each in source.items)
    header = CONFIGURED if framing is Framing.XL and not has_header else None
    rewriter = Rewriter(framing, xl_header=header, drop_device_model=may_drop)
    parts: list[bytes] = []
    try:
        for items in (decoder.feed(stream), decoder.finish()):
            for item in items:
                parts += map(bytes, rewriter.write(item))
    except LocalWireError as error:
        lacks = CheckpointState if may_drop else (CheckpointState, *_DEVICE_MODEL)
        has_none = framing is Framing.LIBXC and any(isinstance(each, lacks) for each in source.items)
        expect(has_none, f"cannot be written as {framing}: {error}")
        return None
    except WireError as error:
        raise harness.Broken(f"only the tolerant mode refuses: {error}") from error
    return b"".join(parts)


def _common(outcome: Outcome, framing: Framing | None) -> list[Record | Envelope]:
    """The records that neither framing nor version decide about."""
    left_out: tuple[type, ...] = (Handshake, ImageHeader, StaticDataEnd)
    if framing is not None:
        left_out += (XlHeader, *_LIBXL)
    if framing is Framing.LIBXC:
        left_out += _DEVICE_MODEL
    items = [item for item in outcome.items if not isinstance(item, left_out)]
    # A legacy stream becomes one that says of itself that it is none.
    return [
        XlHeader(item.is_json, True, item.optional_flags, item.optional_data)
        if isinstance(item, XlHeader)
        else item
        for item in items
    ]


if __name__ == "__main__":
    harness.run(check, mutate_stream)

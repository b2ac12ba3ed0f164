"""Seeds of the fuzz drivers, made of what the tests of wire/ have: `python tests/fuzz/seeds.py FOLDER` writes them,
a folder for each driver, and a dictionary of magics and numbers."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import fuzz_frames
import fuzz_sealed
import harness
import legacy_maker as legacy
from harness import put_together
from wire_vectors import SCENES, STREAMS, join, load, load_stream, load_xl_header

from replicator.limits import PFN_MAX
from replicator.wire import frames, layout, recording, session, xl
from replicator.wire.layout import LegacyChunk, LibxcType

DICTIONARY: Final = "dictionary"
#: Recordings that are longer break off here.
_RECORDING_BYTES: Final = 20 << 10
_BACK_CHANNEL: Final = "colo back channel"
#: Flags and cuts: whole, in small pieces, and the other modes of a driver.
_FEEDINGS: Final = ((0, b"\xff" * 6), (1, b"\x45\x31\x80\x10\x00\xc3"), (0x5A5A, b"\x00\x7f\x91\x22\xb0\x35"))


def drivers() -> list[str]:
    """The names of all drivers."""
    return sorted(path.stem.removeprefix("fuzz_") for path in harness.HERE.glob("fuzz_*.py"))


def seeds_of(driver: str) -> dict[str, bytes]:
    """The seeds of a driver, by name. They are the same each time."""
    if driver == "session":
        return {session.kind_of(message): session.encode(message) for message in _messages()}
    if driver == "frames":
        envelopes = [frames.Envelope(fuzz_frames.SESSION, 1, message) for message in fuzz_frames.MESSAGES]
        return {frames.kind_of(one.message): frames.encode(one) for one in envelopes}
    if driver == "sealed":
        sealed = [fuzz_sealed.seal(*message) for message in fuzz_sealed.MESSAGES]
        return {str(number): fuzz_sealed.join(pieces) for number, pieces in enumerate(sealed)}
    streams = {
        "back_channel": _back_channels,
        "legacy": _legacy_streams,
        "recording": _recording_headers,
        "xl_header": _xl_headers,
    }.get(driver, _all_streams)
    return {
        name: put_together(stream, *feeding)
        for (name, stream), feeding in zip(streams(), _FEEDINGS * 100)
        if len(stream) <= harness.INPUT_BYTES_MAX
    }


def write_seeds(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the seeds of these drivers (None: all) and the dictionary."""
    for driver in drivers() if names is None else names:
        place = folder / driver
        place.mkdir(parents=True, exist_ok=True)
        for name, data in seeds_of(driver).items():
            (place / name.replace(" ", "-").replace(",", "")).write_bytes(data)
    (folder / DICTIONARY).write_text("".join(f"{line}\n" for line in _dictionary()))


# Streams


def _all_streams() -> Iterator[tuple[str, bytes]]:
    for name, records in SCENES.items():
        if name != _BACK_CHANNEL:
            yield name, join(records)
    frames = load("x86_pv_p2m_frames_64")
    yield "p2m list twice", join(SCENES["pv 64 bit, version 3"]).replace(frames, frames + frames)
    yield "xl and handshake", load_xl_header("hvm1") + join(SCENES["hvm, version 3"]) + layout.XL_HANDSHAKE_GO
    for name in STREAMS:
        yield name, (load_xl_header(name.partition(".")[0]) + load_stream(name))[:_RECORDING_BYTES]
    yield from _legacy_streams()


def _legacy_streams() -> Iterator[tuple[str, bytes]]:
    """Small ones of each kind, with much and with little in them."""
    for shape in legacy.MATRIX:
        frames = 4 if shape.is_hvm else 9
        for seed in (1, 2):
            is_rich = seed == 1
            small = legacy.Shape(
                shape.is_hvm, shape.sender_bits, shape.guest_bits, shape.is_remus, shape.is_compressed,
                frames=frames, rounds=2, batch_most=3, vcpus=(0, 1) if is_rich else (0,), has_extended=is_rich,
                xsave_bytes=40 if is_rich else None, is_verified=is_rich and not shape.is_remus, has_oddities=is_rich,
                has_last=shape.has_last or is_rich, seed=seed,
                signature=legacy.DEVICE_MODEL if is_rich else legacy.QEMU_DEVICE_MODEL,
            )  # fmt: skip
            yield f"{small} {seed}", legacy.make_stream(small).data
    header = legacy.word(4) + legacy.tmem(random.Random(1))[0]
    yield "tmem", header + legacy.chunk(0) + legacy.hvm_tail(b"context")


def _back_channels() -> Iterator[tuple[str, bytes]]:
    data = join(SCENES[_BACK_CHANNEL])
    lists = load("checkpoint_dirty_pfn_list"), load("checkpoint_dirty_pfn_list_empty")
    wide = data
    for one in lists:
        wide = wide.replace(one, one[:8] + bytes(8) + one[8:])
    yield "narrow", data
    yield "narrow in pieces", data
    yield "wide", wide
    yield "wide again", wide


def _xl_headers() -> Iterator[tuple[str, bytes]]:
    for guest in ("pv1", "pvh1", "hvm1"):
        yield guest, load_xl_header(guest)
    yield "with a stream", load_xl_header("hvm1") + join(SCENES["hvm, version 3"]) + layout.XL_HANDSHAKE_GO
    yield "small", xl.encode(xl.make_header(b'{"b_info":{"max_memkb":4096}}', is_json=True))
    yield "text", xl.encode(xl.make_header(b'name = "x"', is_json=False))
    yield "without", xl.encode(xl.make_header(None, is_json=True))


def _recording_headers() -> Iterator[tuple[str, bytes]]:
    yield "golden", load("page_data_qemu")
    for pfns in ([0], [1, 2, 3], [0x100000, 7]):
        yield f"{len(pfns)} pages of {pfns[0]}", recording.page_data_header(array("Q", pfns))


def _messages() -> Iterator[session.Message]:
    connection, digest = bytes(range(16)), bytes(range(16, 32))
    guest = session.GuestRecord(
        name="web",
        uuid="0b1e4a5c-0000-4000-8000-000000000001",
        ram_bytes=256 << 20,
        layout=((0, 0, 1000), (0x100000, 1000, 64536)),
        machine="microvm",
        disks=(("root", "sha256:00ff"),),
        macs=("52:54:00:00:00:01",),
    )
    yield session.Hello(session.PROTOCOL_VERSION, "host-a", guest, 3, connection, 2)
    yield session.KeyShare(bytes(range(32)), bytes(range(32, 64)))
    yield session.HelloReply("host-b", True, "", "", 3, connection, 17, digest)
    yield session.EpochBegin(connection, 3, 18, 17)
    yield session.EpochPart(connection, 18, 0, 4096)
    yield session.EpochEnd(connection, 18, 5, 9_000_000, digest, 77)
    yield session.Ack(connection, 18, digest)
    yield session.Abort(connection, 18, "wrong-digest", "part 3")
    yield session.InputFrames(connection, 1, (60, 1500))
    yield session.CheckpointNew(connection, 18)
    yield session.CheckpointWord(connection, 18, 16, bytes(16), True)
    yield session.StandDown(3, "stopped by the operator")
    yield session.HandOver(bytes(16), 3, 18)
    yield session.HandOverReply(bytes(16), 18, True, "", 4)
    yield session.Heartbeat("host-a", "primary", 3, 1, 18, 1_000_000, 0)


# The dictionary


def _dictionary() -> Iterator[str]:
    """Lines of a libFuzzer dictionary."""
    yield from map(_quote, _words())


def _words() -> Iterator[bytes]:
    yield layout.XL_MAGIC
    yield layout.XL_HANDSHAKE_GO
    yield layout.LIBXL_IDENT.to_bytes(8, "big")
    yield layout.IMAGE_MARKER.to_bytes(8, "big") + layout.IMAGE_ID.to_bytes(4, "big")
    yield from (*layout.LEGACY_SIGNATURES, layout.LEGACY_SIGNATURE_QEMU, layout.START_INFO_MAGIC)
    yield from (
        b"vcpu",
        b"extv",
        b"xcnt",
        b'{"b_info":{"max_memkb":1}}',
        b"kind",
        b"hello",
        b"protocol_version",
    )
    yield from (kind.to_bytes(4, "little") for kind in (*LibxcType, layout.OPTIONAL_BIT))
    yield from (chunk.to_bytes(4, "little", signed=True) for chunk in LegacyChunk)
    yield from (
        number.to_bytes(8, "little") for number in (PFN_MAX, PFN_MAX + 1, 0xD << 60, 0xF << 60, 5 << 60)
    )


def _quote(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"'


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))

"""What the fuzz drivers share: the form of an input, how a decoder is read, and how a driver runs.

An input is CONTROL_BYTES that say how the rest is fed, and the rest: the bytes of a stream or of a message. A driver is
a module with `check`, which takes an input and raises on whatever breaks its property. As a script it is a
libFuzzer target: `python tests/fuzz/fuzz_any.py CORPUS... [libFuzzer options]`. Imported, by a test that replays
inputs, it needs no fuzzer.

Everywhere: bytes give records or a RemoteWireError that names an offset inside them, never another exception, in
bounded memory and time.
"""

from __future__ import annotations

import importlib
import pkgutil
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

HERE: Final = Path(__file__).parent
#: What is instrumented: other modules of replicator are imported before.
INSTRUMENTED: Final = ("replicator.wire", "replicator.stream", "replicator.link")
_PLAIN: Final = (
    "replicator",
    "replicator.errors",
    "replicator.limits",
    "replicator.units",
    "replicator._native",
)
#: Of the stream layer: what decides over bytes; the rest moves them.
_STREAM: Final = ("bases", "image", "plain", "snapshot", "convert")


def runs_alone() -> bool:
    """Whether a driver of this folder is the program."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is not None and Path(main).resolve().parent == HERE and Path(main).stem.startswith("fuzz_")


def _instrument() -> None:
    """Import what is fuzzed, so that its branches are counted."""
    import atheris

    early = [name for name in sys.modules if name.startswith(INSTRUMENTED)]
    if early:
        raise RuntimeError(f"imported before its branches could be counted: {', '.join(early)}")
    for name in _PLAIN:
        importlib.import_module(name)
    with atheris.instrument_imports(include=["replicator"]):
        wire = importlib.import_module("replicator.wire")
        for module in pkgutil.walk_packages(wire.__path__, "replicator.wire."):
            importlib.import_module(module.name)
        for name in _STREAM:
            importlib.import_module(f"replicator.stream.{name}")
        importlib.import_module("replicator.link.sealing")


if runs_alone():
    _instrument()
# The golden records and the makers of streams live with the tests of wire/.
sys.path.append(str(HERE.parent / "wire"))

from replicator.errors import RemoteWireError, TruncatedStream, WireError  # noqa: E402
from replicator.wire.layout import Buffer  # noqa: E402
from replicator.wire.page_data import PageJoiner  # noqa: E402
from replicator.wire.records import Envelope, Item, Record  # noqa: E402

CONTROL_BYTES: Final = 8
_FLAG_BYTES: Final = 2
#: Pieces that one input is cut into; what is left is the last one.
PIECES_MAX: Final = 300
#: Largest input.
INPUT_BYTES_MAX: Final = 1 << 16
#: Peak memory of a driver, its interpreter and the corpus that it keeps included.
PEAK_BYTES_MAX: Final = 512 << 20
#: For libFuzzer; options on the command line take their place.
DEFAULTS: Final = (
    f"-max_len={INPUT_BYTES_MAX + CONTROL_BYTES}",
    "-timeout=10",
    f"-rss_limit_mb={PEAK_BYTES_MAX >> 20}",
    "-print_final_stats=1",
)
#: Comparable form of an error: its class, its text, offset, record and hint.
Signature = tuple[str, str, int | None, str, str]
Mutator = Callable[[bytes, int, int], bytes]
_T = TypeVar("_T")


class Broken(AssertionError):
    """The property of a driver does not hold."""


def expect(condition: bool, message: str) -> None:
    """Raise Broken unless `condition` holds."""
    if not condition:
        raise Broken(message)


@dataclass(slots=True)
class Input:
    """One input, taken apart."""

    flags: int
    cuts: bytes
    stream: bytes

    def choose(self, choices: Sequence[_T]) -> _T:
        """One of these, by the next bits of the flags."""
        self.flags, index = divmod(self.flags, len(choices))
        return choices[index]

    def pieces(self) -> Iterator[bytearray]:
        """The stream in pieces. The first cut counts once, the others in turn; a piece may be empty."""
        first, *sizes = (_piece_bytes(each) for each in self.cuts)
        at = 0
        for index in range(PIECES_MAX):
            size = sizes[index % len(sizes)] if index else first
            if at >= len(self.stream):
                return
            yield bytearray(self.stream[at : at + size])
            at += size
        if at < len(self.stream):
            yield bytearray(self.stream[at:])


def _piece_bytes(cut: int) -> int:
    """0 to 32782, small ones as likely as large ones."""
    return (1 << (cut >> 4)) - 1 + (cut & 15)


def take_apart(data: bytes) -> Input:
    """Control bytes that are not there are zeros."""
    control = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0")
    flags = int.from_bytes(control[:_FLAG_BYTES], "little")
    return Input(flags, control[_FLAG_BYTES:], data[CONTROL_BYTES:])


def put_together(
    stream: bytes, flags: int = 0, cuts: bytes = b"\xff" * (CONTROL_BYTES - _FLAG_BYTES)
) -> bytes:
    """The input that `take_apart` takes apart."""
    return flags.to_bytes(_FLAG_BYTES, "little") + cuts + stream


# Reading


class Decoder(Protocol):
    """Any of the decoders."""

    def feed(self, data: Buffer) -> Iterator[Item]: ...

    def finish(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decoder made of some bytes; PAGE_DATA is whole."""

    items: list[Record | Envelope]
    error: Signature | None


def signature(error: WireError) -> Signature:
    return type(error).__name__, str(error), error.offset, error.record, error.hint


def read(decoder: Decoder, pieces: Iterable[Buffer], size: int, *, drop: bool = False) -> Outcome:
    """All of a stream of `size` bytes. `drop`: the iterator of each piece is dropped behind its first item. A
    bytearray is overwritten once it was decoded."""
    items: list[Record | Envelope] = []
    try:
        joiner = PageJoiner()
        for piece in pieces:
            for item in decoder.feed(piece):
                _join(joiner, item, items)
                if drop:
                    break
            if isinstance(piece, bytearray) and not drop:
                piece[:] = b"\xee" * len(piece)
        for item in decoder.feed(b"") if drop else ():
            _join(joiner, item, items)
        for item in decoder.finish():
            _join(joiner, item, items)
    except WireError as error:
        judge_error(error, size)
        if not isinstance(error, TruncatedStream):
            _expect_lasting(decoder, error)
        return Outcome(items, signature(error))
    return Outcome(items, None)


def _join(joiner: PageJoiner, item: Item, items: list[Record | Envelope]) -> None:
    record = joiner.join(item)
    if record is not None:
        items.append(record)


def judge_error(error: WireError, size: int) -> None:
    """An error about `size` bytes that were read says where in them it is."""
    expect(isinstance(error, RemoteWireError), f"{type(error).__name__} while reading: {error}")
    expect(
        error.offset is not None and 0 <= error.offset <= size, f"offset {error.offset} of {size}: {error}"
    )


def _expect_lasting(decoder: Decoder, error: WireError) -> None:
    for again in (partial(decoder.feed, b"\0"), decoder.finish):
        try:
            list(again())
        except WireError as later:
            expect(later is error, f"after {error!r} came {later!r}")
        else:
            raise Broken(f"after {error!r} the decoder went on")


def expect_same(found: Outcome, expected: Outcome, what: str) -> None:
    """Raise Broken where two readings of one stream differ."""
    expect(found.error == expected.error, f"{what}: {found.error} instead of {expected.error}")
    for index, (one, other) in enumerate(zip(found.items, expected.items)):
        expect(one == other, f"{what}: item {index} is {brief(one)} instead of {brief(other)}")
    expect(
        len(found.items) == len(expected.items),
        f"{what}: {len(found.items)} items, not {len(expected.items)}",
    )


def brief(value: object) -> str:
    return repr(value)[:200]


# Running


def run(check: Callable[[bytes], None], mutate: Mutator | None = None) -> None:
    """Fuzz `check` as the command line says; does not return."""
    import atheris

    def run_one(data: bytes) -> None:
        check(data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        expect(peak <= PEAK_BYTES_MAX, f"peak memory of {peak} bytes, at most {PEAK_BYTES_MAX} are allowed")

    options: dict[str, Any] = {} if mutate is None else {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *DEFAULTS, *sys.argv[1:]], run_one, **options)
    atheris.Fuzz()

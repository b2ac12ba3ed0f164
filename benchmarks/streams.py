"""The stream tools beside Xen's own Python scripts, and beside what the machine allows.

    python benchmarks/streams.py [--xen FOLDER] [--recordings FOLDER] [--mebibytes 512] [--rounds 9]

Streams are made here: an HVM guest of pages only, one of a million frames that are almost all absent (as PVH and HVM
guests have), both with ordinary batches of 1,024 entries, and a legacy stream of pages. `--recordings` adds real ones,
uncompressed. `--xen` is a folder that has bin/verify-stream-v2, bin/convert-legacy-stream and lib/python/xen, such as
/usr/lib/xen-4.17 of the Debian package xen-utils-4.17. Each candidate runs in a process of its own that measures itself,
so start-up counts for nobody; each round runs all of them.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BATCH = 1024
PAGE_BYTES = 4096
XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"

#: Each does its work three times, so that caches of file and interpreter are warm for everybody, and prints the shortest
#: time in seconds and the highest memory of its process in KiB.
_TIMED = """
import os, re, sys, time
answer = os.dup(1)  # one of the scripts closes its standard output
{setup}
def work():
{work}
times = []
for _ in range(3):
    begin = time.perf_counter()
    work()
    times.append(time.perf_counter() - begin)
memory = re.search("VmHWM:\\s*(\\d+)", open("/proc/self/status").read()).group(1)
os.write(answer, f"{{min(times)}} {{memory}}".encode())
os._exit(0)
"""
_OURS = "from replicator.stream.source import Source\nfrom replicator.wire.any_decoder import ReadOptions\n"
PROGRAMS = {
    "read": _TIMED.format(
        setup="fd = os.open(sys.argv[1], os.O_RDONLY); buffer = bytearray(1 << 20)",
        work="    os.lseek(fd, 0, 0)\n    while os.readv(fd, [buffer]): pass",
    ),
    "verify": _TIMED.format(
        setup=_OURS + "from replicator.stream.examine import examine_source",
        work="    with Source(sys.argv[1]) as source:\n"
        "        report = examine_source(source, ReadOptions(), strict=True)\n"
        "    assert report.is_complete and not report.problems, report.problems",
    ),
    "inspect": _TIMED.format(
        setup=_OURS + "from replicator.stream.examine import examine_source\n"
        "from replicator.stream.inspect import Outline",
        work="    outline = Outline()\n"
        "    with Source(sys.argv[1]) as source:\n"
        "        report = examine_source(source, ReadOptions(), strict=False, watch=outline.note)\n"
        "    outline.finish(is_complete=report.is_complete)",
    ),
    "convert": _TIMED.format(
        setup=_OURS + "from replicator.wire.rewrite import Rewriter\n"
        "from replicator.stream.convert import Converter, convert_into, open_decoder\n"
        "from replicator.stream.sink import Sink",
        work="    with Source(sys.argv[1]) as source, Sink(sys.argv[2]) as sink:\n"
        "        converter = Converter(open_decoder(source, ReadOptions()), Rewriter())\n"
        "        convert_into(source, converter, sink)\n"
        "        sink.commit()",
    ),
    "xen verify": _TIMED.format(
        setup="sys.path.insert(0, sys.argv[2])\nfrom xen.migration import libxl",
        work="    with open(sys.argv[1], 'rb') as file:\n"
        "        libxl.VerifyLibxl(lambda _: None, file.read).verify()",
    ),
    "xen convert": _TIMED.format(
        setup="sys.path.insert(0, sys.argv[2]); stream, script, out = sys.argv[1], *sys.argv[3:5]\n"
        "code = compile(open(script).read(), script, 'exec')\n"
        "sys.argv = [script, '-i', stream, '-o', out, '-w', '64', '-g', 'hvm', '-f', 'libxl']",
        # Its names are made anew each time: they hold the files that it closes.
        work="    names = {'__name__': 'convert', '__file__': script}\n"
        "    exec(code, names)\n"
        "    try: failed = names['main']()\n"
        "    except SystemExit as end: failed = end.code\n"
        "    assert not failed, failed",
    ),
}


class Run(NamedTuple):
    seconds: float
    memory_kib: int


def run(program: str, *arguments: str | Path) -> Run:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS[program], *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{program} failed: {done.stderr[-2000:]}")
    seconds, memory_kib = done.stdout.split()[-2:]
    return Run(float(seconds), int(memory_kib))


# Streams


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def libxl_start() -> bytes:
    image = struct.pack(">QIIHHI", (1 << 64) - 1, 0x58454E46, 3, 0, 0, 0)
    domain = struct.pack("<IHHII", 2, 12, 0, 4, 17)
    return b"LibxlFmt" + struct.pack(">II", 2, 0) + record(1, b"") + image + domain + record(0x10, b"")


def libxl_end() -> bytes:
    params = struct.pack("<IIQQ", 1, 0, 1, 0xFEFFC)
    device_model = record(3, struct.pack("<II", 2, 0) + bytes(6000))
    return record(0xA, params) + record(9, b"c" * 8000) + record(0, b"") + device_model + record(0, b"")


def page_data(first: int, count: int, *, absent: bool) -> bytes:
    kind = 0xF << 60 if absent else 0
    entries = array("Q", [kind | pfn for pfn in range(first, first + count)]).tobytes()
    pages = b"" if absent else (b"%08d" % first) * (PAGE_BYTES * count // 8)
    return record(1, struct.pack("<II", count, 0) + entries + pages)


def paged(pages: int) -> Iterator[bytes]:
    yield libxl_start()
    for first in range(0, pages, BATCH):
        yield page_data(first, BATCH, absent=False)
    yield libxl_end()


def absent(frames: int, pages: int) -> Iterator[bytes]:
    yield libxl_start()
    for first in range(0, frames, BATCH):
        yield page_data(first, BATCH, absent=first >= pages)
    yield libxl_end()


def legacy(frames: int, mapped: int) -> Iterator[bytes]:
    """Of a 64-bit toolstack; the first `mapped` frames of each batch have a page."""
    yield struct.pack("<Q", frames)
    unmapped = [0xF0000000] * (BATCH - mapped)
    for first in range(0, frames, BATCH):
        entries = array("Q", [*range(first, first + mapped), *unmapped]).tobytes()
        yield struct.pack("<i", BATCH) + entries + (b"%08d" % first) * (PAGE_BYTES * mapped // 8)
    yield struct.pack("<iii", -2, 0, 0)[:8] + struct.pack("<Q", 1)
    yield struct.pack("<ii", -9, 0) + struct.pack("<QQQI", 5, 6, 1, 8000) + b"c" * 8000
    yield b"DeviceModelRecord0002" + struct.pack("<I", 6000) + bytes(6000)


def write(path: Path, parts: Iterator[bytes]) -> Path:
    with path.open("wb") as file:
        file.writelines(parts)
    return path


def without_xl_header(path: Path, folder: Path) -> Path:
    """A copy: Xen's verifier cannot read its own xl header under Python 3."""
    data = path.read_bytes()
    if data.startswith(XL_MAGIC):
        data = data[48 + int.from_bytes(data[44:48], "little") :]
    copy = folder / path.name
    copy.write_bytes(data)
    return copy


# Measuring


def compare(title: str, path: Path, candidates: dict[str, tuple[str | Path, ...]], rounds: int) -> None:
    """Median and middle half of each candidate; ratios to the first one of Xen, or to the plain read."""
    runs: dict[str, list[Run]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, arguments in candidates.items():
            done = run(name, path, *arguments)
            if number:
                runs[name].append(done)
    size = path.stat().st_size
    medians = {name: statistics.median(each.seconds for each in done) for name, done in runs.items()}
    base = next((name for name in candidates if name.startswith("xen")), "read")
    print(f"{title}, {size / 1e6:.0f} MB (ratios to {base})")
    for name, done in runs.items():
        low, _, high = statistics.quantiles([each.seconds for each in done], n=4)
        median, memory = medians[name], max(each.memory_kib for each in done) / 1024
        print(
            f"  {name:<12} {median * 1e3:9.1f} ms  ({low * 1e3:.1f} .. {high * 1e3:.1f})  {size / median / 1e9:6.2f} GB/s"
            f"  x {medians[base] / median:.2f}  {memory:.0f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--xen", type=Path)
    parser.add_argument("--recordings", type=Path)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pages, rounds = arguments.mebibytes * 256, arguments.rounds
    xen_verify: dict[str, tuple[str | Path, ...]] = {}
    xen_convert: dict[str, tuple[str | Path, ...]] = {}
    if arguments.xen:
        modules = arguments.xen / "lib/python"
        xen_verify = {"xen verify": (modules,)}
        xen_convert = {"xen convert": (modules, arguments.xen / "bin/convert-legacy-stream", "/dev/null")}
    look: dict[str, tuple[str | Path, ...]] = {
        "read": (),
        "verify": (),
        "inspect": (),
        "convert": ("/dev/null",),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = {
            "pages": write(folder / "pages", paged(pages)),
            "almost all frames absent": write(folder / "absent", absent(1 << 20, 8192)),
        }
        for path in sorted(arguments.recordings.glob("*.save")) if arguments.recordings else ():
            made[f"recording {path.name}"] = without_xl_header(path, folder)
        for title, path in made.items():
            compare(title, path, look | xen_verify, rounds)
            path.unlink()
        look = {name: arguments for name, arguments in look.items() if name != "inspect"}
        path = write(folder / "legacy", legacy(pages, BATCH))
        compare("legacy, pages", path, look | xen_convert, rounds)
        path = write(path, legacy(1 << 20, 8))
        compare("legacy, almost all slots unmapped", path, look | xen_convert, rounds)


if __name__ == "__main__":
    main()

"""Builds the drivers of libFuzzer: `python native/fuzz/build_fuzzers.py FOLDER [DRIVER...]`. Each is a program of its
own with the native sources in it, under AddressSanitizer and UndefinedBehaviorSanitizer. Knows nothing of seeds or
runs."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent
#: What the drivers judge; injection needs a process to stop, and the preload library one to start.
SOURCES = (
    *("bitmap.c", "layout.c", "ram.c", "sparse.c", "shadow.c", "prints.c", "uffd.c"),
    *("entries.c", "compress.c"),
    *("simd.c", "simd_x86.c", "simd_neon.c", "bases.c", "delta.c", "lz4_page.c", "encode.c", "decode.c"),
    *("relay_book.c", "tcp_segment.c", "tcp_shift.c", "key_table.c", "shift_entries.c", "shift_table.c"),
    *("fifo.c", "turn_queue.c", "steady_flow.c", "steady_table.c", "steady_say.c"),
    "frame_message.c",
)
LIBRARIES = ("-llz4",)
COMPILER = "clang"
FLAGS = (
    *("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-fno-omit-frame-pointer"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"),
)


def drivers() -> list[str]:
    """The names of all drivers."""
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))


def build(driver: str, folder: Path, native: Path = NATIVE) -> Path:
    """The program of this driver around the sources in `native`. RuntimeError with the compiler's words."""
    if shutil.which(COMPILER) is None:
        raise RuntimeError(f"{COMPILER} is not installed: apt-get install clang libclang-rt-dev")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / driver
    sources = [native / "fuzz" / f"fuzz_{driver}.c", native / "fuzz" / "fuzz.c"]
    sources += [native / name for name in SOURCES]
    done = subprocess.run(
        [COMPILER, *FLAGS, *map(str, sources), *LIBRARIES, *link_flags(native, driver), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"driver {driver} was not built:\n{done.stderr}")
    return program


def link_flags(native: Path, driver: str) -> Iterable[str]:
    """The calls that a driver answers in the place of the kernel: one `wraps: NAME...` line in its source says which."""
    for line in (native / "fuzz" / f"fuzz_{driver}.c").read_text().splitlines():
        if line.startswith("/* wraps: "):
            yield from (
                f"-Wl,--wrap={name}" for name in line.removeprefix("/* wraps: ").rstrip(" */").split()
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the drivers of libFuzzer.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("driver", nargs="*", default=drivers())
    options = parser.parse_args()
    for driver in options.driver:
        try:
            build(driver, options.folder)
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()

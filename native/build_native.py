"""Builds `replicator._native`. The headers are the one description of the C interface: their declarations
are what cffi gets, so a header is written without macros that cffi cannot read (it drops preprocessor lines
only)."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parent
#: One concern a header; a later one may use the types of an earlier one.
HEADERS = (
    *(
        "bitmap.h",
        "layout.h",
        "ram.h",
        "sparse.h",
        "shadow.h",
        "prints.h",
        "uffd.h",
        "inject.h",
        "entries.h",
        "compress.h",
    ),
    *("simd.h", "bases.h", "encode.h", "decode.h"),
    *("relay_frame.h", "relay_hold.h", "relay_inputs.h", "relay_book.h", "relay.h"),
    *("tcp_segment.h", "tcp_shift.h", "shift_table.h", "steady.h"),
    *("frame_message.h", "fast_path.h"),
)
SOURCES = (
    *(
        "bitmap.c",
        "layout.c",
        "ram.c",
        "sparse.c",
        "shadow.c",
        "prints.c",
        "uffd.c",
        "inject.c",
        "inject_arch.c",
    ),
    *("entries.c", "compress.c"),
    *("simd.c", "simd_x86.c", "simd_neon.c", "bases.c", "delta.c", "lz4_page.c", "encode.c", "decode.c"),
    *("relay_ring.c", "relay_hold.c", "relay_inputs.c", "relay_book.c", "relay_mirror.c", "relay_port.c"),
    *("relay.c", "relay_commands.c", "relay_thread.c", "relay_traffic.c"),
    *("tcp_segment.c", "tcp_shift.c", "key_table.c", "shift_entries.c", "shift_table.c"),
    *("fifo.c", "turn_queue.c", "steady_flow.c", "steady_table.c", "steady_say.c"),
    *("frame_message.c", "record_stream.c"),
    *("fast_path.c", "fast_entries.c", "fast_primary.c", "fast_secondary.c"),
)
#: What the sources need beside libc.
LIBRARIES = ("lz4",)
#: For every Python 3: cffi's C code keeps to the limited API.
MODULE = "_native.abi3.so"
#: What LD_PRELOAD brings into a guest's process; no Python module, only found like one.
PRELOAD_SOURCE = "preload.c"
PRELOAD_MODULE = "_preload.abi3.so"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
CFLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fvisibility=hidden"]


def read_declarations(header: str) -> str:
    """The header without its preprocessor lines."""
    lines = (NATIVE / header).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def make_builder(prefix: str = "native/", flags: Sequence[str] = ()) -> FFI:
    """A builder whose sources are named relative to the project root, as setuptools wants them."""
    builder = FFI()
    for header in HEADERS:
        builder.cdef(read_declarations(header))
    builder.set_source(
        "replicator._native",
        "".join(f'#include "{header}"\n' for header in HEADERS),
        sources=[prefix + source for source in SOURCES],
        include_dirs=[prefix.rstrip("/")],
        libraries=list(LIBRARIES),
        depends=[prefix + header for header in HEADERS],
        extra_compile_args=[*CFLAGS, *flags],
        extra_link_args=list(flags),
    )
    return builder


ffibuilder = make_builder()


def build_into(folder: Path, flags: Sequence[str] = ()) -> None:
    """Build in a scratch folder and put the module into `folder`, under the name that an installation gives it:
    under another one both would lie there, and the older could win."""
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(make_builder(f"{NATIVE}/", flags).compile(tmpdir=scratch))
        fresh = folder / f"{MODULE}.new"
        shutil.copy(built, fresh)
        os.replace(fresh, folder / MODULE)  # never write into a module that a running process has mapped


def build_sanitized(folder: Path) -> None:
    """A package `replicator` in `folder` that is this one but for its native parts, which check themselves."""
    package = folder / "replicator"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for entry in (ROOT / "replicator").iterdir():
        if not entry.name.startswith(("_native.", "_preload.")):
            (package / entry.name).symlink_to(entry)
    build_into(package, SANITIZERS)
    build_preload(package / PRELOAD_MODULE, SANITIZERS)


def build_preload(target: Path, flags: Sequence[str]) -> None:
    """The preload library alone. CalledProcessError when it does not compile."""
    source = str(NATIVE / PRELOAD_SOURCE)
    subprocess.run(["cc", *CFLAGS, *flags, "-shared", "-fPIC", source, "-o", str(target)], check=True)


def main() -> None:
    """Without options: put the module beside the package, for use without an installation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--sanitize", metavar="FOLDER", type=Path, help="a package with ASan and UBSan instead"
    )
    folder = parser.parse_args().sanitize
    if folder is None:
        build_into(ROOT / "replicator")
    else:
        build_sanitized(folder)


if __name__ == "__main__":
    main()

"""Builds `replicator._native`. The headers are the one description of the C interface: their declarations
are what cffi gets, so a header is written without macros that cffi cannot read (it drops preprocessor lines
only)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
ROOT = NATIVE.parent
#: One concern a header; a later one may use the types of an earlier one.
HEADERS = ("bitmap.h", "layout.h", "ram.h", "shadow.h", "uffd.h", "inject.h")
SOURCES = ("bitmap.c", "layout.c", "ram.c", "shadow.c", "uffd.c", "inject.c", "inject_arch.c")
CFLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-fvisibility=hidden"]


def read_declarations(header: str) -> str:
    """The header without its preprocessor lines."""
    lines = (NATIVE / header).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def make_builder(prefix: str = "native/") -> FFI:
    """A builder whose sources are named relative to the project root, as setuptools wants them."""
    builder = FFI()
    for header in HEADERS:
        builder.cdef(read_declarations(header))
    builder.set_source(
        "replicator._native",
        "".join(f'#include "{header}"\n' for header in HEADERS),
        sources=[prefix + source for source in SOURCES],
        include_dirs=[prefix.rstrip("/")],
        depends=[prefix + header for header in HEADERS],
        extra_compile_args=CFLAGS,
    )
    return builder


ffibuilder = make_builder()


def main() -> None:
    """Build in a scratch folder and put the module beside the package, for use without an installation."""
    with tempfile.TemporaryDirectory() as scratch:
        built = make_builder(f"{NATIVE}/").compile(tmpdir=scratch)
        target = ROOT / "replicator" / Path(built).name
        fresh = target.with_suffix(".new")
        shutil.copy(built, fresh)
        os.replace(fresh, target)  # never write into a module that a running process has mapped


if __name__ == "__main__":
    main()

"""The least that gathering scattered pages can cost: a loop of memcpy over the same list, in C."""

from __future__ import annotations

import importlib.util
import tempfile
from array import array
from collections.abc import Callable
from mmap import mmap
from types import ModuleType

from cffi import FFI

NAME = "plain_copy_loop"
DECLARATION = "void copy_pages(const uint8_t *ram, const uint64_t *pages, uint64_t count, uint8_t *body);"
SOURCE = """
#include <stdint.h>
#include <string.h>

static void copy_pages(const uint8_t *ram, const uint64_t *pages, uint64_t count, uint8_t *body)
{
    for (uint64_t i = 0; i < count; i++)
        memcpy(body + i * 4096, ram + pages[i] * 4096, 4096);
}
"""


def _build() -> ModuleType:
    builder = FFI()
    builder.cdef(DECLARATION)
    builder.set_source(NAME, SOURCE, extra_compile_args=["-O2"])
    with tempfile.TemporaryDirectory() as folder:
        spec = importlib.util.spec_from_file_location(NAME, builder.compile(tmpdir=folder))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def load_plain_copy() -> Callable[[mmap, array[int], bytearray], None]:
    """Compile it: copies these pages of a mapped file, in this order, to the start of a buffer."""
    module = _build()
    from_buffer, copy_pages = module.ffi.from_buffer, module.lib.copy_pages

    def copy(ram: mmap, pages: array[int], body: bytearray) -> None:
        frames = from_buffer("uint64_t[]", pages)
        copy_pages(from_buffer("uint8_t[]", ram), frames, len(pages), from_buffer("uint8_t[]", body))

    return copy

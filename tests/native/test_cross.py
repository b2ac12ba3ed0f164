"""What the native core does with pages, built for this processor and for one that is emulated (aarch64, with NEON)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import build_native
import pytest

from replicator._native import lib

#: liblz4 is not needed: of the sources those that this machine could build for any processor.
SOURCES = (
    *("bitmap.c", "layout.c", "ram.c", "bases.c", "delta.c"),
    *("simd.c", "simd_x86.c", "simd_neon.c", "cross/check_pages.c"),
)
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")


class Target(NamedTuple):
    compiler: str
    #: What runs its programs, None when this machine does.
    emulator: str | None
    #: The levels that must hold, as bits.
    levels: int


NATIVE = Target("cc", None, lib.rp_simd_levels())
AARCH64 = Target("aarch64-linux-gnu-gcc", "qemu-aarch64", 1 << lib.RP_SIMD_SCALAR | 1 << lib.RP_SIMD_NEON)
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"


def run_checks(target: Target, native: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    for tool in filter(None, (target.compiler, target.emulator)):
        assert shutil.which(tool), f"{tool} is not installed: apt-get install {PACKAGES}"
    program = folder / "check_pages"
    sources = [str(native / name) for name in SOURCES]
    subprocess.run([target.compiler, *FLAGS, *sources, "-o", str(program)], check=True)
    command = [*filter(None, [target.emulator]), str(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("target", [NATIVE, AARCH64], ids=["native", "aarch64"])
def test_every_level_holds(target: Target, tmp_path: Path) -> None:
    done = run_checks(target, build_native.NATIVE, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"levels {target.levels:#x} hold\n"), done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "report"),
    [
        ("vmaxvq_u8(seen) != 0", "vmaxvq_u8(seen) > 1", "!rp_page_is_zero(page)"),
        ("unequal(page + 48, base + 48)", "unequal(page + 48, base + 47)", "masks[at / 64]"),
    ],
)
def test_a_planted_defect_is_found(right: str, wrong: str, report: str, tmp_path: Path) -> None:
    native = tmp_path / "native"
    shutil.copytree(build_native.NATIVE, native, ignore=shutil.ignore_patterns("__pycache__"))
    source = native / "simd_neon.c"
    text = source.read_text()
    assert text.count(right) == 1, f"{source.name} has no such place any more"
    source.write_text(text.replace(right, wrong))
    done = run_checks(AARCH64, native, tmp_path)
    assert done.returncode == 1
    assert f"level {lib.RP_SIMD_NEON}, " in done.stdout and report in done.stdout

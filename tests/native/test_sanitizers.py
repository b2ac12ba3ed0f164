"""`make native-test` fails when a sanitizer finds something, and says what."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Misuse of the native core -> what must be reported.
FINDINGS = {
    "address": (
        "lib.rp_zero_mask(ffi.new('uint8_t[]', 4096), 2, ffi.new('uint8_t[]', 2))",
        "AddressSanitizer",
    ),
    "undefined": (
        "lib.rp_bitmap_count(ffi.cast('struct rp_bitmap *', ffi.cast('char *', ffi.new('uint64_t[]', 64)) + 1))",
        "runtime error: member access within misaligned address",
    ),
}


def run_native_tests(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """The target as anybody calls it, but for what it tests and where it builds."""
    test = folder / "test_finding.py"
    test.write_text(f"from replicator._native import ffi, lib\n\n\ndef test_finding():\n    {body}\n")
    return subprocess.run(
        ["make", "-o", "venv", "native-test", f"NATIVE_TESTS={test}", f"SANITIZED_DIR={folder}/build"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE"))},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("kind", FINDINGS)
def test_a_finding_fails_the_target(tmp_path: Path, kind: str) -> None:
    body, report = FINDINGS[kind]
    done = run_native_tests(tmp_path, body)
    assert done.returncode != 0
    assert report in done.stdout + done.stderr


def test_without_a_finding_it_passes(tmp_path: Path) -> None:
    done = run_native_tests(tmp_path, "assert lib.rp_bitmap_create(8, ffi.new('struct rp_bitmap **')) == 0")
    assert done.returncode == 0, done.stderr

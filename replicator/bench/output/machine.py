"""What a benchmark ran on, for its report: processor, memory, kernel, QEMU and this program's version."""

from __future__ import annotations

from replicator.demo.golden import qemu_version
from replicator.drill.report.hardware import describe_machine, describe_version
from replicator.errors import GuestError


def describe_everything() -> dict[str, str | int]:
    """A machine without QEMU can still measure what needs none."""
    try:
        qemu = qemu_version()
    except GuestError:
        qemu = "none"
    return {**describe_machine(), "qemu": qemu, **describe_version()}

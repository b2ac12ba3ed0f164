"""What happened, one JSON object a line: `{"event": NAME, "at_ns": CLOCK_MONOTONIC, ...}`. For drills and post-mortems.

docs/journal.md has the format, `FIELDS` every event and what belongs to it. A line is written before what it announces
is done (`released` before the frames leave, `acking` before the ack is sent), and after what it reports has happened:
so a daemon that is killed anywhere has never done more than its journal says. This file does not know when an event
happens: service/chronicle.py does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.errors import FileAccessError

#: Grows when a reader of an older one would misread a line.
FORMAT: Final = 2
#: The first line of each life of a daemon.
HEADER: Final = "journal"
BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")

#: Event -> its fields beside `event` and `at_ns`. Sessions and digests are hexadecimal, `boottime_ns` and `deadline_ns`
#: CLOCK_BOOTTIME, `wall_ns` CLOCK_REALTIME.
FIELDS: Final[Mapping[str, Mapping[str, type]]] = {
    HEADER: {
        "format": int, "node": str, "guest": str, "pid": int, "boot": str, "arbiter": bool,
        "boottime_ns": int, "wall_ns": int,
    },
    # Roles and lease.
    "primary": {"term": int, "promoted": bool, "deadline_ns": int, "boottime_ns": int},
    "secondary": {"term": int, "session": str, "epoch": int, "digest": str},
    "ended": {"reason": str},
    "state": {"word": str},
    "lease": {"term": int, "deadline_ns": int, "boottime_ns": int},
    "lapsed": {"reason": str},
    "regained": {},
    "lost": {"reason": str},
    "fenced": {"reason": str},
    "stopping": {"shut_down": bool},
    "tuned": {"retry": bool},
    "standing-down": {"hand_over": bool, "reason": str},
    "stood-down": {},
    # Switchover.
    "moving": {"max_downtime_ns": int},
    "emptying": {"epoch": int},
    "handing-over": {"session": str, "epoch": int},
    "handed-over": {},
    "offering": {"session": str, "epoch": int},
    "offer-answered": {"epoch": int, "taken": bool, "detail": str},
    "taking-back": {"session": str, "epoch": int, "force": bool},
    "taken-back": {"same_term": bool, "term": int, "deadline_ns": int, "boottime_ns": int},
    "not-taken-back": {"reason": str},
    "leaving": {},
    "move": {"outcome": str, "reason": str, "downtime_ns": int, "promised_ns": int},
    "offered": {"session": str, "term": int, "epoch": int},
    "answering-offer": {"epoch": int, "taken": bool, "detail": str},
    "handing-back": {"session": str, "epoch": int},
    # The bar and the output.
    "lifting": {"session": str, "epoch": int},
    "lifted": {},
    "asking-alone": {},
    "alone": {},
    "arbiter-failed": {"reason": str},
    "passing": {},
    "holding": {"epoch": int},
    # The link, as the primary sees it.
    "link-up": {},
    "link-down": {"reason": str},
    "silent": {},
    "heard": {},
    "greeting": {"session": str},
    "accepted": {"session": str, "epoch": int, "digest": str},
    "refused": {"code": str, "detail": str},
    # Epochs of the primary.
    "opened": {"epoch": int, "base": int, "runs_vm": bool},
    "pausing": {"epoch": int},
    "overrun": {"epoch": int, "dirty_pages": int},
    "paused": {"epoch": int, "dirty_pages": int},
    "resumed": {"epoch": int},
    "denied": {"epoch": int},
    "failed": {"epoch": int, "reason": str},
    "sealed": {"session": str, "epoch": int, "digest": str, "parts": int, "bytes": int},
    "abandoned": {"epoch": int},
    "acked": {"session": str, "epoch": int, "digest": str},
    "not-committed": {"epoch": int, "detail": str},
    "released": {"epoch": int},
    "guest-ended": {"reason": str, "died": bool},
    # COLO, at the primary.
    "checkpoint-asked": {"epoch": int, "difference": bool},
    "suspending-vm": {"session": str, "epoch": int},
    "vm-suspended": {"session": str, "epoch": int},
    "vm-resumed": {"session": str, "epoch": int},
    "comparing": {"epoch": int},
    "not-comparing": {},
    "channel-lost": {"reason": str},
    # COLO, at the secondary.
    "suspend-ordered": {"session": str, "epoch": int},
    "vm-suspending": {},
    "answering-suspend": {"session": str, "epoch": int},
    "vm-loading": {"epoch": int},
    "vm-ready": {"session": str, "epoch": int},
    "vm-starting": {"epoch": int},
    "vm-running": {"session": str, "epoch": int},
    "vm-failed": {"reason": str},
    "vm-ending": {},
    # The secondary.
    "hello": {"session": str, "term": int, "mismatch": str},
    "accepting": {"session": str, "term": int, "epoch": int, "digest": str},
    "refusing": {"code": str, "detail": str},
    "discarding": {"reason": str},
    "begun": {"session": str, "term": int, "epoch": int, "full": bool, "runs_vm": bool},
    "committed": {"session": str, "term": int, "epoch": int, "digest": str, "parts": int, "bytes": int},
    "acking": {"session": str, "epoch": int, "digest": str},
    "aborted": {},
    "aborting": {"session": str, "epoch": int, "detail": str},
    "asking": {"session": str, "epoch": int, "force": bool},
    "granted": {"term": int, "epoch": int, "session": str, "force": bool},
    "postponed": {"reason": str},
    "not-granted": {"reason": str},
    "activating": {"term": int, "epoch": int, "vm": bool},
    "running": {"term": int, "epoch": int, "replayed_inputs": int},
    "not-activated": {"reason": str},
    "told-to-stand-down": {"reason": str},
}  # fmt: skip

#: Fields that lines of an older format lack, and what they would have said.
LATER_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "opened": {"runs_vm": False},
    "begun": {"runs_vm": False},
    "activating": {"vm": False},
}
#: Said in every epoch or at every renewal: of no interest to whoever wants the story.
ROUTINE: Final = frozenset({
    "lease", "opened", "pausing", "paused", "resumed", "sealed", "acked", "released", "begun", "committed", "acking",
    "checkpoint-asked", "suspending-vm", "vm-suspended", "vm-resumed", "comparing", "suspend-ordered", "vm-suspending",
    "answering-suspend", "vm-loading", "vm-ready", "vm-starting", "vm-running",
})  # fmt: skip


class Journal:
    """Appends to a file (0600), each line at once; without a path it keeps silent. FileAccessError when it cannot be
    opened. Once begun, a line that cannot be written is dropped: nothing may stop a guest because a disk is full."""

    def __init__(self, path: Path | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fd = -1
        self._clock = clock
        if path is not None:
            self._fd = _open_for_appending(path)
        #: Whether lines are kept.
        self.is_open = path is not None

    def begin(self, node: str, guest: str, *, has_arbiter: bool) -> None:
        """The header of this life: who writes, and how its clocks stand to each other."""
        if self._fd < 0:
            return
        self.say(
            HEADER,
            format=FORMAT,
            node=node,
            guest=guest,
            pid=os.getpid(),
            boot=BOOT_ID_PATH.read_text(encoding="ascii").strip(),
            arbiter=has_arbiter,
            boottime_ns=self._clock.boottime_ns(),
            wall_ns=time.time_ns(),
        )

    def say(self, event: str, **fields: Any) -> None:
        if self._fd < 0:
            return
        line = json.dumps({"event": event, "at_ns": self._clock.monotonic_ns(), **fields})
        try:
            os.write(self._fd, line.encode() + b"\n")
        except OSError:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self.is_open = -1, False


def _open_for_appending(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        _end_line(fd)
    except OSError as error:
        raise FileAccessError(
            f"{path} cannot be written: {error.strerror}",
            hint="name a file for --events in a folder of yours",
        ) from error
    return fd


def _end_line(fd: int) -> None:
    """A daemon that was killed while it wrote may have left half a line: ours begins a new one."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")

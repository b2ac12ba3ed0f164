"""What `--record` writes: a session as the streams that Xen's toolstack would have seen.

The primary's file is one checkpointed libxl stream, Remus' or COLO's. In COLO a second one, of the same name with `.back`
behind it, has what the secondary said: a back channel, which has no header. Both are valid whatever becomes of single
epochs and connections, so they show the checkpoints that came to something. Both files are for their owner (0600)."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import BinaryIO, Final

from replicator.wire import libxc
from replicator.wire.back_channel import state_word
from replicator.wire.layout import CheckpointStateId
from replicator.wire.records import DirtyPfnList

_NEW: Final = state_word(CheckpointStateId.NEW)
_SUSPENDED: Final = state_word(CheckpointStateId.SVM_SUSPENDED)
_RUNS: Final = state_word(CheckpointStateId.SVM_READY) + state_word(CheckpointStateId.SVM_RESUMED)


class Recorder:
    """The primary's stream. `path` and, with `is_colo`, the back channel's file are written anew."""

    def __init__(self, path: Path, *, is_colo: bool = False) -> None:
        self._file = _open(path)
        self._begun = False
        #: A round is whole, and nothing of the next was written.
        self._between_rounds = False
        self.back_channel = BackChannelRecorder(path.with_name(path.name + ".back")) if is_colo else None

    def write_part(self, part: memoryview, *, is_prologue: bool) -> None:
        """A prologue counts once: a later synchronisation goes on in the same stream."""
        if is_prologue and self._begun:
            return
        if self._between_rounds and self.back_channel is not None:
            self._file.write(_NEW)
        self._begun, self._between_rounds = True, False
        self._file.write(part)

    def end_round(self) -> None:
        """All parts of an epoch were written."""
        self._between_rounds = True

    def close(self) -> None:
        self._file.close()
        if self.back_channel is not None:
            self.back_channel.close()


class BackChannelRecorder:
    """The words of a secondary. What a suspended VM had written is told with the next time that one runs: what comes to
    nothing in between is no checkpoint."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        self._has_run = False
        self._written = array("Q")

    def note_suspended(self, pfns: array[int]) -> None:
        self._written.extend(pfns)

    def note_resumed(self) -> None:
        if self._has_run:
            # One list, as Xen has it: the link alone needs pieces.
            self._file.write(_SUSPENDED + libxc.encode(DirtyPfnList(array("Q", sorted(set(self._written))))))
        self._has_run, self._written = True, array("Q")
        self._file.write(_RUNS)

    def close(self) -> None:
        self._file.close()


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")

"""What a secondary needs to take an epoch, beside a plain copy of the same bytes.

    python benchmarks/store.py [--rounds 100] [--directory /dev/shm]

Each page is written twice: into staging as it arrives, into the RAM file at the commit; an epoch larger than staging is
applied early instead, after the old pages were saved. The digest reads all of it once more.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools import show, time_rounds

from replicator.limits import BATCH_PAGES_MAX
from replicator.memory import GuestLayout
from replicator.store import ReplicaStore
from replicator.units import PAGE_SIZE
from replicator.wire import recording
from replicator.wire.epoch_digest import EpochDigest, digest_page_data
from replicator.wire.layout import LibxcType

RAM_PAGES = 65_536
#: What a record of pages begins with.
_PAGE_DATA = LibxcType.PAGE_DATA.to_bytes(4, "little")
EPOCH_PAGES = (160, 4096)
DEVICE_STATE = bytes(40_000)
#: Staging that no epoch of EPOCH_PAGES[1] fits.
SMALL_STAGING = 4 << 20
LARGE_STAGING = 64 << 20


def make_parts(pfns: array[int], *, is_first: bool = False) -> list[bytes]:
    parts = [recording.session_prologue()] if is_first else []
    for first in range(0, len(pfns), BATCH_PAGES_MAX):
        batch = pfns[first : first + BATCH_PAGES_MAX]
        parts.append(recording.page_data_header(batch) + random.randbytes(len(batch) * PAGE_SIZE))
    return [*parts, recording.checkpoint_epilogue(DEVICE_STATE)]


def digest_parts(parts: list[bytes]) -> bytes:
    """Of an epoch of these parts."""
    digest = EpochDigest()
    for part in parts:
        if part.startswith(_PAGE_DATA):
            _, pages_at = recording.parse_page_data_header(part, RAM_PAGES)
            digest.add_page_data(digest_page_data(part[:pages_at], memoryview(part)[pages_at:]))
        else:
            digest.add(part)
    return digest.digest()


class Secondary:
    """A store that holds epoch 1."""

    def __init__(self, directory: Path, staging_bytes: int) -> None:
        self._store = ReplicaStore(
            directory, RAM_PAGES * PAGE_SIZE, GuestLayout.flat(RAM_PAGES), staging_bytes
        )
        self._store.recover()
        self._epoch = 0
        first = make_parts(array("Q", range(RAM_PAGES)), is_first=True)
        self.take(first, digest_parts(first))

    def take(self, parts: list[bytes], digest: bytes) -> None:
        self._epoch += 1
        self._store.begin(1, self._epoch)
        for index, part in enumerate(parts):
            self._store.add_part(index, memoryview(part))
        self._store.finish(len(parts), sum(map(len, parts)), digest)

    def close(self) -> None:
        self._store.close()


def measure(directory: Path, rounds: int) -> None:
    redo = Secondary(directory / "redo", LARGE_STAGING)
    undo = Secondary(directory / "undo", SMALL_STAGING)
    for pages in EPOCH_PAGES:
        pfns = array("Q", sorted(random.sample(range(RAM_PAGES), pages)))
        parts = make_parts(pfns)
        size = sum(map(len, parts))
        source, target = b"".join(parts), bytearray(size)
        digest = digest_parts(parts)

        def copy(source: bytes = source, target: bytearray = target) -> None:
            target[:] = source

        steps: dict[str, Callable[[], object]] = {
            "plain copy": copy,
            "digest (xxh3-128)": partial(digest_parts, parts),
            "commit, staged": partial(redo.take, parts, digest),
        }
        if size > SMALL_STAGING:
            steps["commit, applied early"] = partial(undo.take, parts, digest)
        show(f"epoch of {pages} pages, {size >> 10} KiB", time_rounds(steps, rounds), size)
    redo.close()
    undo.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the replicas lie")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        measure(folder, options.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

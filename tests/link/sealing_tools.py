"""What the tests of sealing share: keys of a greeting, and both ends of it."""

from __future__ import annotations

from link_tools import ANSWER, HELLO

from replicator.link.sealing import BulkKeys, Opener, Sealer, derive_keys

KEYS = derive_keys(HELLO, ANSWER.share)


def make_sealer(keys: BulkKeys = KEYS, **limits: int) -> Sealer:
    return Sealer(keys, lambda size: memoryview(bytearray(size)), **limits)


def make_opener(*keys: BulkKeys) -> Opener:
    opener = Opener()
    for one in keys or (KEYS,):
        opener.renew(one)
    return opener

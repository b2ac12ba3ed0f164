"""The toolstack chunk: regions of guest memory that the device model had moved (its "physmap").

libxl put them into xenstore, where the device model of the target looked them up; today they travel as the keys
and values themselves.
"""

from __future__ import annotations

from replicator.wire import layout
from replicator.wire.layout import LibxlType
from replicator.wire.libxl import check_length
from replicator.wire.records import Place

#: Keys and values of EMULATOR_XENSTORE_DATA.
XenstoreEntries = tuple[tuple[bytes, bytes], ...]


def parse_toolstack(blob: bytes, bits: int, place: Place) -> XenstoreEntries:
    """The keys that the blob stands for, three a region; raises BadRecord, and RecordTooLarge when one record
    does not take them. `bits` are those of the sender's word. What follows the last region means nothing."""
    at = layout.LEGACY_TOOLSTACK.size
    if len(blob) < at:
        raise place.bad(f"{len(blob)} bytes, at least {at} are needed")
    version, count = layout.LEGACY_TOOLSTACK.unpack_from(blob)
    if version != layout.LEGACY_TOOLSTACK_VERSION:
        raise place.bad(f"version {version} instead of {layout.LEGACY_TOOLSTACK_VERSION}")
    entries: list[tuple[bytes, bytes]] = []
    for index in range(count):
        fields_end = at + layout.LEGACY_REGION.size
        if fields_end > len(blob):
            raise place.bad(f"region {index} of {count} is cut off")
        physical, start, size, name_bytes = layout.LEGACY_REGION.unpack_from(blob, at)
        at = fields_end + name_bytes + layout.LEGACY_REGION_JUNK_BYTES[bits]
        if at > len(blob):
            raise place.bad(f"name of {name_bytes} bytes in region {index} is cut off")
        name = _parse_name(blob[fields_end : fields_end + name_bytes], index, place)
        key = b"physmap/%x/" % physical
        entries += [
            (key + b"start_addr", b"%x" % start),
            (key + b"size", b"%x" % size),
            (key + b"name", name),
        ]
    _check_size(entries, place)
    return tuple(entries)


def _parse_name(name: bytes, index: int, place: Place) -> bytes:
    """A name without its NUL. A sender whose region has none writes not even that."""
    if name and name[-1]:
        raise place.bad(f"name of region {index} does not end with NUL")
    return name.partition(b"\0")[0]


def _check_size(entries: list[tuple[bytes, bytes]], place: Place) -> None:
    size = sum(len(key) + len(value) + 2 for key, value in entries)
    check_length(LibxlType.EMULATOR_XENSTORE_DATA, layout.EMULATOR.size + size, place)

"""Whether two descriptions are of one guest: asked at hello, and of a running guest that is to be attached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replicator.guests.base import GuestIdentity
from replicator.memory.pages import Segment
from replicator.wire.session import GuestRecord

#: Of a fingerprint, as much as tells two contents apart in a message.
_SHOWN_CHARS = 19


def find_differences(ours: GuestIdentity, theirs: GuestIdentity, *, whose: str) -> str:
    """In which respects `theirs`, the guest of `whose`, is not the guest described here; "" when it is the same."""
    fields = (
        ("name", ours.name, theirs.name),
        ("UUID", ours.uuid, theirs.uuid),
        ("RAM size", ours.ram_bytes, theirs.ram_bytes),
        ("RAM layout", _show_layout(ours), _show_layout(theirs)),
        ("machine", ours.machine, theirs.machine),
        ("MAC addresses", ", ".join(ours.macs) or "none", ", ".join(theirs.macs) or "none"),
    )
    found = [
        f"{what} of {whose} is {other}, here it is {mine}" for what, mine, other in fields if mine != other
    ]
    return "; ".join([*found, *_compare_contents(ours.disks, theirs.disks, whose)])


def _show_layout(identity: GuestIdentity) -> str:
    return " ".join(f"{s.first_pfn:#x}+{s.pages:#x}@{s.file_page:#x}" for s in identity.layout)


def _compare_contents(
    ours: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]], whose: str
) -> Iterable[str]:
    """Disks, firmware, kernel and initrd: equal by what is in them, wherever they lie."""
    mine, other = dict(ours), dict(theirs)
    for name in dict.fromkeys((*mine, *other)):
        if name not in mine:
            yield f"{whose} has a {name}, which is not here"
        elif name not in other:
            yield f"{whose} has no {name}, here there is one"
        elif mine[name] != other[name]:
            yield (
                f"content of {name} of {whose} is {other[name][:_SHOWN_CHARS]}..., "
                f"here it is {mine[name][:_SHOWN_CHARS]}...; copy the file from one host to the other"
            )


def record_of(identity: GuestIdentity) -> GuestRecord:
    """The identity as it travels in a hello."""
    return GuestRecord(
        identity.name,
        identity.uuid,
        identity.ram_bytes,
        tuple((s.first_pfn, s.file_page, s.pages) for s in identity.layout),
        identity.machine,
        identity.disks,
        identity.macs,
    )


def identity_in(record: GuestRecord) -> GuestIdentity:
    """The identity that came in a hello."""
    return GuestIdentity(
        record.name,
        record.uuid,
        record.ram_bytes,
        tuple(Segment(*row) for row in record.layout),
        record.machine,
        tuple((name, fingerprint) for name, fingerprint in record.disks),
        tuple(record.macs),
    )

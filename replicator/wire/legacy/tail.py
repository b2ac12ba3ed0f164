"""What follows the body: the vcpus and registers of the guest at the moment that the body's pages are of.

    HVM   pfns of ioreq, bufioreq and store, length of the context, context
    PV    u32 number and words of the pfns without a frame, which a receiver has no use for;
          for each vcpu that is online: context, [extended context], [xsave header and area]; shared info

Of a PV guest the extended info has said which parts there are, and how large an xsave area is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replicator.limits import LEGACY_UNMAPPED_MAX
from replicator.wire import layout
from replicator.wire.layout import LibxcType
from replicator.wire.legacy.header import LegacyGuest, PvShape
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.libxc import check_length
from replicator.wire.records import (
    HvmContext,
    HvmParam,
    HvmParams,
    Place,
    SharedInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuXsave,
)


def read_hvm_tail(source: Source, body_params: Mapping[int, int]) -> Steps[None]:
    """Yields the parameters, those of the body first, and the context."""
    place = source.begin("legacy tail")
    *pfns, length = yield from source.unpack(layout.LEGACY_HVM_TAIL)
    check_length(LibxcType.HVM_CONTEXT, length, place)
    context = bytes((yield from source.take(length)))
    params = {**body_params, **dict(zip(layout.LEGACY_TAIL_PARAMS, pfns, strict=True))}
    yield HvmParams(tuple(map(HvmParam._make, params.items())))
    yield HvmContext(context)


def read_pv_tail(source: Source, guest: LegacyGuest, pv: PvShape, vcpus: Sequence[int]) -> Steps[None]:
    """Yields the state of each of these vcpus, and the shared info."""
    place = source.begin("legacy tail")
    (unmapped,) = yield from source.unpack(layout.LEGACY_LENGTH)
    if unmapped > LEGACY_UNMAPPED_MAX:
        raise place.too_large(f"{unmapped} unmapped pfns, at most {LEGACY_UNMAPPED_MAX} are allowed")
    yield from source.skip(unmapped * layout.LEGACY_WORD[guest.bits].size)
    for vcpu_id in vcpus:
        yield from _read_vcpu(source, pv, vcpu_id)
    source.begin("legacy shared info")
    page = yield from source.take(layout.SHARED_INFO_BYTES)
    yield SharedInfo(bytes(page))


def _read_vcpu(source: Source, pv: PvShape, vcpu_id: int) -> Steps[None]:
    place = source.begin(f"legacy vcpu {vcpu_id}")
    context = yield from source.take(layout.VCPU_CONTEXT_BYTES[pv.info.guest_width])
    yield VcpuBasic(vcpu_id, bytes(context))
    if pv.has_extended:
        extended = yield from source.take(layout.LEGACY_VCPU_EXTENDED_BYTES)
        yield VcpuExtended(vcpu_id, bytes(extended))
    if pv.xsave_bytes is not None:
        yield from _read_xsave(source, pv.xsave_bytes, vcpu_id, place)


def _read_xsave(source: Source, expected: int, vcpu_id: int, place: Place) -> Steps[None]:
    _, size = yield from source.unpack(layout.LEGACY_XSAVE_HEADER)
    if size != expected:
        raise place.bad(f"xsave area of {size} bytes instead of {expected}")
    area = yield from source.take(size)
    if size:
        yield VcpuXsave(vcpu_id, bytes(area))

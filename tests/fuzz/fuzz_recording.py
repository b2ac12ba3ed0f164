"""The header of a PAGE_DATA record of ours, parsed off the link: what is taken is written as the same bytes."""

from __future__ import annotations

import harness
from harness import expect
from mutations import mutate_stream

from replicator.errors import WireError
from replicator.wire import recording


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    ram_pages = fuzzed.choose((1, 8, 0x100001, 1 << 28))
    try:
        pfns, end = recording.parse_page_data_header(fuzzed.stream, ram_pages)
    except WireError as error:
        harness.judge_error(error, len(fuzzed.stream))
        return
    expect(end == recording.page_data_header_bytes(len(pfns)), f"end {end} for {len(pfns)} pages")
    expect(max(pfns) < ram_pages, "a frame beyond the guest")
    written = bytearray(fuzzed.stream[:end])
    written[12:16] = bytes(4)  # reserved
    expect(recording.page_data_header(pfns) == written, "written as other bytes")


if __name__ == "__main__":
    harness.run(check, mutate_stream)

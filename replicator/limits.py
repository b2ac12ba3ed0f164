"""Every bound of the product, in one place, with the relations between them asserted."""

from replicator.units import PAGE_SIZE

#: libxc stream, REC_LENGTH_MAX: largest body of one record.
RECORD_BYTES_MAX = 128 << 20
#: libxl has no cap of its own; its blobs (device state, xenstore data) get this one.
LIBXL_RECORD_BYTES_MAX = 64 << 20
#: Optional data of an xl header: the guest's configuration, in reality some kilobytes.
XL_OPTIONAL_BYTES_MAX = 4 << 20
#: Registers, clocks and devices of one guest together, when a stream's state is held to be written again.
GUEST_STATE_BYTES_MAX = 256 << 20
#: Entries of page batches whose compressed pages are awaited, in a legacy Remus stream: 4 GiB of guest.
LEGACY_PENDING_ENTRIES_MAX = 1 << 20
#: Unmapped pfns that the tail of a legacy stream may list; the receiver's own bound.
LEGACY_UNMAPPED_MAX = 1 << 28
#: Pages in one PAGE_DATA record that we write; one record is one link part.
BATCH_PAGES_MAX = 512
#: The same where many follow one another and nobody waits for the first: each part costs both sides some fixed time.
BULK_BATCH_PAGES_MAX = 1_000
#: Largest payload of one link message (a part, a device state cut in pieces).
PART_BYTES_MAX = 4 << 20
#: Largest msgpack header or control message.
MESSAGE_BYTES_MAX = 64 << 10
#: Epochs sent and not yet acknowledged.
EPOCHS_IN_FLIGHT_MAX = 4
#: Staging of one side unless configured otherwise.
STAGING_BYTES_DEFAULT = 64 << 20
#: Frames one side holds back or logs before it closes the epoch early or drops inputs.
HOLD_BYTES_MAX = 32 << 20
INPUT_LOG_BYTES_MAX = 16 << 20
#: Largest Ethernet frame that crosses the relay.
FRAME_BYTES_MAX = 65_536
#: Frames in one message between the relays of a COLO pair (a larger frame goes alone), and the whole message.
FRAMES_BATCH_BYTES_MAX = 64 << 10
FRAMES_MESSAGE_BYTES_MAX = 96 << 10
#: What a relay keeps for the other one beyond what the kernel takes; one that is further behind is given up.
FRAMES_UNSENT_BYTES_MAX = 16 << 20
#: Comparison of outputs: connections, bytes not compared yet of one side of one connection (a scaled TCP window) and
#: of everything, pieces out of order, datagrams that wait, bytes a comparer is asked about at once.
COMPARE_CONNECTIONS_MAX = 4096
COMPARE_SIDE_BYTES_MAX = 4 << 20
COMPARE_BYTES_MAX = 32 << 20
COMPARE_ISLANDS_MAX = 256
COMPARE_DATAGRAMS_MAX = 1024
COMPARE_CALL_BYTES_MAX = 64 << 10
#: Highest pfn any header may name: 52-bit fields, but a guest has at most 1 TiB.
PFN_MAX = (1 << 40) // PAGE_SIZE

if not (8 + BULK_BATCH_PAGES_MAX * (8 + PAGE_SIZE) + 8 <= PART_BYTES_MAX <= RECORD_BYTES_MAX):
    raise AssertionError("one full batch must fit one part, and one part one record")

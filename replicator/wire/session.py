"""Our own messages between the two daemons: msgpack maps, one kind a frozen dataclass.

A message is one map: "kind" names the dataclass, every other key is one of its fields, all of them and no more.
Both directions check the same bounds: `encode` raises LocalWireError, `decode` RemoteWireError, each naming the
message and the field. Any bytes given to `decode` give a message or a RemoteWireError, nothing else.

A bulk message is a header (one of these) and a payload; so is InputFrames on the control channel. `payload_bytes`
says how long the payload must be. `channel_of` says where a kind may travel: whatever arrives elsewhere is refused.

HelloReply never changes its form, and of a Hello only `kind` and `protocol_version` are read before the rest is
trusted: so two versions can tell each other that they do not match (OtherVersion). This file does not know what
carries the messages nor what they lead to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Final, get_args

import msgpack

from replicator.errors import LocalWireError, RemoteWireError
from replicator.frozen import frozen
from replicator.limits import (
    EPOCHS_IN_FLIGHT_MAX,
    FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PART_BYTES_MAX,
    PFN_MAX,
)
from replicator.units import PAGE_SIZE
from replicator.wire.back_channel import PIECE_BYTES_MAX
from replicator.wire.coded_part import BLOCKS, PAGES, PLAIN
from replicator.wire.fields import (
    Unfit,
    brief,
    build,
    checked_map,
    flag,
    integer,
    map_once,
    nested,
    octets,
    one_of,
    prose,
    row,
    sequence,
    text,
)

PROTOCOL_VERSION: Final = 4

NODE_CHARS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 1024
SEGMENTS_MAX: Final = 64
DISKS_MAX: Final = 64
NICS_MAX: Final = 32
#: Frames in one InputFrames; 5 bytes a length at most, so the header stays below MESSAGE_BYTES_MAX.
FRAMES_MAX: Final = 4096
#: Payload of one InputFrames; small, because control messages wait behind it.
INPUT_BATCH_BYTES_MAX: Final = 256 << 10
SHARE_BYTES: Final = 32
INT_MAX: Final = (1 << 63) - 1


class Channel(Enum):
    """Where a message travels. The channels have no order among each other."""

    BULK = "bulk"
    CONTROL = "control"
    HEARTBEAT = "heartbeat"


class OtherVersion(RemoteWireError):
    """The peer speaks another version of this protocol. `peer_version` is the one it named."""

    def __init__(self, peer_version: int) -> None:
        super().__init__(
            f"the peer speaks protocol version {peer_version}, this side {PROTOCOL_VERSION}",
            record="hello",
            hint="install the same release of replicator on both hosts",
        )
        self.peer_version = peer_version


_COUNT = integer(0, INT_MAX)
_POSITIVE = integer(1, INT_MAX)
_SLUG = r"[a-z][a-z0-9-]{0,39}"

Count = Annotated[int, _COUNT]
Positive = Annotated[int, _POSITIVE]
Flag = Annotated[bool, flag]
#: Printable, so that it can go to logs and terminals as it is.
Node = Annotated[str, text(NODE_CHARS_MAX, r"[A-Za-z0-9][A-Za-z0-9._-]*")]
#: For people: errors and reasons.
Prose = Annotated[str, prose(TEXT_CHARS_MAX)]
#: A reason that machines compare; new ones may come without a new protocol version.
Code = Annotated[str, text(40, _SLUG)]
OptionalCode = Annotated[str, text(40, rf"({_SLUG})?")]
#: Random, drawn by the primary for each connection: what an older one left on the way is recognised and dropped.
SessionId = Annotated[bytes, octets(16)]
#: Of an epoch: wire/epoch_digest.py.
Digest = Annotated[bytes, octets(16)]
#: One side's half of the secret that bulk messages are sealed with (link/sealing.py): drawn for one greeting alone.
Share = Annotated[bytes, octets(SHARE_BYTES)]
PartBytes = Annotated[int, integer(1, PART_BYTES_MAX)]

NO_SESSION: Final = bytes(16)
NO_DIGEST: Final = bytes(16)
#: Of a hello over a link without keys.
NO_SHARE: Final = bytes(SHARE_BYTES)


class Refusal:
    """Codes of HelloReply.refusal."""

    WRONG_GUEST: Final = "wrong-guest"
    WRONG_VERSION: Final = "wrong-version"
    STALE_TERM: Final = "stale-term"
    HAS_REPLICA: Final = "has-replica"
    NOT_SECONDARY: Final = "not-secondary"


@frozen
class GuestRecord:
    """The guest's identity as it travels in Hello; same fields as the identity that guest adapters report."""

    name: Annotated[str, text(255)]
    uuid: Annotated[str, text(64, r"[0-9a-fA-F-]*")]
    ram_bytes: Annotated[int, integer(PAGE_SIZE, PFN_MAX * PAGE_SIZE)]
    #: (first_pfn, file_page, pages), ascending.
    layout: Annotated[
        tuple[tuple[int, int, int], ...],
        sequence(row(integer(0, PFN_MAX), integer(0, PFN_MAX), integer(1, PFN_MAX)), SEGMENTS_MAX),
    ]
    machine: Annotated[str, text(TEXT_CHARS_MAX)]
    #: (name, fingerprint of the content) of each read-only disk.
    disks: Annotated[tuple[tuple[str, str], ...], sequence(row(text(255), text(255)), DISKS_MAX)] = ()
    macs: Annotated[tuple[str, ...], sequence(text(17, r"([0-9a-f]{2}:){5}[0-9a-f]{2}"), NICS_MAX)] = ()


@frozen
class Hello:
    """Primary -> secondary: first message of a connection. Asks where the replica stands."""

    protocol_version: Positive
    node: Node
    guest: Annotated[GuestRecord, nested(GuestRecord)]
    term: Count
    #: New with each hello; all that follows carries it.
    session: SessionId
    epochs_in_flight: Annotated[int, integer(1, EPOCHS_IN_FLIGHT_MAX)]
    #: The operator agreed that a promotable replica of an earlier term is lost.
    may_discard: Flag = False
    share: Share = NO_SHARE
    #: COLO: names the channel of the guests' frames (wire/frames.py); NO_SESSION in Remus.
    frames: SessionId = NO_SESSION


@frozen
class KeyShare:
    """Secondary -> primary, with keys: what follows is sealed with the two shares. Comes before the HelloReply that accepts."""

    #: The hello's share: an answer to an older hello is none to this one.
    answers: Share
    share: Share


@frozen
class HelloReply:
    """Secondary -> primary. When accepted: its newest committed epoch and of which session and term that is."""

    node: Node
    accepted: Flag
    #: A code of `Refusal` exactly when not accepted.
    refusal: OptionalCode
    detail: Prose
    term: Count
    #: Session of the committed epoch; NO_SESSION when there is none.
    session: SessionId
    #: 0 when the replica is empty or must not be trusted.
    committed_epoch: Count
    digest: Digest

    def problem(self) -> str:
        if self.accepted == bool(self.refusal):
            return f"accepted={self.accepted} with refusal {self.refusal!r}"
        return ""


@frozen
class EpochBegin:
    """Opens an epoch. Parts follow on the same channel, then EpochEnd; another EpochBegin gives the open one up."""

    session: SessionId
    term: Count
    epoch: Positive
    #: The committed epoch that this one builds upon; 0 when it carries all RAM and starts a synchronisation.
    base: Count
    #: COLO: the secondary's VM runs on from this epoch once it is committed.
    runs_vm: Flag = False


@frozen
class EpochPart:
    """Header of one payload. Indexes count from 0 in each epoch."""

    session: SessionId
    epoch: Positive
    index: Count
    payload_bytes: PartBytes
    #: How the part travels: wire/coded_part.py.
    encoding: Annotated[str, one_of(PLAIN, BLOCKS, PAGES)] = PLAIN
    #: Of one that is not plain: its length and what it hashes to once it is rebuilt, a record of pages as in
    #: wire/epoch_digest.py, others as they are (xxh3_128).
    part_bytes: Annotated[int, integer(0, PART_BYTES_MAX)] = 0
    check: Annotated[bytes, octets(16)] = bytes(16)

    def problem(self) -> str:
        if (self.encoding == PLAIN) != (self.part_bytes == 0):
            return f"a {self.encoding} part that is rebuilt to {self.part_bytes} bytes"
        return ""


@frozen
class EpochEnd:
    """The epoch is whole: commit it if count, bytes and digest agree."""

    session: SessionId
    epoch: Positive
    parts: Positive
    payload_bytes: Positive
    digest: Digest
    #: Last input frame that the checkpoint contains; 0 when none came yet.
    input_seq: Count


@frozen
class Ack:
    """Secondary -> primary: the epoch is committed and on stable ground. Sent after the commit, never before."""

    session: SessionId
    epoch: Positive
    digest: Digest


@frozen
class Abort:
    """Secondary -> primary: the epoch could not be committed; the replica stands at the epoch before."""

    session: SessionId
    epoch: Count
    code: Code
    detail: Prose


@frozen
class InputFrames:
    """Primary -> secondary: frames on their way to the guest. The payload is the frames joined in order."""

    session: SessionId
    #: Number of the first frame; the others count on. 1 is the first of a session.
    first_seq: Positive
    lengths: Annotated[tuple[int, ...], sequence(integer(1, FRAME_BYTES_MAX), FRAMES_MAX)]

    def problem(self) -> str:
        if not 0 < sum(self.lengths) <= INPUT_BATCH_BYTES_MAX:
            return f"{sum(self.lengths)} bytes of frames are not in 1..{INPUT_BATCH_BYTES_MAX}"
        return ""


@frozen
class CheckpointNew:
    """Primary -> secondary, in COLO: CHECKPOINT_STATE NEW. Suspend your VM and say what it has written."""

    session: SessionId
    epoch: Positive


@frozen
class CheckpointWord:
    """Secondary -> primary, in COLO: a word about the checkpoint that `epoch` is or was. The payload is records of the
    back channel: wire/back_channel.py."""

    session: SessionId
    epoch: Positive
    record_bytes: Annotated[int, integer(1, PIECE_BYTES_MAX)]
    #: Of the records: `back_channel.check_of`.
    check: Digest
    #: Another piece of the same word follows.
    more: Flag = False


@frozen
class StandDown:
    """Primary -> secondary: the pair ends here; never promote."""

    term: Count
    reason: Prose


@frozen
class HandOver:
    """Primary -> secondary: the guest stands still here for good, go on with it. `epoch` must be the committed one."""

    session: SessionId
    term: Positive
    epoch: Positive


@frozen
class HandOverReply:
    """Secondary -> primary: the guest runs here now (`taken`), or it does not and will not unless asked again."""

    session: SessionId
    epoch: Positive
    taken: Flag
    #: Why not, "" when taken.
    detail: Prose
    #: The secondary's term, which is a new one when it has taken the guest.
    term: Count


@frozen
class Heartbeat:
    """Both ways, by a thread of its own: that the host lives, and how its epoch loop fares."""

    node: Node
    role: Annotated[str, text(40, _SLUG)]
    term: Count
    #: Grows by one a beat since the thread started.
    seq: Positive
    #: Newest epoch committed (secondary) or acknowledged (primary).
    epoch: Count
    #: Since the epoch loop last took a step.
    progress_age_ns: Count
    #: Age of the oldest frame held back; 0 when none is.
    held_ns: Count
    #: Length of the newest pause; 0 of a secondary.
    pause_ns: Count = 0
    #: How far the guest's wall clock is behind its host's; 0 of a secondary.
    behind_ns: Count = 0


Message = (
    Hello
    | KeyShare
    | HelloReply
    | EpochBegin
    | EpochPart
    | EpochEnd
    | Ack
    | Abort
    | InputFrames
    | CheckpointNew
    | CheckpointWord
    | StandDown
    | HandOver
    | HandOverReply
    | Heartbeat
)

_CLASSES: Final[tuple[type[Any], ...]] = get_args(Message)


def _kind_name(cls: type[Any]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


_KIND_OF: Final = {cls: _kind_name(cls) for cls in _CLASSES}
_CLASS_OF: Final = {kind: cls for cls, kind in _KIND_OF.items()}
_CHANNEL_OF: Final = {
    **dict.fromkeys(_CLASSES, Channel.CONTROL),
    **dict.fromkeys((EpochBegin, EpochPart, EpochEnd), Channel.BULK),
    Heartbeat: Channel.HEARTBEAT,
}
#: Of the kinds that have a payload.
_PAYLOAD_BYTES_OF: Final[dict[type[Any], Callable[[Any], int]]] = {
    EpochPart: lambda message: message.payload_bytes,
    InputFrames: lambda message: sum(message.lengths),
    CheckpointWord: lambda message: message.record_bytes,
}


def kind_of(message: Message) -> str:
    """The name that the message has on the wire and in logs, e.g. "epoch-part"."""
    return _KIND_OF[type(message)]


def channel_of(message: Message) -> Channel:
    """The only channel on which this kind may travel."""
    return _CHANNEL_OF[type(message)]


def payload_bytes(message: Message) -> int | None:
    """Size of the payload that must come with the message; None when there must be none."""
    measure = _PAYLOAD_BYTES_OF.get(type(message))
    return None if measure is None else measure(message)


def check_payload(message: Message, size: int | None) -> None:
    """Raise RemoteWireError unless a payload of `size` bytes (None: no payload) belongs to the message."""
    wanted = payload_bytes(message)
    if wanted != size:
        raise RemoteWireError(
            f"payload of {_say_size(size)} where {_say_size(wanted)} must come", record=kind_of(message)
        )


def split_frames(message: InputFrames, payload: memoryview) -> list[memoryview]:
    """The frames of a payload that `check_payload` accepted, in order, pointing into it."""
    frames = []
    start = 0
    for length in message.lengths:
        frames.append(payload[start : start + length])
        start += length
    return frames


def encode(message: Message) -> bytes:
    """The message's bytes. LocalWireError when a field is out of its range or the whole too large."""
    kind = _KIND_OF[type(message)]
    try:
        data: bytes = msgpack.packb({"kind": kind, **checked_map(message)}, use_bin_type=True)
    except Unfit as unfit:
        raise LocalWireError(str(unfit), record=kind) from unfit
    if len(data) > MESSAGE_BYTES_MAX:
        raise LocalWireError(f"{len(data)} bytes are more than {MESSAGE_BYTES_MAX}", record=kind)
    return data


def decode(data: bytes | memoryview, channel: Channel | None = None) -> Message:
    """The message in `data`. RemoteWireError for anything else, also for a kind that is foreign to `channel`."""
    found = _unpack(data)
    name = found.pop("kind", None)
    cls = _CLASS_OF.get(name) if isinstance(name, str) else None
    if cls is None:
        raise RemoteWireError(f"unknown kind of message {brief(name)}")
    if cls is Hello:
        _check_version(found.get("protocol_version"))
    try:
        message: Message = build(cls, found)
    except Unfit as unfit:
        raise RemoteWireError(str(unfit), record=_KIND_OF[cls]) from unfit
    if channel is not None and _CHANNEL_OF[cls] is not channel:
        raise RemoteWireError(f"does not belong on the {channel.value} channel", record=_KIND_OF[cls])
    return message


def _check_version(version: object) -> None:
    if type(version) is int and version != PROTOCOL_VERSION:
        raise OtherVersion(version)


def _unpack(data: bytes | memoryview) -> dict[str, object]:
    if len(data) > MESSAGE_BYTES_MAX:
        raise RemoteWireError(f"message of {len(data)} bytes is larger than {MESSAGE_BYTES_MAX}")
    try:
        found = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=map_once)
    except (ValueError, msgpack.UnpackException, msgpack.StackError) as error:
        raise RemoteWireError(
            f"not a msgpack message: {brief(str(error) or type(error).__name__)}"
        ) from error
    except Unfit as unfit:
        raise RemoteWireError(str(unfit)) from unfit
    if not isinstance(found, dict):
        raise RemoteWireError(f"a message must be a map, not {type(found).__name__}")
    return found


def _say_size(size: int | None) -> str:
    return "no bytes" if size is None else f"{size} bytes"

"""What the relays of a COLO pair say to each other: frames, and what is known of them.

    primary -> secondary    open-frames, input-batch, shift-told, lasting-shifts
    secondary -> primary    frames-open, output-batch, inputs-logged, shifts-known

A message travels in an envelope: one msgpack array of its kind, the session of its channel, its number and its fields
in their order. An array and not a map, as elsewhere, because every frame comes by here four times.
Numbers count from 1 in each direction, so that what was lost, repeated or changed places is noticed (`FrameNumbers`).
What carries another session was under way when a channel ended, and is nobody's.

Both directions check the same bounds: `encode` raises LocalWireError, `decode` RemoteWireError. Any bytes given to
`decode` give an envelope or a RemoteWireError, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, get_args

import msgpack

from replicator.errors import InvariantError, LocalWireError, RemoteWireError
from replicator.frozen import frozen
from replicator.limits import FRAME_BYTES_MAX, FRAMES_BATCH_BYTES_MAX, FRAMES_MESSAGE_BYTES_MAX
from replicator.wire.fields import (
    Unfit,
    brief,
    checks_of,
    flag,
    integer,
    octets,
    row,
    sequence,
)

INT_MAX: Final = (1 << 63) - 1
NICS_MAX: Final = 32
#: Frames in one batch.
BATCH_FRAMES_MAX: Final = 256
#: Shifts in one message; there may be several.
SHIFTS_MAX: Final = 1024
#: A connection's key: NIC, VLANs, protocol, two IPv6 addresses and ports.
KEY_BYTES_MAX: Final = 64

_COUNT = integer(0, INT_MAX)
_POSITIVE = integer(1, INT_MAX)
_WORD = integer(0, (1 << 32) - 1)


def _blob(size_max: int) -> Callable[[object], object]:
    """1 to `size_max` bytes."""

    def check(value: object) -> bytes:
        if type(value) is not bytes:
            raise Unfit(f"must be bytes, not {type(value).__name__}")
        if not 0 < len(value) <= size_max:
            raise Unfit(f"{len(value)} bytes are not in 1..{size_max}")
        return value

    return check


def _check_rows(value: object) -> tuple[tuple[int, bytes], ...]:
    """(NIC, frame) each. As `sequence` of `row`, at a fifth of the time."""
    if type(value) is not tuple:
        raise Unfit(f"must be an array, not {type(value).__name__}")
    if len(value) > BATCH_FRAMES_MAX:
        raise Unfit(f"{len(value)} items are more than {BATCH_FRAMES_MAX}")
    for one in value:
        if not isinstance(one, tuple) or len(one) != 2:
            raise Unfit("must be an array of 2")
        nic, data = one
        if type(nic) is not int or not 0 <= nic < NICS_MAX:
            raise Unfit(f"{brief(nic)} is no NIC")
        if type(data) is not bytes or not 0 < len(data) <= FRAME_BYTES_MAX:
            raise Unfit(f"a frame of 1..{FRAME_BYTES_MAX} bytes must be there")
    return value


Count = Annotated[int, _COUNT]
Positive = Annotated[int, _POSITIVE]
Word = Annotated[int, _WORD]
Key = Annotated[bytes, _blob(KEY_BYTES_MAX)]
#: (NIC, frame), in order.
FrameRows = Annotated[tuple[tuple[int, bytes], ...], _check_rows]


def _batch_problem(frames: Sequence[tuple[int, bytes]]) -> str:
    if len(frames) == 1:
        return ""
    if not frames:
        return "a batch of no frames"
    size = sum(len(data) for _, data in frames)
    return (
        f"{size} bytes of frames are more than {FRAMES_BATCH_BYTES_MAX}"
        if size > FRAMES_BATCH_BYTES_MAX
        else ""
    )


@frozen
class OpenFrames:
    """Primary -> secondary: the first message of a channel."""


@frozen
class FramesOpen:
    """Secondary -> primary: the answer to it, and the first message of this direction."""


@frozen
class InputBatch:
    """Frames for both guests, in the numbers of the primary's guest, before they are given."""

    #: Of the first frame; the others count on.
    first_seq: Positive
    frames: FrameRows

    def problem(self) -> str:
        return _batch_problem(self.frames)


@frozen
class ShiftTold:
    """Of a connection that both guests opened in `epoch`."""

    epoch: Positive
    #: Its number among all shifts that were ever told.
    shift: Positive
    key: Key
    seq: Word
    ts: Word


@frozen
class LastingShifts:
    """Of the connections that a take-over before has left, between the world and the primary's guest: rows of key, seq
    and ts. They take the place of all that were told, if this `begins`, and are added to them otherwise."""

    begins: Annotated[bool, flag]
    shifts: Annotated[
        tuple[tuple[bytes, int, int], ...], sequence(row(_blob(KEY_BYTES_MAX), _WORD, _WORD), SHIFTS_MAX)
    ]


@frozen
class OutputBatch:
    """What the secondary's guest said in its execution after the checkpoint before `epoch`."""

    epoch: Positive
    #: As of `InputsLogged`; 0 says nothing.
    inputs_upto: Count
    frames: FrameRows

    def problem(self) -> str:
        return _batch_problem(self.frames)


@frozen
class InputsLogged:
    """All inputs up to this one are with the secondary."""

    upto: Count


@frozen
class ShiftsKnown:
    upto: Count


FrameMessage = (
    OpenFrames
    | FramesOpen
    | InputBatch
    | ShiftTold
    | LastingShifts
    | OutputBatch
    | InputsLogged
    | ShiftsKnown
)

_CLASSES: Final[tuple[type[Any], ...]] = get_args(FrameMessage)
_KIND_OF: Final = {cls: re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower() for cls in _CLASSES}
_CLASS_OF: Final = {kind: cls for cls, kind in _KIND_OF.items()}
_TO_PRIMARY: Final = frozenset((FramesOpen, OutputBatch, InputsLogged, ShiftsKnown))
_OPENING: Final = frozenset((OpenFrames, FramesOpen))
_check_session = octets(16)
#: Kind, session and number; the fields follow.
_HEAD_FIELDS: Final = 3
#: The checks of each kind's fields, in order, and of all of them together.
_CHECKS: Final = {cls: tuple(checks_of(cls).values()) for cls in _CLASSES}
_NAMES: Final = {cls: tuple(checks_of(cls)) for cls in _CLASSES}
_PROBLEM: Final = {cls: getattr(cls, "problem", None) for cls in _CLASSES}


@frozen
class Envelope:
    session: bytes
    number: int
    message: FrameMessage


def kind_of(message: FrameMessage) -> str:
    """The name that the message has on the wire and in logs, e.g. "input-batch"."""
    return _KIND_OF[type(message)]


def is_for_primary(message: FrameMessage) -> bool:
    """Its only direction."""
    return type(message) in _TO_PRIMARY


def encode(envelope: Envelope) -> bytes:
    """LocalWireError when a field is out of its range."""
    message = envelope.message
    cls = type(message)
    kind = _KIND_OF[cls]
    fields = [getattr(message, name) for name in _NAMES[cls]]
    try:
        head = (kind, _check_session(envelope.session), _POSITIVE(envelope.number))
        _check_all(cls, fields)
        _check_together(cls, message)
    except Unfit as unfit:
        raise LocalWireError(str(unfit), record=kind) from unfit
    data: bytes = msgpack.packb((*head, *fields), use_bin_type=True)
    if len(data) > FRAMES_MESSAGE_BYTES_MAX:
        raise LocalWireError(f"{len(data)} bytes are more than {FRAMES_MESSAGE_BYTES_MAX}", record=kind)
    return data


def decode(data: bytes | memoryview) -> Envelope:
    """RemoteWireError for anything that is no envelope with a message."""
    found = _unpack(data)
    if len(found) < _HEAD_FIELDS:
        raise RemoteWireError(f"a message of {len(found)} fields has no head")
    name, session, number = found[:_HEAD_FIELDS]
    cls = _CLASS_OF.get(name) if isinstance(name, str) else None
    if cls is None:
        raise RemoteWireError(f"unknown kind of message {brief(name)}")
    try:
        _check_session(session)
        _POSITIVE(number)
        fields = found[_HEAD_FIELDS:]
        _check_all(cls, fields)
        message = cls(*fields)
        _check_together(cls, message)
    except Unfit as unfit:
        raise RemoteWireError(str(unfit), record=name) from unfit
    return Envelope(session, number, message)


def batches(frames: Sequence[tuple[int, bytes]]) -> Iterator[tuple[tuple[int, bytes], ...]]:
    """Rows cut to what fits one message each, in order."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for frame in frames:
        if batch and (len(batch) >= BATCH_FRAMES_MAX or size + len(frame[1]) > FRAMES_BATCH_BYTES_MAX):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(frame)
        size += len(frame[1])
    if batch:
        yield tuple(batch)


class FrameNumbers:
    """One end's numbers: stamps what is sent, and checks that nothing is missing in what comes."""

    def __init__(self, session: bytes, *, is_primary: bool) -> None:
        self._session = session
        self._is_primary = is_primary
        self._sent = 0
        self._taken = 0
        #: Messages of another session.
        self.stale = 0

    @property
    def has_taken(self) -> bool:
        return self._taken > 0

    @property
    def session(self) -> bytes:
        return self._session

    @property
    def counts(self) -> tuple[int, int]:
        """How many were sent and taken."""
        return self._sent, self._taken

    def go_on_from(self, sent: int, taken: int) -> None:
        """Others have counted on."""
        self._sent, self._taken = sent, taken

    def wrap(self, message: FrameMessage) -> bytes:
        """The next message to send. It must be sent, or the channel be given up."""
        if is_for_primary(message) is self._is_primary:
            raise LocalWireError("sent in the wrong direction", record=kind_of(message))
        data = encode(Envelope(self._session, self._sent + 1, message))
        self._sent += 1
        return data

    def take(self, data: bytes | memoryview) -> FrameMessage | None:
        """The next message; None for one of another session. RemoteWireError for all that cannot be the next."""
        envelope = decode(data)
        if envelope.session != self._session:
            self.stale += 1
            return None
        message = envelope.message
        if is_for_primary(message) is not self._is_primary:
            raise RemoteWireError("came from the wrong direction", record=kind_of(message))
        if envelope.number != self._taken + 1:
            raise RemoteWireError(
                f"message {envelope.number} came after {self._taken}", record=kind_of(message)
            )
        if (type(message) in _OPENING) is not (envelope.number == 1):
            raise RemoteWireError("a channel is opened once, and first", record=kind_of(message))
        self._taken += 1
        return message


def _check_all(cls: type[Any], fields: Sequence[object]) -> None:
    """Each field of a message of this class. Unfit names the first that is not in order."""
    checks = _CHECKS[cls]
    if len(fields) != len(checks):
        raise Unfit(f"{len(fields)} fields instead of {len(checks)}")
    try:
        for check, one in zip(checks, fields, strict=True):
            check(one)
    except Unfit:
        raise _explain(cls, fields) from None


def _check_together(cls: type[Any], message: Any) -> None:
    find_problem = _PROBLEM[cls]
    if find_problem is not None and (problem := find_problem(message)):
        raise Unfit(problem)


def _explain(cls: type[Any], fields: Sequence[object]) -> Unfit:
    """Which field is not in order. Apart, because nearly all are."""
    for name, check, one in zip(_NAMES[cls], _CHECKS[cls], fields, strict=True):
        try:
            check(one)
        except Unfit as unfit:
            return Unfit(f"field {name}: {unfit}")
    raise InvariantError("fields that were refused are all in order")


def _unpack(data: bytes | memoryview) -> tuple[Any, ...]:
    if len(data) > FRAMES_MESSAGE_BYTES_MAX:
        raise RemoteWireError(f"message of {len(data)} bytes is larger than {FRAMES_MESSAGE_BYTES_MAX}")
    try:
        found = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, msgpack.StackError) as error:
        raise RemoteWireError(
            f"not a msgpack message: {brief(str(error) or type(error).__name__)}"
        ) from error
    if not isinstance(found, tuple):
        raise RemoteWireError(f"a message must be an array, not {type(found).__name__}")
    return found

"""Load a device state into a QEMU that has run already, as often as is wanted.

By QEMU's job `snapshot-load` from an image of ours (qemu_secondary_image.py) in a memory file, which QEMU has open from
the first load on: a load is one write into that file and one exchange with QEMU. QEMU resets all devices and loads
them; RAM is no part of the state, so it must be in place before. A refusal is told by the job alone, never by the
command's answer. No word of this is in QEMU's manual: whether a QEMU does it, `prove` finds out.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

from replicator.errors import GuestError, InvariantError, require
from replicator.guests.qemu_control import FastControl
from replicator.guests.qemu_launch import Machine
from replicator.guests.qemu_qmp import FastChannel, QmpSession, encode_command
from replicator.guests.qemu_secondary_image import SNAPSHOT, StateImage, build_image
from replicator.guests.qemu_state import find_clock_section
from replicator.limits import LIBXL_RECORD_BYTES_MAX

#: How long the event loop is held up for a load, with which nothing else can go on. Once it is given back it has to hear
#: first what QEMU tells the other monitors of the job.
POLL_MS_MAX = 20
#: The number of the fd set with the image; the control's own is one less.
FDSET_ID = 7_703
#: How much longer than the first state the later ones may be: they differ by requests under way, not by devices.
ROOM_FACTOR = 8
ROOM_BYTES_MIN = 1 << 20
#: What `query-status` may say of a guest that can run on.
FIT_STATES = ("paused", "guest-panicked")

#: Short, for QEMU takes its time over each byte of a command.
_NODE = "s"
_JOB = "l"
_LOAD = encode_command(
    "snapshot-load", {"job-id": _JOB, "tag": SNAPSHOT, "vmstate": _NODE, "devices": [_NODE]}
)
_LIST_JOBS = encode_command("query-jobs")
_DISMISS = encode_command("job-dismiss", {"id": _JOB})
_STATUS = encode_command("query-status")
#: Each load has QEMU write to the image's tables. Memory has no disk to be flushed to, and a flush is a trip to another
#: thread.
_UNFLUSHED = {"no-flush": True}
#: How QEMU reads and writes the image, the best way first. A load has six such requests. By io_uring QEMU's own thread
#: does them at once, for the image is memory; by threads each waits for one of a pool, which both guests keep from the
#: processors. A kernel may forbid io_uring, and a QEMU be built without.
_FILE_WAYS = ("io_uring", "threads")


class StateLoader:
    """Loads states into one machine, which is paused and has left the state "inmigrate". `open` comes first."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._channel = _fast_channel(machine)
        self._image: StateImage | None = None
        self._fd = -1
        #: Number of the question what the machine does, since it stands still.
        self._asked: int | None = None
        #: The job of the load before is still there.
        self._is_job_left = False

    async def open(self, state_bytes: int) -> None:
        """Give QEMU the image, with room for states that are not much longer than that. GuestError when it does not
        take it."""
        self._image = build_image(choose_room(state_bytes))
        self._fd = make_image_file(self._image)
        await self._machine.session.pass_fd(self._fd, "add-fd", fdset_id=FDSET_ID)
        await open_image(self._machine.session)

    def prime(self) -> None:
        """The guest stands still, and a load is what is wanted next in general: all that it needs is done before."""
        # Anew: the answer of an earlier pause, without a load, has been thrown away.
        self._asked = self._ask()
        self._channel.prime(_LOAD)

    def _ask(self) -> int:
        if self._is_job_left:
            (dismissed,) = self._channel.send(_DISMISS)
            self._channel.forget(dismissed)
            self._is_job_left = False
        (asked,) = self._channel.send(_STATUS)
        return asked

    async def load(self, device_state: bytes) -> None:
        """Load the state. After a GuestError the guest is good for nothing."""
        if self._image is None:
            raise InvariantError("a state is loaded before the image is there")
        write_state(self._fd, self._image, device_state)
        # Its state of before goes with the guest of before.
        self._machine.control.forget_save()
        asked, self._asked = self._asked, None
        try:
            await self._check_status(self._ask() if asked is None else asked)
            self._is_job_left = True
            await run_load(self._channel)
        except GuestError as error:
            raise await self._machine.process.explain(error, "QEMU ended while it loaded a state") from error

    async def _check_status(self, asked: int) -> None:
        """A load leaves it as it was."""
        status = (await self._channel.answer(asked, poll_ms=POLL_MS_MAX))["status"]
        if status not in FIT_STATES:
            raise GuestError(f"the guest is {status} instead of paused")

    def close(self) -> None:
        """Give the memory back, once the machine is gone or is never loaded again. May be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def open_image(session: QmpSession) -> None:
    """Let QEMU open what is in the fd set."""
    for way in _FILE_WAYS:
        try:
            await session.execute(
                "blockdev-add",
                driver="qcow2",
                node_name=_NODE,
                cache=_UNFLUSHED,
                file={
                    "driver": "file",
                    "filename": f"/dev/fdset/{FDSET_ID}",
                    "locking": "off",
                    "aio": way,
                    "cache": _UNFLUSHED,
                },
            )
            return
        except GuestError:
            if way == _FILE_WAYS[-1]:
                raise


def choose_room(state_bytes: int) -> int:
    """For the states of a machine one of whose states has so many bytes. Each load has QEMU go through all of the
    room's clusters; a state that does not fit is loaded by a new process, with an image of its own."""
    return min(max(ROOM_BYTES_MIN, ROOM_FACTOR * state_bytes), LIBXL_RECORD_BYTES_MAX)


def make_image_file(image: StateImage) -> int:
    """A memory file with the image; the descriptor is the caller's."""
    fd = os.memfd_create("reload-image", os.MFD_CLOEXEC)
    os.ftruncate(fd, image.file_bytes)
    for offset, data in image.parts:
        os.pwrite(fd, data, offset)
    return fd


def write_state(fd: int, image: StateImage, device_state: bytes) -> None:
    """GuestError when there is no room for so much state."""
    if not 0 < len(device_state) <= image.room_bytes:
        raise GuestError(f"cannot load a device state of {len(device_state)} bytes")
    written = os.pwrite(fd, device_state, image.state_offset)
    require(written == len(device_state), "a memory file takes all that is written")


async def run_load(channel: FastChannel) -> None:
    """Run the job to its end. GuestError, in QEMU's words, when it failed. It is there until it is dismissed.

    The end is told by an event, and a failure by another one before it: so there is nothing to ask."""
    channel.keep_events("JOB_STATUS_CHANGE")
    (begun,) = channel.send(_LOAD)
    await channel.answer(begun, poll_ms=POLL_MS_MAX)
    has_failed = False
    while (status := await _next_status(channel)) != "concluded":
        has_failed = has_failed or status == "aborting"
    if has_failed:
        raise GuestError(f"QEMU refuses the device state: {await _ask_why(channel)}")


async def _next_status(channel: FastChannel) -> str:
    while (event := await channel.next_event(poll_ms=POLL_MS_MAX)).get("id") != _JOB:
        pass
    return str(event.get("status"))


async def _ask_why(channel: FastChannel) -> str:
    for job in await channel.execute(_LIST_JOBS):
        if job.get("id") == _JOB:
            return str(job.get("error", "no reason given"))
    raise GuestError("QEMU lost the job that loads the device state")


async def prove(
    before: bytes, load: Callable[[bytes], Awaitable[None]], save: Callable[[], Awaitable[bytes]]
) -> None:
    """Load what a paused guest has saved: what it saves then must be the same. GuestError says what went wrong."""
    await load(before)
    after = await save()
    changed = find_changes(before, after)
    if changed:
        raise GuestError(f"the device state differs after a load, from byte {changed[0]} on")


def find_changes(before: bytes, after: bytes) -> Sequence[int]:
    """Where a state saved after a load differs from the one that was loaded, up to a number.

    The clock of the machine, which tells the host's time of day, is left out."""
    if len(before) != len(after):
        return [min(len(before), len(after))]
    clock = find_clock_section(before)
    return [
        at
        for at, (one, other) in enumerate(zip(before, after, strict=True))
        if one != other and at not in clock
    ]


def _fast_channel(machine: Machine) -> FastChannel:
    control = machine.control
    if not isinstance(control, FastControl):
        raise InvariantError("a machine that was launched has a fast channel")
    return control.channel

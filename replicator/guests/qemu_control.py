"""Stop, save, cont: the three commands of each checkpoint, and where QEMU puts the device state.

The state goes into a memory file of ours, which QEMU knows as a descriptor of the fd set that we handed over: it needs
no path, no rights and no disk. With a fast channel the save follows `stop` at once, so QEMU works on the state while we
scan and copy pages; `save_device_state` then only collects it. A guest that is paused for another reason has saved its
state for nothing, which hurts nobody.

When the pages are copied before the state is saved, `cont` is sent behind the save and waits for it in QEMU: the guest
goes on a round trip earlier. QEMU then runs the guest even if the save fails, and the epoch is lost.

QEMU takes some 7 us over each byte of a command, and the three have 130. So they are sent but for their ends while the
guest still runs; for the save, which comes after `stop`, that takes a channel of its own.
"""

from __future__ import annotations

import os
from typing import Protocol

from replicator.errors import GuestError
from replicator.guests.qemu_qmp import FastChannel, QmpSession, encode_command
from replicator.limits import LIBXL_RECORD_BYTES_MAX

#: The number of our fd set; other users of an attached QEMU's fd sets number theirs from 0 on.
FDSET_ID = 7_702
#: QEMU's migration stream, "QEVM".
STATE_MAGIC = b"QEVM"

_STOP = encode_command("stop")
_CONT = encode_command("cont")
_SAVE = encode_command("xen-save-devices-state", {"filename": f"/dev/fdset/{FDSET_ID}", "live": False})


class StateFile:
    """The file in memory that QEMU writes the device state to."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("device-state", os.MFD_CLOEXEC)
        # QEMU wants a descriptor for writing only, and shares its position with us.
        self._writing_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC)

    async def hand_over(self, session: QmpSession) -> None:
        await session.pass_fd(self._writing_fd, "add-fd", fdset_id=FDSET_ID)

    def rewind(self) -> None:
        """The next state overwrites this one. The file keeps its memory: to give it back and to get it anew would be
        done in a pause."""
        os.lseek(self._writing_fd, 0, os.SEEK_SET)

    def read(self) -> bytes:
        size = os.lseek(self._writing_fd, 0, os.SEEK_CUR)
        if not len(STATE_MAGIC) <= size <= LIBXL_RECORD_BYTES_MAX:
            raise GuestError(f"QEMU saved a device state of {size} bytes")
        state = os.pread(self._fd, size, 0)
        if not state.startswith(STATE_MAGIC):
            raise GuestError("QEMU saved a device state that is none")
        return state

    def close(self) -> None:
        for fd in (self._fd, self._writing_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._writing_fd = -1


class Control(Protocol):
    """The urgent commands. Each raises GuestError."""

    async def stop(self, *, will_save: bool = True) -> None:
        """`will_save`: the device state is wanted soon."""
        ...

    async def save(self, *, runs_on: bool = False) -> bytes:
        """With `runs_on` the guest goes on right afterwards, and `cont` follows in any case."""
        ...

    async def cont(self) -> None: ...

    def forget_save(self) -> None:
        """The guest is no longer as `stop` found it: a state saved in advance is none of it."""
        ...

    def close(self) -> None: ...


class FastControl:
    """By the fast channel; `stop` has the state saved in advance. `saver`: a second one, for what comes after `stop`."""

    def __init__(self, channel: FastChannel, state: StateFile, saver: FastChannel | None = None) -> None:
        self._channel = channel
        self._saver = saver or channel
        self._state = state
        #: Number of the save that `stop` asked for and nobody collected.
        self._saving: int | None = None
        #: Number of the `cont` that was sent behind a save.
        self._going_on: int | None = None
        #: What the newest `stop` was told, and the next one will be.
        self._will_save = True

    @property
    def channel(self) -> FastChannel:
        """For other urgent commands, between two calls of these."""
        return self._channel

    async def stop(self, *, will_save: bool = True) -> None:
        self._saving = self._going_on = None
        self._will_save = will_save
        await self._channel.settle()
        await self._saver.settle()
        if will_save:
            self._state.rewind()
        if self._saver is not self._channel:
            # Two monitors keep no order: the save must not come before the answer.
            await self._channel.execute(_STOP)
            if will_save:
                (self._saving,) = self._saver.send(_SAVE)
            self._saver.prime(_CONT)
        elif will_save:
            stopping, self._saving = self._channel.send(_STOP, _SAVE)
            await self._channel.answer(stopping)
        else:
            await self._channel.execute(_STOP)

    async def save(self, *, runs_on: bool = False) -> bytes:
        if self._saving is None:
            self._state.rewind()
            (self._saving,) = self._saver.send(_SAVE)
        if runs_on:
            (self._going_on,) = self._saver.send(_CONT)
        number, self._saving = self._saving, None
        await self._saver.answer(number)
        return self._state.read()

    async def cont(self) -> None:
        self.forget_save()
        number, self._going_on = self._going_on, None
        if number is None:
            (number,) = self._saver.send(_CONT)
        await self._saver.answer(number)
        self._channel.prime(_STOP)
        if self._saver is not self._channel:
            self._saver.prime(_SAVE if self._will_save else _CONT)

    def forget_save(self) -> None:
        if self._saving is not None:
            self._saver.forget(self._saving)
            self._saving = None

    def close(self) -> None:
        self._channel.close()
        self._saver.close()
        self._state.close()


class PlainControl:
    """By the library's session, for an attached guest with one monitor only. About a millisecond slower."""

    def __init__(self, session: QmpSession, state: StateFile) -> None:
        self._session = session
        self._state = state

    async def stop(self, *, will_save: bool = True) -> None:
        await self._session.execute("stop")

    async def save(self, *, runs_on: bool = False) -> bytes:
        self._state.rewind()
        await self._session.execute("xen-save-devices-state", filename=f"/dev/fdset/{FDSET_ID}", live=False)
        return self._state.read()

    async def cont(self) -> None:
        await self._session.execute("cont")

    def forget_save(self) -> None:
        """Nothing is saved in advance here."""

    def close(self) -> None:
        self._state.close()

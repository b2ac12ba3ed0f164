"""Feeding real children: how it ends for each way a child, an input or a converter can go wrong, and that nothing is
left behind: no descriptor, no thread, no process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from replicator.engine.teardown import End, Part, PartEnded
from replicator.errors import InvariantError, ReceiverError, ReplicatorError, TruncatedStream
from replicator.stream.feeding import FeedReport, feed_child
from replicator.stream.pump import Buffer, Pump

MIB = 1 << 20
#: More than the pipe and one piece hold.
PLENTY = 8 * MIB
#: For what must not be waited for: longer than a test may take.
NEVER_S = 200.0
SHORT_S = 0.1


class Plain:
    """Hands out what it gets."""

    done = False

    def feed(self, piece: memoryview) -> Iterable[Buffer]:
        yield piece

    def finish(self) -> Iterable[Buffer]:
        return ()


class Ending(Plain):
    """A stream that ends after `size` bytes, whatever is behind them."""

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def done(self) -> bool:  # type: ignore[override]
        return not self._left

    def feed(self, piece: memoryview) -> Iterable[Buffer]:
        part = piece[: self._left]
        self._left -= len(part)
        yield part


class Failing(Plain):
    """Raises in the middle of a piece, or at the finish; before that it calls `before`."""

    def __init__(self, error: Exception, *, at_finish: bool = False, before: Callable[[], Any] = int) -> None:
        self._error, self._at_finish, self._before = error, at_finish, before

    def feed(self, piece: memoryview) -> Iterable[Buffer]:
        yield piece[:10]
        if not self._at_finish:
            self._fail()
        yield piece[10:]

    def finish(self) -> Iterable[Buffer]:
        self._fail()
        return ()

    def _fail(self) -> None:
        self._before()
        raise self._error


def shell(script: str, *arguments: object) -> list[str]:
    """`arguments` are $0, $1 and so on."""
    return ["sh", "-c", script, *map(str, arguments)]


def open_fds() -> dict[int, str]:
    links = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return links


def children() -> set[int]:
    """Of this process, whichever thread started them and whether or not they still run."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for each in lists for pid in each.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    fds, threads, before = open_fds(), set(threading.enumerate()), children()
    yield
    assert open_fds() == fds
    assert set(threading.enumerate()) == threads
    assert children() == before


class Inputs:
    """Inputs of each kind; all are closed in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fds: list[int] = []

    def file(self, content: bytes) -> int:
        path = self._folder / "input"
        path.write_bytes(content)
        return self._keep(os.open(path, os.O_RDONLY))

    def folder(self) -> int:
        return self._keep(os.open(self._folder, os.O_RDONLY))

    def endless_pipe(self, content: bytes = b"") -> int:
        """It has `content`; then it is silent, and does not end."""
        reading, writing = self.pipe()
        os.write(writing, content)
        return reading

    def pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        return self._keep(reading), self._keep(writing)

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def inputs(nothing_is_left: None, tmp_path: Path) -> Iterator[Inputs]:
    made = Inputs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """By which a child says something; opening it waits for the other side."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def feed(source_fd: int, argv: list[str], converter: Plain | None = None, **options: Any) -> FeedReport:
    return asyncio.run(feed_child(source_fd, converter or Plain(), argv, **options))


# Success.


def test_the_child_gets_what_the_converter_makes(inputs: Inputs, tmp_path: Path) -> None:
    report = feed(inputs.file(b"some bytes"), shell('cat > "$0"', tmp_path / "output"))
    assert report == FeedReport(bytes_read=10, bytes_written=10, exit_code=0)
    assert (tmp_path / "output").read_bytes() == b"some bytes"


def test_an_empty_input_ends_the_childs_input(inputs: Inputs) -> None:
    assert feed(inputs.file(b""), ["cat"]) == FeedReport(0, 0, 0)


@pytest.mark.parametrize("through_a_pipe", [False, True], ids=["file", "pipe"])
def test_large_data_arrives_whole(inputs: Inputs, tmp_path: Path, through_a_pipe: bool) -> None:
    content = os.urandom(MIB) * 64
    source_fd = inputs.file(content)
    progress: list[int] = []

    async def scenario() -> FeedReport:
        argv = shell('sha256sum > "$0"', tmp_path / "digest")
        if not through_a_pipe:
            return await feed_child(source_fd, Plain(), argv, progress=progress.append)
        reading, writing = os.pipe()
        cat = await asyncio.create_subprocess_exec("cat", stdin=source_fd, stdout=writing)
        os.close(writing)
        try:
            return await feed_child(reading, Plain(), argv, progress=progress.append)
        finally:
            os.close(reading)
            await cat.wait()

    report = asyncio.run(scenario())
    assert report.bytes_read == report.bytes_written == progress[-1] == len(content)
    assert progress == sorted(progress)
    assert (tmp_path / "digest").read_text().split()[0] == hashlib.sha256(content).hexdigest()


def test_a_stream_that_ends_before_its_input_does(inputs: Inputs, tmp_path: Path) -> None:
    source_fd = inputs.endless_pipe(b"the stream and more")
    report = feed(source_fd, shell('cat > "$0"', tmp_path / "output"), Ending(10))
    assert report.bytes_written == 10
    assert (tmp_path / "output").read_bytes() == b"the stream"


@pytest.mark.parametrize("_", range(20))
def test_a_child_that_knows_the_end_may_be_faster_than_we(inputs: Inputs, _: int) -> None:
    source_fd = inputs.endless_pipe(b"the stream and more")
    assert feed(source_fd, shell("head -c 10 > /dev/null"), Ending(10)).bytes_written == 10


@pytest.mark.parametrize("_", range(5))
def test_an_abort_comes_too_late_once_the_last_byte_was_taken(inputs: Inputs, _: int) -> None:
    """The same race, decided: the child has ended, nobody has noticed yet that nothing is left."""
    reading, sink_fd = inputs.pipe()
    os.set_blocking(sink_fd, False)
    reports: SimpleQueue[PartEnded] = SimpleQueue()
    with contextlib.closing(Pump(inputs.file(b"some bytes"), sink_fd, Plain())) as pump:
        pump.start(reports.put)
        assert reports.get() == PartEnded(Part.READER, End.WELL)
        os.read(reading, 100)
        pump.abort()
        assert reports.get() == PartEnded(Part.CONVERTER, End.WELL)


def test_the_callers_descriptor_stays_open_and_as_it_was(inputs: Inputs) -> None:
    source_fd = inputs.file(b"some bytes")
    feed(source_fd, shell("cat > /dev/null"))
    assert os.lseek(source_fd, 0, os.SEEK_CUR) == 10
    assert os.get_blocking(source_fd)


# The child's failures.


def test_a_command_that_does_not_exist(inputs: Inputs) -> None:
    with pytest.raises(ReceiverError, match="cannot start no-such-command: No such file"):
        feed(inputs.file(b"x"), ["no-such-command"])


@pytest.mark.parametrize("kind", ["silent", "plenty"])
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "ended with exit code 3"),
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("exit 0", "ended (exit 0) before it had the whole stream"),
        ("head -c 10 > /dev/null", "ended (exit 0) before it had the whole stream"),
    ],
)
def test_a_child_that_ends_ends_all(inputs: Inputs, kind: str, script: str, words: str) -> None:
    """Also when the input would be silent for ever."""
    source_fd = inputs.endless_pipe(b"ten bytes.") if kind == "silent" else inputs.file(bytes(PLENTY))
    with pytest.raises(ReceiverError) as caught:
        feed(source_fd, shell(script), grace_s=NEVER_S)
    assert str(caught.value) == f"the receiver {words}"


def test_a_child_that_ends_without_the_last_bytes_is_not_a_success(inputs: Inputs) -> None:
    """They fit into the pipe, so that all was written."""
    with pytest.raises(ReceiverError, match="before it had the whole stream"):
        feed(inputs.file(bytes(20)), shell("head -c 10 > /dev/null"))


def test_a_child_that_fails_after_the_whole_stream(inputs: Inputs) -> None:
    with pytest.raises(ReceiverError, match="exit code 4"):
        feed(inputs.file(b"some bytes"), shell("cat > /dev/null; exit 4"))


@pytest.mark.parametrize("size", [20, PLENTY])
def test_a_child_that_closes_its_input_and_lives_on(inputs: Inputs, size: int) -> None:
    with pytest.raises(ReceiverError, match="closed its input after 10 bytes"):
        feed(
            inputs.file(bytes(size)),
            shell("head -c 10 > /dev/null; exec sleep 600 <&-"),
            grace_s=SHORT_S,
        )


def test_a_closed_input_is_noticed_while_our_own_input_is_silent(inputs: Inputs) -> None:
    with pytest.raises(ReceiverError, match="closed its input after 10 bytes"):
        feed(
            inputs.endless_pipe(b"ten bytes."),
            shell("head -c 10 > /dev/null; exec sleep 600 <&-"),
            grace_s=SHORT_S,
        )


def test_the_exit_of_a_child_explains_its_closed_input(inputs: Inputs, fifo: Path) -> None:
    """The child ends only when the input's refusal is known: a converter that was refused is dropped."""

    class Refused(Plain):
        def feed(self, piece: memoryview) -> Iterable[Buffer]:
            try:
                while True:
                    yield piece
            finally:
                fifo.write_bytes(b"")

    script = 'head -c 10 > /dev/null; exec <&-; cat "$0"; exit 5'
    with pytest.raises(ReceiverError, match="exit code 5"):
        feed(inputs.file(bytes(PLENTY)), shell(script, fifo), Refused(), grace_s=NEVER_S)


@pytest.mark.parametrize("size", [20, PLENTY])
def test_a_child_that_stalls(inputs: Inputs, size: int) -> None:
    """Whether it is the pipe that is full, or the last bytes that wait in it."""
    with pytest.raises(ReceiverError, match=r"took nothing for 0\.1 s"):
        feed(inputs.file(bytes(size)), ["sleep", "600"], stall_s=SHORT_S, grace_s=NEVER_S)


def test_a_child_that_takes_a_byte_now_and_then_does_not_stall(inputs: Inputs) -> None:
    slow = "while [ $(head -c 1 | wc -c) = 1 ]; do sleep 0.2; done"
    assert feed(inputs.file(bytes(8)), shell(slow), stall_s=1.2).bytes_written == 8


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(inputs: Inputs, fifo: Path) -> None:
    deaf = shell("trap '' TERM; echo deaf > \"$0\"; exec sleep 600", fifo)
    converter = Failing(TruncatedStream("cut"), before=fifo.read_bytes)
    with pytest.raises(TruncatedStream):
        feed(inputs.file(bytes(20)), deaf, converter, grace_s=SHORT_S)


# The input's and the converter's failures.


def test_an_input_that_cannot_be_read(inputs: Inputs) -> None:
    with pytest.raises(ReplicatorError, match="cannot read the input: Is a directory"):
        feed(inputs.folder(), shell("cat > /dev/null"), grace_s=NEVER_S)


def test_an_input_that_is_not_open() -> None:
    with pytest.raises(ReplicatorError, match="cannot read the input: Bad file descriptor"):
        feed(-1, ["cat"])


@pytest.mark.parametrize("at_finish", [False, True])
@pytest.mark.parametrize("error", [TruncatedStream("cut"), InvariantError("a bug")], ids=["expected", "bug"])
def test_a_converter_that_fails(inputs: Inputs, error: Exception, at_finish: bool) -> None:
    with pytest.raises(type(error)) as caught:
        feed(inputs.file(bytes(PLENTY)), ["sh", "-c", "cat > /dev/null"], Failing(error, at_finish=at_finish))
    assert caught.value is error


def test_a_converter_that_fails_does_not_wait_for_a_silent_input(inputs: Inputs) -> None:
    with pytest.raises(TruncatedStream):
        feed(inputs.endless_pipe(b"some bytes"), ["cat"], Failing(TruncatedStream("cut")))


@pytest.mark.parametrize("_", range(10))
def test_a_cut_stream_does_not_look_whole_to_the_child(inputs: Inputs, tmp_path: Path, _: int) -> None:
    """It never gets beyond its input."""
    child = shell('cat > /dev/null; echo whole > "$0"', tmp_path / "note")
    with pytest.raises(TruncatedStream):
        feed(inputs.file(bytes(100)), child, Failing(TruncatedStream("cut"), at_finish=True))
    assert not (tmp_path / "note").exists()


# Orders.


async def until_read(source_fd: int, argv: list[str], size: int, **options: Any) -> asyncio.Task[FeedReport]:
    """A feeding of which `size` bytes have been read."""
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def note(bytes_read: int) -> None:
        if bytes_read >= size:
            loop.call_soon_threadsafe(reached.set)

    task = asyncio.create_task(feed_child(source_fd, Plain(), argv, progress=note, **options))
    await reached.wait()
    return task


#: Says when it is ready, and when it was told to end, which it does not do.
STUBBORN = """
import signal, sys

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
for word in "ready", "told":
    with open(sys.argv[1], "w") as fifo:
        fifo.write(word)
    signal.sigwait([signal.SIGTERM])
"""


def stubborn(fifo: Path) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", STUBBORN, str(fifo)]


@pytest.mark.parametrize("kind", ["child stalls", "input is silent"])
def test_a_stop_ends_what_waits(inputs: Inputs, kind: str) -> None:
    source_fd = inputs.file(bytes(PLENTY)) if kind == "child stalls" else inputs.endless_pipe(b"x")

    async def scenario() -> None:
        task = await until_read(source_fd, ["sleep", "600"], 1, grace_s=NEVER_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_a_second_stop_kills_the_child(inputs: Inputs, fifo: Path) -> None:
    async def scenario() -> None:
        source_fd = inputs.endless_pipe()
        task = asyncio.create_task(feed_child(source_fd, Plain(), stubborn(fifo), grace_s=NEVER_S))
        assert await asyncio.to_thread(fifo.read_text) == "ready"
        task.cancel()
        assert await asyncio.to_thread(fifo.read_text) == "told"
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_a_stop_does_not_hide_the_error_before_it(inputs: Inputs, fifo: Path) -> None:
    async def scenario() -> None:
        ready = threading.Event()
        converter = Failing(TruncatedStream("cut"), before=ready.wait)
        source_fd = inputs.endless_pipe(b"some bytes")
        task = asyncio.create_task(feed_child(source_fd, converter, stubborn(fifo), grace_s=NEVER_S))
        assert await asyncio.to_thread(fifo.read_text) == "ready"
        ready.set()
        assert await asyncio.to_thread(fifo.read_text) == "told"
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(TruncatedStream):
            await task

    asyncio.run(scenario())


def test_a_timeout_is_a_stop(inputs: Inputs) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(SHORT_S):
            await feed_child(inputs.endless_pipe(), Plain(), ["sleep", "600"], grace_s=NEVER_S)

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())


def test_a_feeding_that_is_given_up_leaves_nothing(inputs: Inputs) -> None:
    """What happens when the event loop ends in the middle of it."""

    async def scenario() -> None:
        feeding = feed_child(inputs.endless_pipe(), Plain(), ["sleep", "600"], grace_s=NEVER_S)
        feeding.send(None)
        feeding.close()

    asyncio.run(scenario())

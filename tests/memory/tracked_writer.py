"""The child process of the tracker tests: `tracked_writer.py RAM_FD MODE`. Says `ready`, then takes orders on
stdin and gives one answer a line on stdout.

Modes: `read` waits in a blocking read; `busy` also has a thread that never stops computing; `threads` has
several threads in different blocking calls; `split` maps the RAM in two halves at unrelated addresses;
`signals` gets a timer signal every 200 us and counts them; `echo` writes a byte to stdout for each SIGUSR1,
from the C handler: a Python handler may come late, behind a blocking call."""

import ctypes
import mmap
import os
import select
import signal
import sys
import threading
import time

PAGE = 4096
#: `jmp .` of x86.
ENDLESS_LOOP = b"\xeb\xfe"


class Ram:
    """The RAM file, through one mapping or two."""

    def __init__(self, fd: int, is_split: bool) -> None:
        size = os.fstat(fd).st_size
        self.bounds = [0, size // 2, size] if is_split else [0, size]
        parts = zip(self.bounds, self.bounds[1:], strict=False)
        self.maps = [mmap.mmap(fd, end - start, offset=start) for start, end in parts]

    def touch(self, page: int) -> None:
        index = sum(page * PAGE >= bound for bound in self.bounds[1:])
        offset = page * PAGE - self.bounds[index]
        self.maps[index][offset] = (self.maps[index][offset] + 1) % 256


class Counter:
    """Work whose result is wrong when registers get lost."""

    def __init__(self) -> None:
        self.rounds = 0
        self.broken = 0

    def run(self) -> None:
        while True:
            if sum(i * 0.5 + 1.0 / (i + 1) for i in range(200)) != self.expected():
                self.broken += 1
            self.rounds += 1

    def expected(self) -> float:
        return EXPECTED


EXPECTED = sum(i * 0.5 + 1.0 / (i + 1) for i in range(200))


def take_naps() -> str:
    """A relative sleep and a poll, each interrupted or not: neither may fail nor take less than asked."""
    started = time.monotonic()
    time.sleep(0.3)
    middle = time.monotonic()
    ready = select.poll().poll(300)
    ended = time.monotonic()
    return f"{middle - started:.4f} {ended - middle:.4f} {len(ready)}"


def main() -> None:
    fd, mode = int(sys.argv[1]), sys.argv[2]
    ram = Ram(fd, mode == "split")
    counter = Counter()
    ticks = [0]
    if mode in ("busy", "threads"):
        threading.Thread(target=counter.run, daemon=True).start()
    if mode == "threads":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        threading.Thread(target=os.read, args=(os.pipe()[0], 1), daemon=True).start()
    if mode == "signals":
        signal.signal(signal.SIGALRM, lambda *_: ticks.__setitem__(0, ticks[0] + 1))
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    if mode == "echo":
        os.set_blocking(1, False)
        signal.set_wakeup_fd(1)
        signal.signal(signal.SIGUSR1, lambda *_: None)
    endless = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    endless[:2] = ENDLESS_LOOP
    print("ready", flush=True)
    for line in sys.stdin:
        order, *words = line.split()
        if order == "write":
            for word in words:
                ram.touch(int(word))
            answer = "done"
        elif order == "nap":
            print("napping", flush=True)
            answer = take_naps()
        elif order == "report":
            fds = sorted(os.listdir("/proc/self/fd"))
            answer = f"{counter.rounds} {counter.broken} {ticks[0]} {len(fds)}"
        elif order == "endless":
            answer = str(ctypes.addressof(ctypes.c_char.from_buffer(endless)))
        elif order == "environment":
            answer = f"{os.environ.get('LD_PRELOAD')} {os.environ.get('REPLICATOR_UFFD_SOCKET')}"
        print(answer, flush=True)


main()

"""Three machines on one wire, made of network namespaces: host-a, host-b, client, and the switch between them.

    host-a: tap0 + guest0 in br0 --+              +-- guest0 10.77.0.2 :client
            repl0 10.78.0.1 -------+--  switch  --+
            arb0  10.79.0.1 -------+  (3 bridges) +-- guest0 + tap0 in br0, repl0 10.78.0.2, arb0 10.79.0.2 :host-b

The switch is a namespace too: nothing appears in the caller's own. Its arbiter bridge has 10.79.0.254, so an etcd
can run there (`run(SWITCH, ...)`). TAPs are persistent and already in the host's bridge: a daemon only attaches.

Every namespace is named replicator-PID-START-N-HOST after its owner, which is how leftovers of a run that was
killed are told from a running lab: no process with this pid and start time. Leaving the lab ends what still runs
in its namespaces by pid, then removes namespaces and scratch directory; SIGTERM and SIGHUP lead there as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

from replicator.errors import ConfigError, GuestError, require

HOST_A, HOST_B, CLIENT, SWITCH = "host-a", "host-b", "client", "switch"
GUEST, REPLICATION, ARBITER = "guest", "repl", "arb"
HOSTS = (HOST_A, HOST_B, CLIENT, SWITCH)
NETWORKS = {GUEST: "10.77.0", REPLICATION: "10.78.0", ARBITER: "10.79.0"}
#: Which host is on which network, and its last octet there (None: no address, a port of the host's bridge).
LINKS: Mapping[tuple[str, str], int | None] = {
    (HOST_A, GUEST): None,
    (HOST_B, GUEST): None,
    (CLIENT, GUEST): 2,
    (HOST_A, REPLICATION): 1,
    (HOST_B, REPLICATION): 2,
    (HOST_A, ARBITER): 1,
    (HOST_B, ARBITER): 2,
}
SWITCH_ARBITER_OCTET = 254
TAP_NAME = "tap0"
HOST_BRIDGE = "br0"
NAME_PATTERN = re.compile(r"^replicator-(?P<pid>\d+)-(?P<start>\d+)-\d+(?:-[a-z-]+)?$")
NETNS_DIR = Path("/run/netns")
SCRATCH_ROOT = Path("/dev/shm")
COMMAND_TIMEOUT_S = 20
TERM_GRACE_S = 3.0
KILL_GRACE_S = 10.0
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_numbers = itertools.count()


def process_start(pid: int) -> int | None:
    """Start time of a running process in clock ticks since boot; None when there is none (a zombie runs no more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_leftover(name: str) -> bool:
    """True when a namespace or scratch directory of this name belongs to a lab whose process is gone."""
    match = NAME_PATTERN.match(name)
    return match is not None and process_start(int(match["pid"])) != int(match["start"])


def run_ip(arguments: Sequence[str], *, batch: str | None = None) -> str:
    """Run `ip`, raise GuestError with its words when it fails."""
    argv = ["ip", *arguments, *(["-batch", "-"] if batch is not None else [])]
    done = subprocess.run(
        argv,
        input=batch,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise GuestError(
            f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}",
            hint="namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and a kernel with veth, bridge and tun",
        )
    return done.stdout


def require_abilities() -> None:
    """Raise ConfigError unless this process can make namespaces and TAPs."""
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            raise ConfigError(f"{tool} is not installed", hint="apt-get install iproute2 util-linux")
    if os.geteuid() != 0:
        raise ConfigError("network namespaces need root", hint="run it with sudo")
    if not Path("/dev/net/tun").exists():
        raise ConfigError(
            "/dev/net/tun is missing",
            hint="modprobe tun, or give the container this device",
        )


def namespace_names() -> list[str]:
    """Names of all named network namespaces."""
    return sorted(path.name for path in NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else []


def pids_inside(namespace: str) -> list[int]:
    """Processes in a named namespace; none when it is gone."""
    try:
        return [int(word) for word in run_ip(["netns", "pids", namespace]).split()]
    except GuestError:
        return []


def kill_inside(namespaces: Sequence[str]) -> None:
    """SIGKILL whatever still runs in these namespaces, and wait until it is gone."""
    deadline = time.monotonic() + KILL_GRACE_S
    while pids := [pid for namespace in namespaces for pid in pids_inside(namespace)]:
        if time.monotonic() > deadline:
            raise GuestError(
                f"processes {pids} do not die",
                hint="a process in state D? see ps -o pid,stat,wchan",
            )
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove_namespaces(names: Sequence[str]) -> None:
    """End what runs in these namespaces and remove them."""
    kill_inside(names)
    for name in names:
        try:
            run_ip(["netns", "del", name])
        except GuestError:
            # Two labs that start at once find the same leftovers.
            if (NETNS_DIR / name).exists():
                raise


def remove_leftovers() -> list[str]:
    """Remove namespaces and scratch directories of labs whose process is gone; return their names."""
    stale = [name for name in namespace_names() if is_leftover(name)]
    remove_namespaces(stale)
    scratches = [path for path in SCRATCH_ROOT.glob("replicator-*") if is_leftover(path.name)]
    for path in scratches:
        shutil.rmtree(path, ignore_errors=True)
    return stale + [path.name for path in scratches]


@dataclass(frozen=True)
class Link:
    """One cable: a host's interface and its port on the switch."""

    host: str
    network: str

    @property
    def port(self) -> str:
        """Name of the switch's end."""
        return f"{self.host}-{self.network}"

    @property
    def interface(self) -> str:
        """Name of the host's end."""
        return f"{self.network}0"

    @property
    def bridge(self) -> str:
        """Name of the switch's bridge."""
        return f"br-{self.network}"


ALL_LINKS = tuple(Link(host, network) for host, network in LINKS)


def links_named(what: str) -> tuple[Link, ...]:
    """The cables that `host`, `network` or `host/network` means; raise ConfigError when there is none."""
    found = tuple(
        link for link in ALL_LINKS if what in (link.host, link.network, f"{link.host}/{link.network}")
    )
    if not found:
        raise ConfigError(
            f"the lab has no link {what!r}",
            hint="name a host, a network, or HOST/NETWORK",
        )
    return found


def switch_commands(namespaces: Mapping[str, str]) -> str:
    """`ip -batch` lines that build the switch and plug all cables in."""
    lines = []
    for network, prefix in NETWORKS.items():
        bridge = f"br-{network}"
        lines.append(f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        lines.append(f"link set {bridge} up")
        if network == ARBITER:
            lines.append(f"addr add {prefix}.{SWITCH_ARBITER_OCTET}/24 dev {bridge}")
    for link in ALL_LINKS:
        peer = f"peer name {link.interface} netns {namespaces[link.host]}"
        lines.append(f"link add {link.port} type veth {peer}")
        lines.append(f"link set {link.port} master {link.bridge} up")
    lines.append("link set lo up")
    return "\n".join(lines) + "\n"


def host_commands(host: str) -> str:
    """`ip -batch` lines that bring up one host's interfaces."""
    lines = ["link set lo up"]
    for link in ALL_LINKS:
        if link.host != host:
            continue
        octet = LINKS[(host, link.network)]
        if octet is None:
            lines.append(f"link add {HOST_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
            lines.append(f"tuntap add dev {TAP_NAME} mode tap")
            lines.append(f"link set {TAP_NAME} master {HOST_BRIDGE} up")
            lines.append(f"link set {link.interface} master {HOST_BRIDGE} up")
            lines.append(f"link set {HOST_BRIDGE} up")
        else:
            lines.append(f"addr add {NETWORKS[link.network]}.{octet}/24 dev {link.interface}")
            lines.append(f"link set {link.interface} up")
    return "\n".join(lines) + "\n"


class Lab:
    """Context manager: the machines above. Use it in the main thread so that signals lead to its clean-up."""

    def __init__(self) -> None:
        self.name = f"replicator-{os.getpid()}-{process_start(os.getpid())}-{next(_numbers)}"
        self.namespaces = {host: f"{self.name}-{host}" for host in HOSTS}
        #: On tmpfs, mode 0700, removed with the lab: RAM files, sockets, logs.
        self.scratch = SCRATCH_ROOT / self.name
        self._children: list[subprocess.Popen[bytes]] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        require_abilities()
        remove_leftovers()
        self._install_handlers()
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tear_down()

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program on `host`, in a session of its own; its pid is the program's own pid."""
        child = subprocess.Popen(
            ["nsenter", f"--net={NETNS_DIR / self.namespaces[host]}", *argv],
            stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True,
        )  # fmt: skip
        self._children.append(child)
        return child

    def check_output(self, host: str, argv: Sequence[str]) -> str:
        """Run a short command on `host` to its end and return its stdout; raise GuestError when it fails."""
        child = self.run(host, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = child.communicate(timeout=COMMAND_TIMEOUT_S)
        if child.returncode != 0:
            raise GuestError(f"`{' '.join(argv)}` on {host} failed: {err.decode(errors='replace').strip()}")
        return out.decode()

    def tap_name(self, host: str) -> str:
        """Name of the TAP that waits for the guest on `host`."""
        require(
            (host, GUEST) in LINKS and LINKS[(host, GUEST)] is None,
            f"{host} has no TAP",
        )
        return TAP_NAME

    def address(self, host: str, network: str) -> str:
        """A host's IPv4 address on one of the networks."""
        octet = SWITCH_ARBITER_OCTET if (host, network) == (SWITCH, ARBITER) else LINKS.get((host, network))
        require(octet is not None, f"{host} has no address on {network}")
        return f"{NETWORKS[network]}.{octet}"

    def cut_link(self, what: str) -> None:
        """Make cables lose every frame, silently: both ends keep their carrier. See `links_named` for names."""
        self._switch("".join(f"link set {link.port} nomaster\n" for link in links_named(what)))

    def restore_link(self, what: str) -> None:
        """Undo `cut_link`."""
        self._switch("".join(f"link set {link.port} master {link.bridge}\n" for link in links_named(what)))

    def _switch(self, commands: str) -> None:
        run_ip(["-n", self.namespaces[SWITCH]], batch=commands)

    def _build(self) -> None:
        self.scratch.mkdir(mode=0o700)
        for namespace in self.namespaces.values():
            run_ip(["netns", "add", namespace])
        for host in (HOST_A, HOST_B, SWITCH):
            # The bridges' own IPv6 chatter would reach the guest; the guest's and the client's IPv6 pass all the same.
            switch_off = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done"
            self.check_output(host, ["sh", "-c", f"[ ! -d /proc/sys/net/ipv6 ] || {switch_off}"])
        self._switch(switch_commands(self.namespaces))
        for host in (HOST_A, HOST_B, CLIENT):
            run_ip(["-n", self.namespaces[host]], batch=host_commands(host))

    def _tear_down(self) -> None:
        """Remove everything; a second Ctrl-C must not stop half-way."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        try:
            self._end_children()
            remove_namespaces([name for name in self.namespaces.values() if (NETNS_DIR / name).exists()])
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()
            if in_main_thread:
                signal.signal(signal.SIGINT, interrupt)

    def _end_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + TERM_GRACE_S
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()

    def _install_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING_SIGNALS:
            self._handlers[number] = signal.signal(number, leave_by_exception)


def leave_by_exception(number: int, _frame: FrameType | None) -> None:
    """Signal handler: unwind the main thread, so that context managers clean up; the shell's exit code rule."""
    raise SystemExit(128 + number)

"""What is measured of processes and of the hosts of a lab, and what there is at all. Knows /proc, namespaces and the
scratch folder; judges nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from replicator.demo.lab import HOST_A, HOST_B, HOSTS, NETNS_DIR, SCRATCH_ROOT, Lab, pids_inside, run_ip

#: Kinds of things that may be left behind.
PROCESS, NAMESPACE, TAP, SOCKET, FILE = "process", "namespace", "TAP", "socket", "file"
#: Written by the soak's own parts, and read by people: they may grow.
JOURNALS = {".log", ".events"}
BLOCK_BYTES = 512


def measure_process(pid: int) -> dict[str, int] | None:
    """Anonymous memory in KiB (files that are mapped, as a guest's RAM, do not count), descriptors, threads; None when
    the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fds = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    if "RssAnon" not in fields:
        return None  # it is just ending
    return {"anon_kib": int(fields["RssAnon"].split()[0]), "fds": fds, "threads": int(fields["Threads"])}


def program_of(pid: int) -> str:
    """Name of the file it executes, "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def measure_hosts(lab: Lab) -> dict[str, int]:
    """Of both hosts together: processes, network interfaces, namespaces of this lab; files and KiB of its scratch."""
    files = [info for path, info in _walk(lab.scratch) if path.suffix not in JOURNALS]
    return {
        "processes": sum(len(pids_inside(lab.namespaces[host])) for host in (HOST_A, HOST_B)),
        "interfaces": sum(len(_interfaces(lab, host)) for host in (HOST_A, HOST_B)),
        "namespaces": len(_namespaces(lab.name)),
        "files": len(files),
        "scratch_kib": sum(info.st_blocks for info in files) * BLOCK_BYTES // 1024,
    }


def survey_lab(lab: Lab) -> dict[str, frozenset[str]]:
    """What there is while the lab stands: kind -> names."""
    pids = {pid for host in HOSTS for pid in pids_inside(lab.namespaces[host])}
    taps = {
        f"{name} on {host}" for host in (HOST_A, HOST_B) for name in _interfaces(lab, host, "type", "tun")
    }
    sockets = {
        str(path.relative_to(lab.scratch)) for path, info in _walk(lab.scratch) if stat.S_ISSOCK(info.st_mode)
    }
    return {
        PROCESS: frozenset(_describe(pid) for pid in pids | set(_pids_that_name(lab.name))),
        NAMESPACE: frozenset(_namespaces(lab.name)),
        TAP: frozenset(taps),
        SOCKET: frozenset(sockets),
    }


def survey_after(name: str) -> dict[str, frozenset[str]]:
    """What there is of a lab of this name that has been left: nothing, or it was left behind."""
    return {
        PROCESS: frozenset(_describe(pid) for pid in _pids_that_name(name)),
        NAMESPACE: frozenset(_namespaces(name)),
        FILE: frozenset(str(path) for path in SCRATCH_ROOT.glob(f"*{name}*")),
    }


def _namespaces(name: str) -> list[str]:
    return [path.name for path in NETNS_DIR.iterdir() if path.name.startswith(f"{name}-")]


def _interfaces(lab: Lab, host: str, *words: str) -> list[str]:
    lines = run_ip(["-n", lab.namespaces[host], "-o", "link", "show", *words]).splitlines()
    return [line.split(":")[1].split("@")[0].strip() for line in lines]


def _pids_that_name(text: str) -> Iterator[int]:
    """Processes with this text in their arguments, wherever they run; not our own."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in said:
            yield int(entry.name)


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = "(ended)"
    return f"{pid} {words.strip()[:120]}"


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file in the folder that has not gone meanwhile."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue

"""Debian packages as a source of files: fetched by apt, unpacked by dpkg-deb, never installed.

The caller names root packages; their shared libraries come along by following Depends through packages whose
name starts with `lib` (a guest needs no maintainer scripts, no perl modules, no init system). apt verifies what
it downloads against its signed lists. When the lists are missing or stale, `apt-get update` runs once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from replicator.errors import GuestError

Progress = Callable[[str], None]

TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
APT_OPTIONS = (
    "-o", "Acquire::Retries=2",
    "-o", "Acquire::http::Timeout=30",
    "-o", "Acquire::https::Timeout=30",
    "-o", "APT::Sandbox::User=root",
)  # fmt: skip
COMMAND_TIMEOUT_S = 240
#: What one `'URL' NAME SIZE HASH` line of `apt-get --print-uris` looks like.
URI_LINE = re.compile(r"^'[^']*' (?P<name>\S+) (?P<size>\d+) ")
DEPENDS_LINE = re.compile(r"^ (?P<alternative>[| ])(?:Pre)?Depends: (?P<package>[^<>\s]+)$")
HINT_OFFLINE = (
    "the guest is made of Debian packages: check the network and /etc/apt/sources.list, run `apt-get update` as "
    "root, and try again; a cache filled on another machine (REPLICATOR_CACHE) works offline"
)


class AptError(GuestError):
    """apt cannot give us a package."""


def require_tools() -> None:
    """Raise AptError naming the first Debian tool that is not on this machine."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise AptError(
                f"{tool} is not installed, the guest image cannot be built",
                hint="build it on Debian 12 or later and copy the cache directory (REPLICATOR_CACHE) here",
            )


def shorten(argv: Sequence[str]) -> str:
    """A command for an error message: without apt's options, its many packages cut short."""
    words = [word for word in argv if word not in APT_OPTIONS]
    return f"`{' '.join(words[:4])}{' ...' if len(words) > 4 else ''}`"


def run_tool(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    """Run one tool, return its stdout; raise AptError with its last words when it fails."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AptError(f"{argv[0]} did not end in {COMMAND_TIMEOUT_S} s", hint=HINT_OFFLINE) from error
    if done.returncode != 0:
        last_words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AptError(f"{shorten(argv)} failed: {last_words}", hint=HINT_OFFLINE)
    return done.stdout


def first_dependencies(listing: str) -> list[str]:
    """Packages that the output of `apt-cache depends` names; of alternatives the first."""
    found: list[str] = []
    inside_alternative = False
    for line in listing.splitlines():
        match = DEPENDS_LINE.match(line)
        if match is None:
            continue
        if not inside_alternative:
            found.append(match["package"])
        inside_alternative = match["alternative"] == "|"
    return found


def depends_of(packages: Sequence[str]) -> list[str]:
    """Packages that these need, as apt's lists say. One call for many: reading the lists takes most of its time."""
    return first_dependencies(run_tool(["apt-cache", "depends", "--important", *packages]))


def resolve_meta(meta: str, prefix: str) -> str:
    """The real package behind a meta package, e.g. today's kernel; raise AptError when there is none."""
    for package in depends_of([meta]):
        if package.startswith(prefix):
            return package
    raise AptError(f"{meta} depends on no package named {prefix}*", hint=HINT_OFFLINE)


def library_closure(roots: Sequence[str]) -> list[str]:
    """`roots` and every lib* package they need, directly or through other lib* packages; sorted."""
    seen = set(roots)
    newest = set(roots)
    while newest:
        needed = {package for package in depends_of(sorted(newest)) if package.startswith("lib")}
        newest = needed - seen
        seen |= newest
    return sorted(seen)


def package_file_names(packages: Sequence[str]) -> list[str]:
    """File names that `apt-get download` gives these packages' newest versions; sorted."""
    with tempfile.TemporaryDirectory(prefix="replicator-apt-") as empty:
        # apt leaves files that are already there out of its list, hence the empty directory.
        listing = run_tool(
            ["apt-get", *APT_OPTIONS, "--print-uris", "download", *packages],
            cwd=Path(empty),
        )
    names = [match["name"] for match in map(URI_LINE.match, listing.splitlines()) if match]
    if len(names) != len(set(packages)):
        raise AptError(
            f"apt knows files for {len(names)} of {len(set(packages))} packages",
            hint=HINT_OFFLINE,
        )
    return sorted(names)


def download(packages: Sequence[str], folder: Path, progress: Progress) -> list[Path]:
    """Bring packages into `folder` (those already there whole are kept) and return their files, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    names = package_file_names(packages)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        progress(f"downloading {len(missing)} Debian packages (unpacked into the cache, not installed)")
    run_tool(["apt-get", *APT_OPTIONS, "-q", "download", *packages], cwd=folder)
    return [folder / name for name in names]


def update_lists(progress: Progress) -> None:
    """Run `apt-get update`; needs root."""
    if os.geteuid() != 0:
        raise AptError(
            "apt's package lists are missing or stale and only root can update them",
            hint=HINT_OFFLINE,
        )
    progress("apt could not give the packages: updating its lists (apt-get update)")
    run_tool(["apt-get", *APT_OPTIONS, "-q", "update"])


def unpack(package: Path, folder: Path) -> None:
    """Unpack one .deb's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run_tool(["dpkg-deb", "-x", str(package), str(folder)])

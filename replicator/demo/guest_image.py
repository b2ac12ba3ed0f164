"""The guest of the demonstration and of the live tests: Debian's cloud kernel, busybox, redis, qemu-ga, a few services.

Everything is built from Debian packages inside the cache directory; nothing is installed on the host. The image
of one recipe (scripts + package names) is built once and kept in `images/<recipe>`; it comes into being by one
rename, so that a killed build leaves nothing half-made. Builders of several processes take turns by a lock file.
The fingerprint covers kernel, initrd and command line: two hosts with equal fingerprints boot the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicator.demo import debian_packages as debian
from replicator.demo import guest_scripts as scripts
from replicator.demo.initramfs import (
    ElfFile,
    Entry,
    build_initramfs,
    character_device,
    directory,
    regular,
    shared_libraries,
    symlink,
)
from replicator.errors import GuestError

Progress = Callable[[str], None]

KERNEL_META = "linux-image-cloud-amd64"
KERNEL_PREFIX = "linux-image-6"
ROOT_PACKAGES = ("busybox-static", "perl-base", "qemu-guest-agent", "redis-server", "redis-tools")
GUEST_ADDRESS = "10.77.0.10/24"
BASE_COMMAND_LINE = "console=ttyS0 quiet no_timer_check tsc=reliable"
#: Grows when the code that assembles the image changes in a way the scripts do not show.
RECIPE_VERSION = 3
APPLETS = ("sh", "mount", "cat", "echo", "insmod", "ip", "poweroff", "reboot")
PERL_FOLDER = "usr/lib/x86_64-linux-gnu/perl-base"
LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class GuestImage:
    """What QEMU boots. `fingerprint` names exactly these bytes."""

    kernel: Path
    initrd: Path
    cmdline: str
    fingerprint: str


def default_cache_dir() -> Path:
    """$REPLICATOR_CACHE, or ~/.cache/replicator."""
    named = os.environ.get("REPLICATOR_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "replicator"


def guest_cmdline(address: str = GUEST_ADDRESS) -> str:
    """Kernel command line of a guest with this address/prefix."""
    return f"{BASE_COMMAND_LINE} replicator.ip={address}"


def recipe_name() -> str:
    """Names everything that decides how an image is put together, but not the packages' versions."""
    parts = [
        RECIPE_VERSION, KERNEL_META, KERNEL_PREFIX, ROOT_PACKAGES, APPLETS, scripts.REQUIRED_MODULES,
        scripts.OPTIONAL_MODULES, scripts.fill_in(scripts.INIT), scripts.fill_in(scripts.SERVICES),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_image(folder: Path, digests: dict[str, str]) -> GuestImage:
    """The image in `folder`, whose files have these digests."""
    cmdline = guest_cmdline()
    named = json.dumps([digests["kernel"], digests["initrd"], cmdline])
    fingerprint = hashlib.sha256(named.encode()).hexdigest()[:32]
    return GuestImage(folder / "kernel", folder / "initrd", cmdline, fingerprint)


def load_image(folder: Path) -> GuestImage | None:
    """The finished image in `folder`; None when there is none or its files are not what its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        digests = {name: file_digest(folder / name) for name in ("kernel", "initrd")}
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if not isinstance(manifest, dict) or manifest.get("digests") != digests:
        return None
    return make_image(folder, digests)


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on `path` among all processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is at work in the cache: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_packages(folder: Path, progress: Progress) -> list[Path]:
    """All .deb files of the guest; updates apt's lists once when they are missing or stale."""

    def fetch() -> list[Path]:
        kernel = debian.resolve_meta(KERNEL_META, KERNEL_PREFIX)
        return debian.download(debian.library_closure([kernel, *ROOT_PACKAGES]), folder, progress)

    debian.require_tools()
    try:
        return fetch()
    except debian.AptError:
        debian.update_lists(progress)
        return fetch()


def find_in(tree: Path, path: str) -> Path:
    """A file of an unpacked tree, where Debian 12 has it or, since its merge, below usr/."""
    for candidate in (tree / path, tree / "usr" / path):
        if candidate.exists():
            return candidate.resolve()
    raise GuestError(f"the packages hold no {path}", hint="a package of the guest changed its files")


def one_match(tree: Path, pattern: str) -> Path:
    """The single file of an unpacked tree that matches; raise GuestError otherwise."""
    found = sorted(tree.glob(pattern))
    if len(found) != 1:
        raise GuestError(f"the packages hold {len(found)} files {pattern}, one was expected")
    return found[0]


def module_bytes(path: Path) -> bytes:
    """A kernel module as insmod of busybox takes it: not compressed."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def module_entries(tree: Path) -> dict[str, Entry]:
    """/modules: the drivers and the order to load them in."""
    entries: dict[str, Entry] = {}
    files = {path.name.split(".")[0]: path for path in tree.glob("lib/modules/*/kernel/**/*.ko*")}
    missing = [name for name in scripts.REQUIRED_MODULES if name not in files]
    if missing:
        raise GuestError(f"the kernel package has no module {', '.join(missing)}")
    wanted = [name for name in (*scripts.REQUIRED_MODULES, *scripts.OPTIONAL_MODULES) if name in files]
    for name in wanted:
        entries[f"modules/{name}.ko"] = regular(module_bytes(files[name]))
    entries["modules/order"] = regular("".join(f"{name}.ko\n" for name in wanted).encode())
    return entries


def program_entries(tree: Path) -> dict[str, Entry]:
    """/bin and the libraries its programs need."""
    programs = {
        "bin/redis-server": find_in(tree, "bin/redis-server"),
        "bin/perl": find_in(tree, "bin/perl"),
        "bin/qemu-ga": find_in(tree, "sbin/qemu-ga"),
    }
    folders = [tree / folder for folder in LIBRARY_FOLDERS]
    entries = {name: regular(path.read_bytes(), executable=True) for name, path in programs.items()}
    for name, path in shared_libraries(programs.values(), folders).items():
        entries[f"lib/x86_64-linux-gnu/{name}"] = regular(path.read_bytes(), executable=True)
    for path in programs.values():
        loader = ElfFile(path.read_bytes(), path.name).interpreter()
        if loader is not None:
            entries[loader.lstrip("/")] = symlink(f"/lib/x86_64-linux-gnu/{Path(loader).name}")
    return entries


def initramfs_entries(tree: Path) -> dict[str, Entry]:
    """Every file of the guest."""
    busybox = find_in(tree, "bin/busybox").read_bytes()
    entries = {folder: directory() for folder in ("proc", "sys", "dev", "tmp", "root")}
    entries["bin/busybox"] = regular(busybox, executable=True)
    entries.update({f"bin/{applet}": symlink("busybox") for applet in APPLETS})
    # The agent runs it by this path after each set-time, and reports an error without it.
    entries["sbin/hwclock"] = symlink("/bin/busybox")
    entries["dev/console"] = character_device(5, 1)
    entries["init"] = regular(scripts.fill_in(scripts.INIT).encode(), executable=True)
    entries[f"{PERL_FOLDER}/strict.pm"] = regular((tree / PERL_FOLDER / "strict.pm").read_bytes())
    entries["services.pl"] = regular(scripts.fill_in(scripts.SERVICES).encode())
    return {**entries, **module_entries(tree), **program_entries(tree)}


def assemble(packages: list[Path], build: Path, progress: Progress) -> dict[str, str]:
    """Make kernel and initrd in `build` from the packages; return their digests."""
    tree = build / "tree"
    progress("building the guest image")
    for package in packages:
        debian.unpack(package, tree)
    shutil.copyfile(one_match(tree, "boot/vmlinuz-*"), build / "kernel")
    (build / "initrd").write_bytes(build_initramfs(initramfs_entries(tree)))
    shutil.rmtree(tree)
    return {name: file_digest(build / name) for name in ("kernel", "initrd")}


def build_image(cache_dir: Path, target: Path, progress: Progress) -> None:
    """Build the image aside and rename it to `target`. The caller holds the lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob("build-*"):
        shutil.rmtree(leftover)
    packages = fetch_packages(cache_dir / "packages", progress)
    build = Path(tempfile.mkdtemp(prefix="build-", dir=target.parent))
    try:
        digests = assemble(packages, build, progress)
        manifest = {
            "digests": digests,
            "packages": [package.name for package in packages],
        }
        (build / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        build.rename(target)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def ensure_guest_image(cache_dir: Path, progress: Progress) -> GuestImage:
    """The guest image, built in `cache_dir` when it is not there yet.

    Raises GuestError (AptError where packages cannot be had) with a hint; the cache stays usable.
    """
    if platform.machine() != "x86_64":
        raise GuestError(f"the demonstration's guest is x86-64, this machine is {platform.machine()}")
    target = cache_dir / "images" / recipe_name()
    image = load_image(target)
    if image is not None:
        return image
    with locked(cache_dir / "lock", progress):
        image = load_image(target)
        if image is None:
            build_image(cache_dir, target, progress)
            image = load_image(target)
    if image is None:
        raise GuestError(f"the guest image in {target} changed while it was being built")
    progress(f"guest image {image.fingerprint} is ready")
    return image

"""Cache rules of the guest image, with stand-in packages made by dpkg-deb: no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from replicator.demo import debian_packages, guest_image, guest_scripts, initramfs
from replicator.demo.debian_packages import AptError, first_dependencies
from replicator.errors import GuestError

DEPENDS = """redis-tools
  Depends: adduser
  Depends: libc6
 |Depends: libsystemd0
 |Depends: libelogind0
  Depends: libother0
  Depends: <virtual-package>
  PreDepends: libzstd1
"""


def test_of_alternatives_the_first_counts() -> None:
    assert first_dependencies(DEPENDS) == [
        "adduser",
        "libc6",
        "libsystemd0",
        "libzstd1",
    ]


def make_package(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """A real .deb with these files."""
    tree = folder / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    package = folder / f"{name}_1_amd64.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(tree), str(package)], check=True, capture_output=True)
    return package


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    """Kernel, busybox, redis and perl look-alikes: real ELF programs of this machine under the packages' paths."""
    program = Path("/bin/true").resolve().read_bytes()
    folders = [Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu")]
    libraries = initramfs.shared_libraries([Path("/bin/true").resolve()], folders)
    modules = {
        f"lib/modules/6.1/kernel/drivers/{name}.ko": name.encode() for name in guest_scripts.REQUIRED_MODULES
    }
    return [
        make_package(tmp_path, "kernel", {"boot/vmlinuz-6.1": b"kernel", **modules}),
        make_package(tmp_path, "busybox-static", {"bin/busybox": program}),
        make_package(
            tmp_path,
            "redis",
            {
                "usr/bin/redis-server": program,
                "usr/bin/perl": program,
                "usr/sbin/qemu-ga": program,
                f"{guest_image.PERL_FOLDER}/strict.pm": b"1;",
                **{f"lib/x86_64-linux-gnu/{name}": path.read_bytes() for name, path in libraries.items()},
            },
        ),
    ]


class Shop:
    """Stands where apt stands and counts how often it was asked."""

    def __init__(self, packages: list[Path]) -> None:
        self.packages = packages
        self.visits = 0

    def fetch(self, _folder: Path, _progress: guest_image.Progress) -> list[Path]:
        self.visits += 1
        return self.packages


@pytest.fixture
def shop(packages: list[Path], monkeypatch: pytest.MonkeyPatch) -> Shop:
    keeper = Shop(packages)
    monkeypatch.setattr(guest_image, "fetch_packages", keeper.fetch)
    return keeper


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


def test_second_call_takes_the_cached_image(tmp_path: Path, shop: Shop) -> None:
    first = guest_image.ensure_guest_image(tmp_path / "cache", quiet)
    second = guest_image.ensure_guest_image(tmp_path / "cache", quiet)
    assert first == second and shop.visits == 1
    assert first.kernel.read_bytes() == b"kernel"
    assert "replicator.ip=10.77.0.10/24" in first.cmdline


def test_two_caches_hold_the_same_bytes(tmp_path: Path, shop: Shop) -> None:
    here = guest_image.ensure_guest_image(tmp_path / "here", quiet)
    there = guest_image.ensure_guest_image(tmp_path / "there", quiet)
    assert here.fingerprint == there.fingerprint
    assert here.initrd.read_bytes() == there.initrd.read_bytes()
    assert shop.visits == 2


def test_damaged_image_is_built_anew(tmp_path: Path, shop: Shop) -> None:
    image = guest_image.ensure_guest_image(tmp_path, quiet)
    whole = image.initrd.read_bytes()
    image.initrd.write_bytes(whole[:-1] + b"\xff")
    assert guest_image.ensure_guest_image(tmp_path, quiet).initrd.read_bytes() == whole
    (image.initrd.parent / guest_image.MANIFEST).write_text("{")
    assert guest_image.ensure_guest_image(tmp_path, quiet) == image
    assert shop.visits == 3


def test_concurrent_builders_build_once(tmp_path: Path, shop: Shop) -> None:
    images: list[guest_image.GuestImage] = []

    def build() -> None:
        images.append(guest_image.ensure_guest_image(tmp_path, quiet))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 4 and len(set(images)) == 1 and shop.visits == 1


def test_killed_build_leaves_nothing_that_counts(tmp_path: Path, shop: Shop) -> None:
    leftover = tmp_path / "images" / "build-dead"
    leftover.mkdir(parents=True)
    (leftover / "kernel").write_bytes(b"half")
    image = guest_image.ensure_guest_image(tmp_path, quiet)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [image.kernel.parent.name]
    assert shop.visits == 1


def test_failed_build_leaves_the_cache_usable(tmp_path: Path, packages: list[Path], shop: Shop) -> None:
    shop.packages = packages[1:]
    with pytest.raises(GuestError, match="0 files boot/vmlinuz"):
        guest_image.ensure_guest_image(tmp_path, quiet)
    shop.packages = packages
    assert guest_image.ensure_guest_image(tmp_path, quiet).kernel.exists()
    manifest = json.loads(next((tmp_path / "images").glob("*/manifest.json")).read_text())
    assert manifest["packages"] == [package.name for package in packages]


def test_missing_module_is_named(tmp_path: Path, packages: list[Path], shop: Shop) -> None:
    bare = make_package(
        tmp_path,
        "bare",
        {"boot/vmlinuz-6.1": b"k", "lib/modules/6.1/kernel/virtio.ko": b"m"},
    )
    shop.packages = [bare, *packages[1:]]
    with pytest.raises(GuestError, match="no module virtio_ring"):
        guest_image.ensure_guest_image(tmp_path, quiet)


def test_unknown_package_names_itself_and_says_what_to_do() -> None:
    with pytest.raises(
        AptError, match=r"^`apt-get --print-uris download no-such-package-at-all` failed: E: "
    ) as caught:
        debian_packages.package_file_names(["no-such-package-at-all"])
    assert "apt-get update" in caught.value.hint


def test_machine_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AptError, match="apt-get is not installed") as caught:
        guest_image.ensure_guest_image(tmp_path / "cache", quiet)
    assert "REPLICATOR_CACHE" in caught.value.hint


def test_stale_lists_are_updated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[str] = []

    def offline(_meta: str, _prefix: str) -> str:
        raise AptError("404 Not Found", hint="offline")

    monkeypatch.setattr(debian_packages, "resolve_meta", offline)
    monkeypatch.setattr(debian_packages, "update_lists", lambda _progress: updates.append("update"))
    with pytest.raises(AptError, match="404"):
        guest_image.ensure_guest_image(tmp_path, quiet)
    assert updates == ["update"]


def test_cache_directory_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPLICATOR_CACHE", "/somewhere")
    assert guest_image.default_cache_dir() == Path("/somewhere")
    monkeypatch.delenv("REPLICATOR_CACHE")
    assert guest_image.default_cache_dir() == Path.home() / ".cache" / "replicator"


def test_services_are_valid_perl_and_init_is_valid_shell(tmp_path: Path) -> None:
    for name, script, checker in (
        ("services.pl", guest_scripts.SERVICES, ["perl", "-c"]),
        ("init", guest_scripts.INIT, ["sh", "-n"]),
    ):
        if shutil.which(checker[0]) is None:
            continue
        text = guest_scripts.fill_in(script)
        assert "@REDIS" not in text and "@READY" not in text and "@COMMAND" not in text
        (tmp_path / name).write_text(text)
        done = subprocess.run(
            [*checker, str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

"""The configuration files of a drill's pair, and where its file arbiter is.

Each side reaches the file arbiter by a symbolic link of its own, so that it can be taken from one of them. The pair
runs as one in earnest would: with keys, and a pace that follows its output.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from replicator.demo.lab import REPLICATION, Lab
from replicator.drill.matrix.faults import Setting
from replicator.drill.stand.etcd import ETCD_URL
from replicator.drill.stand.relaying import RELAY_HOST, RELAY_PORT
from replicator.link.keys import write_keypair
from replicator.service.config import DEFAULT_PORT, Mode

#: Longest epoch, when no output waits.
EPOCH_MS = 30
GOAL = "latency=15ms"
#: In COLO, from one checkpoint to the next when outputs agree. However often they differ, comparing is not given up: a
#: cell's phase is there soon.
COLO_MAX_MS = 80
STAGING_MIB = 8
ACK_PATIENCE_MS = 500
#: Of the file arbiter, as in the demonstration; etcd has the shortest that it allows.
TTL_MS = 300

_CONFIG = """[node]
name = "{name}"
state_dir = "{scratch}/{name}"
[guest]
file = "{scratch}/guest.toml"
taps = ["{tap}"]
[listen]
host = "{own}"
[peer]
host = "{peer}"
port = {port}
[keys]
secret = "{scratch}/{name}.key_secret"
allow = ["{scratch}/{other}.key"]
[arbiter]
{arbiter}
[epoch]
pacing = "adaptive"
goal = "{goal}"
interval_max_ms = {epoch_ms}
staging_mib = {staging_mib}
ack_patience_ms = {patience_ms}
"""


_COLO_CONFIG = """mode = "colo"
[colo]
interval_max_ms = {colo_max_ms}
differences_max = 0
"""


def arbiter_link(scratch: Path, name: str) -> Path:
    """Where a side looks for the file arbiter."""
    return scratch / f"arbiter-of-{name}"


def arbiter_folder(scratch: Path) -> Path:
    return scratch / "arbiter"


def write_configs(lab: Lab, sides: Mapping[str, str], guest_file: str, setting: Setting, mode: Mode) -> None:
    """Everything the daemons read, and an arbiter that knows nothing yet."""
    scratch = lab.scratch
    (scratch / "guest.toml").write_text(guest_file)
    shutil.rmtree(arbiter_folder(scratch), ignore_errors=True)
    arbiter_folder(scratch).mkdir(mode=0o700)
    for name in sides:
        if not (scratch / f"{name}.key").exists():
            write_keypair(scratch, name)
    for name, host in sides.items():
        link = arbiter_link(scratch, name)
        link.unlink(missing_ok=True)
        link.symlink_to(arbiter_folder(scratch))
        ((other_name, other),) = [one for one in sides.items() if one != (name, host)]
        is_relayed = setting is Setting.RELAYED
        text = _CONFIG.format(
            name=name,
            other=other_name,
            goal=GOAL,
            scratch=scratch,
            tap=lab.tap_name(host),
            own=lab.address(host, REPLICATION),
            peer=RELAY_HOST if is_relayed else lab.address(other, REPLICATION),
            port=RELAY_PORT if is_relayed else DEFAULT_PORT,
            arbiter=f'url = "{ETCD_URL}"'
            if setting is Setting.ETCD
            else f'url = "file://{link}"\nttl_ms = {TTL_MS}',
            epoch_ms=EPOCH_MS,
            staging_mib=STAGING_MIB,
            patience_ms=ACK_PATIENCE_MS,
        )
        if mode is Mode.COLO:
            text += _COLO_CONFIG.format(colo_max_ms=COLO_MAX_MS)
        (scratch / f"{name}.toml").write_text(text)

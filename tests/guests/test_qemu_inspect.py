"""The way to the agent of a QEMU that somebody else started, found in what QEMU says of itself."""

from __future__ import annotations

import pytest

from replicator.guests.qemu_inspect import parse_port

QTREE = """bus: main-system-bus
  type System
      dev: virtio-serial-pci, id ""
        disable-modern = true
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-serial-device, id ""
            max_ports = 2 (0x2)
            bus: virtio-serial-bus.0
              type virtio-serial-bus
              dev: virtserialport, id "spice"
                chardev = "spicechannel0"
                nr = 2 (0x2)
                name = "com.redhat.spice.0"
                port 2, guest off, host off, throttle off
              dev: virtserialport, id ""
                chardev = "agent0"
                nr = 1 (0x1)
                name = "org.qemu.guest_agent.0"
                port 1, guest off, host on, throttle off
      dev: virtio-net-pci, id ""
        name = "com.example.not-a-port"
        chardev = "other"
"""


@pytest.mark.parametrize(
    ("channel", "chardev"),
    [
        ("org.qemu.guest_agent.0", "agent0"),
        ("com.redhat.spice.0", "spicechannel0"),
        ("com.example.not-a-port", None),
        ("org.qemu.guest_agent", None),
    ],
)
def test_a_port_is_found_by_its_name(channel: str, chardev: str | None) -> None:
    assert parse_port(QTREE, channel) == chardev


def test_a_port_without_a_character_device_leads_nowhere() -> None:
    assert parse_port(QTREE.replace('"agent0"', '""'), "org.qemu.guest_agent.0") is None
    assert parse_port("", "org.qemu.guest_agent.0") is None

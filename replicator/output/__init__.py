"""The way of a guest's frames: NIC sockets, TAP devices, announcements."""

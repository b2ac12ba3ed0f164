"""The other end of a plain TCP connection: takes all that comes and says at the end that it has.

    python -m replicator.bench.loads.sink ADDRESS

It listens at a port that the kernel chooses and prints it as a line.
"""

from __future__ import annotations

import socket
import sys

DONE = b"done"
_BUFFER_BYTES = 1 << 20


def main() -> None:
    with socket.create_server((sys.argv[1], 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(_BUFFER_BYTES)
            while connection.recv_into(buffer):
                pass
            connection.sendall(DONE)


if __name__ == "__main__":
    main()

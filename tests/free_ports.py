"""Ports for programs that cannot choose one themselves. Imported by name, as held_backend is."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Not the generator of the module, which other tests may seed: processes of pytest would then
# choose the same port.
_chance = random.SystemRandom()


def find_free_port() -> int:
    """Returns a free port of the loopback interface, on which a program listens a little later.

    The kernel chooses from another range for port 0 and for outgoing connections, so nobody gets
    this port in the meantime.
    """
    first = int(_RANGE.read_text().split()[0])
    for port in _chance.sample(range(first // 2, first), 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # a server of this machine has it
            continue
        return port
    raise AssertionError("no free port")

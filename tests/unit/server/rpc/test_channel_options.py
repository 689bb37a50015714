"""Tests of the gRPC options: the number of connections follows the limit of open files."""

import subprocess
import sys

import pytest

# This runs in a process of its own because a lowered limit cannot be raised again.
LIMITED = """
import resource, sys
soft, hard, wanted = (int(text) for text in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from imagemint.server.rpc.channel_options import compute_connection_limit
from imagemint.server.settings import ServeSettings
print(compute_connection_limit(ServeSettings(max_connections=wanted or None)))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed", "raised"),
    [
        (256, 1_024, 0, 768, 1_024),
        (256, 8_192, 0, 4_096, 4_352),
        (8_192, 8_192, 0, 4_096, 8_192),
        (256, 256, 0, 128, 256),
        (256, 8_192, 5_000, 5_000, 5_256),
        (256, 1_024, 5_000, 768, 1_024),
        (256, 1_024, 100, 100, 356),
    ],
)
def test_connections_leave_descriptors_for_files(soft, hard, wanted, allowed, raised):
    """The soft limit is raised as needed. The rest of the server keeps 256 files or a half."""
    command = (sys.executable, "-c", LIMITED, str(soft), str(hard), str(wanted))
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told[-3:] == [str(allowed), str(raised), str(hard)]

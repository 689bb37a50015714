"""A server with all its processes."""

import os
import socket
from pathlib import Path

import pytest
from peers.processes import Tree, find_free_ports

# A child that leaves its parent's session, as daemons do, and tells when it is there.
FAMILY = 'setsid sh -c "echo \\$\\$ > told; exec sleep 60" & exec sleep 60'


@pytest.fixture
def family(tmp_path):
    """The tree, and the number of the child in a session of its own."""
    os.mkfifo(tmp_path / "told")
    tree = Tree(["sh", "-c", FAMILY], {}, tmp_path)
    child = int((tmp_path / "told").read_text())  # waits until it is written
    yield tree, child
    tree.stop()


def state_of(pid):
    """The letter of man 5 proc; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return stat.rpartition(")")[2].split()[0]


def test_tree_holds_children_of_other_sessions(family):
    """Both processes, and the memory of both."""
    tree, child = family
    assert child in {each.pid for each in tree.processes()}
    assert len(tree.processes()) == 2
    assert tree.memory_bytes() > 0
    assert tree.ended is None


def test_frozen_tree_stands_still(family):
    """All of it, and none of it afterwards."""
    tree, child = family
    with tree.frozen():
        os.waitid(os.P_PID, tree.processes()[0].pid, os.WSTOPPED | os.WNOWAIT)
        assert state_of(child) == "T"
    assert state_of(child) != "T"


def test_stop_leaves_nobody(family):
    """The first process is asked to end, its orphan in another session killed."""
    tree, child = family
    tree.stop()
    assert tree.ended is not None
    assert tree.processes() == []
    assert state_of(child) in (None, "Z")


def test_output_is_kept(tmp_path):
    """What a server printed before it ended, both streams."""
    tree = Tree(["sh", "-c", "echo one; echo two >&2"], {}, tmp_path)
    tree.stop()
    assert set(tree.output().split()) <= {"one", "two"}


def test_ports_are_free_and_differ():
    """Each can be listened on."""
    ports = find_free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()

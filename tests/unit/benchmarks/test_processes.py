"""Tests of a server with all its processes."""

import os
import socket
from pathlib import Path

import pytest
from peers.processes import Tree, find_free_ports

# A child that leaves its parent's session, as daemons do, and reports when it runs.
FAMILY = 'setsid sh -c "echo \\$\\$ > told; exec sleep 60" & exec sleep 60'


@pytest.fixture
def family(tmp_path):
    """The process tree, and the pid of the child in its own session."""
    os.mkfifo(tmp_path / "told")
    tree = Tree(["sh", "-c", FAMILY], {}, tmp_path)
    child = int((tmp_path / "told").read_text())  # waits until it is written
    yield tree, child
    tree.stop()


def read_state(pid):
    """Returns the state letter of man 5 proc, or None if the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return stat.rpartition(")")[2].split()[0]


def test_tree_includes_children_of_other_sessions(family):
    """The tree has both processes and the memory of both."""
    tree, child = family
    assert child in {process.pid for process in tree.list_processes()}
    assert len(tree.list_processes()) == 2
    assert tree.measure_memory() > 0
    assert tree.ended is None


def test_frozen_tree_is_stopped(family):
    """All processes are stopped while the tree is frozen, and none afterwards."""
    tree, child = family
    with tree.freeze():
        assert {read_state(process.pid) for process in tree.list_processes()} == {"T"}
        assert read_state(child) == "T"
    assert read_state(child) != "T"


def test_stop_ends_all_processes(family):
    """The first process is terminated, and its child in another session is killed."""
    tree, child = family
    tree.stop()
    assert tree.ended is not None
    assert tree.list_processes() == []
    assert read_state(child) in (None, "Z")


def test_output_is_kept(tmp_path):
    """Both streams of a server that has ended can be read."""
    tree = Tree(["sh", "-c", "echo one; echo two >&2"], {}, tmp_path)
    tree.stop()
    assert set(tree.read_output().split()) <= {"one", "two"}


def test_ports_are_free_and_distinct():
    """A server can listen on each port."""
    ports = find_free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()

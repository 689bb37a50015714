"""Tests of data sets from a real Ray cluster of two nodes, also if a worker is killed."""

import os
import signal
from pathlib import Path

import pytest
from s3_server import BUCKET, s3_server
from tiny_bundles import write_bundle

from imagemint.client.cli import main

# Set before the import: no token is written to the home folder, and a busy machine may start
# slowly.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_raylet_start_wait_time_s"] = "150"  # noqa: SIM112 - Ray spells it so
ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'imagemint[ray]'")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.timeout(300),
    # of Ray, in its threads and at its end
    pytest.mark.filterwarnings("ignore"),
]

COMMON = ["dataset", "--model=tiny", "--seed=7", "--classes=balanced", "--format=webdataset"]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with one core each, and an S3 server. Its value reads objects."""
    with pytest.MonkeyPatch.context() as patch, s3_server(patch.setenv) as read_objects:
        yield from start_cluster(read_objects)


def start_cluster(read_objects):
    """Starts a cluster with access to the S3 server and yields a function that reads objects."""
    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    started = cluster_utils.Cluster(initialize_head=True, head_node_args=options)
    del options["include_dashboard"]
    started.add_node(**options)
    ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
    yield read_objects
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def models(tmp_path):
    """A repository with one model."""
    write_bundle(tmp_path / "models")
    return tmp_path / "models"


def read_files(folder):
    """Returns the bytes of each file by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def list_workers():
    """Returns the ids of worker processes that run a task."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                title = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_work"):
                found.append(int(path.name))
    return found


def test_cluster_writes_the_same_bytes(cluster, models, tmp_path):
    """Two nodes share the shards, and a killed worker is replaced."""
    size = ["--count=4000", "--shard-size=200", f"--repository={models}", "--local"]
    assert main([*COMMON, *size, f"--out={tmp_path / 'here'}", "--workers=1"]) == 0
    killed = []
    original = ray.wait

    def kill_then_wait(active, **options):
        """Kills one worker, once some shards are finished and others are in progress."""
        if not killed and any((tmp_path / "ray").glob("*.tar")) and (running := list_workers()):
            os.kill(running[0], signal.SIGKILL)
            killed.append(running[0])
        return original(active, **options)

    ray.wait = kill_then_wait
    try:
        assert main([*COMMON, *size, f"--out={tmp_path / 'ray'}", "--engine=ray"]) == 0
    finally:
        ray.wait = original
    assert killed
    assert read_files(tmp_path / "ray") == read_files(tmp_path / "here")


def test_cluster_writes_to_s3(cluster, models, tmp_path):
    """Nodes without a common disk write to an object store, with the same bytes."""
    size = ["--count=100", "--shard-size=20", f"--repository={models}", "--local"]
    assert main([*COMMON, *size, f"--out={tmp_path / 'here'}", "--workers=1"]) == 0
    assert main([*COMMON, *size, f"--out=s3://{BUCKET}/set", "--engine=ray"]) == 0
    assert cluster("set/") == read_files(tmp_path / "here")


def test_error_of_a_task_is_one_line(cluster, models, tmp_path, capsys):
    """A shard that cannot be written ends the run with its reason, without Ray's traceback."""
    out = tmp_path / "set"
    size = ["--count=40", "--shard-size=20", f"--repository={models}", "--local", f"--out={out}"]
    assert main([*COMMON, *size]) == 0
    (out / "SHA256SUMS").unlink()
    name = "train-000000000-000000019.tar"
    assert main([*COMMON, *size, "--engine=ray"]) == 1
    assert f"{name} is not the file that this data set has there" in capsys.readouterr().err

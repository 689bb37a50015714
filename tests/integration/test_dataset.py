"""Tests that data sets from servers have the bytes of the engine, whatever happens to servers."""

import asyncio
import json
import os
import threading

import pytest
from held_backend import WAIT_S
from tiny_bundles import write_bundle, write_critic, write_variant

from imagemint.client.cli import main
from imagemint.client.errors import ClientClosed, Unavailable
from imagemint.client.models import Limits, Model, ModelState, ModelVersion
from imagemint.dataset import sources
from imagemint.dataset.making import read_plan
from imagemint.dataset.places import open_folder
from imagemint.dataset.sources import ServerSpec, describe_model
from imagemint.v1 import manifest_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENGINE = {"onnxruntime", "imagemint"}
COMMON = ["--count=300", "--shard-size=40", "--seed=7", "--classes=balanced"]
COMMON += [f"--timeout-s={WAIT_S}"]


async def make(out, *flags, model="digits", format_name="webdataset"):
    """Runs the command on another thread, because the servers need this one."""
    words = ["dataset", f"--model={model}", f"--format={format_name}", f"--out={out}", *COMMON]
    return await asyncio.to_thread(main, [*words, *flags])


def make_local_flags(models):
    """Returns the flags for the engine in this process."""
    return ["--local", f"--repository={models}", "--workers=1"]


def make_server_flags(*apps, workers=1):
    """Returns the flags for these servers."""
    addresses = ",".join(app.grpc_address for app in apps)
    return [f"--server={addresses}", f"--workers={workers}"]


async def wait_for_shard(folder, making):
    """Waits until a run that is being made has finished a shard."""
    journal = folder / ".imagemint/done"
    while not (journal.is_dir() and any(journal.iterdir())):
        assert not making.done()
        await asyncio.sleep(0.001)


def read_files(folder):
    """Returns the bytes of each file by its name, without the releases of an engine in the plan."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    plan = json.loads(found["imagemint.json"])
    plan["software"] = {
        name: release for name, release in plan["software"].items() if name not in ENGINE
    }
    sums = found["SHA256SUMS"].splitlines()
    listed = [line for line in sums if not line.endswith(b"  imagemint.json")]
    assert len(listed) == len(sums) - 1
    return found | {"imagemint.json": plan, "SHA256SUMS": listed}


@pytest.mark.parametrize("format_name", ["webdataset", "parquet", "imagefolder", "npz"])
async def test_server_and_engine_write_the_same_bytes(app, models, tmp_path, format_name):
    """The server sends raw pixels, which the command encodes as those of the engine."""
    assert await make(tmp_path / "server", *make_server_flags(app), format_name=format_name) == 0
    assert await make(tmp_path / "local", *make_local_flags(models), format_name=format_name) == 0
    assert read_files(tmp_path / "server") == read_files(tmp_path / "local")


@pytest.mark.parametrize("model", ["plain", "styled", "people"])
async def test_other_models_write_the_same_bytes(app, models, tmp_path, model):
    """This holds for models without classes, with truncation and with captions."""
    flags = ["--classes=random"]
    assert await make(tmp_path / "server", *make_server_flags(app), *flags, model=model) == 0
    assert await make(tmp_path / "local", *make_local_flags(models), *flags, model=model) == 0
    assert read_files(tmp_path / "server") == read_files(tmp_path / "local")


async def test_several_servers_share_the_work(serve, app, models, tmp_path):
    """Two processes with two servers write the bytes of one server."""
    other = await serve(models)
    assert await make(tmp_path / "two", *make_server_flags(app, other, workers=2)) == 0
    assert await make(tmp_path / "local", *make_local_flags(models)) == 0
    assert read_files(tmp_path / "two") == read_files(tmp_path / "local")


async def test_workers_begin_with_different_servers(serve, models, tmp_path, scrape, total):
    """The first worker asks the first server, the second one the second server."""
    assert await make(tmp_path / "set", *make_local_flags(models)) == 0
    plan = read_plan(open_folder(str(tmp_path / "set")))
    both = [await serve(models), await serve(models)]
    spec = ServerSpec(tuple(each.grpc_address for each in both), timeout_s=WAIT_S)

    def read(worker, count):
        with spec.open_source(plan, worker) as source:
            return sum(len(batch) for batch in source.read(0, count))

    for worker, count in enumerate([30, 50]):
        assert await asyncio.to_thread(read, worker, count) == count
    made = [
        total(await scrape(each.metrics_address), "imagemint_images_total", model="digits")
        for each in both
    ]
    assert made == [30, 50]


async def test_one_server_that_answers_is_enough(app, models, tmp_path, capsys):
    """A server that does not answer at the start is named, and the others make its images."""
    absent = "127.0.0.1:1"
    flags = [f"--server={absent},{app.grpc_address}", "--workers=1"]
    assert await make(tmp_path / "server", *flags) == 0
    assert f"continuing without it: cannot reach {absent}" in capsys.readouterr().err
    assert await make(tmp_path / "local", *make_local_flags(models)) == 0
    assert read_files(tmp_path / "server") == read_files(tmp_path / "local")
    assert await make(tmp_path / "none", f"--server={absent}", "--timeout-s=0.5") == os.EX_TEMPFAIL
    assert f"cannot reach {absent}" in capsys.readouterr().err


async def test_next_server_continues(serve, app, models, tmp_path):
    """A server that stops for good is replaced by the next one, from the next index on."""
    leaving = await serve(models, drain_grace_s=0.1)
    flags = [
        *make_server_flags(leaving, app),
        "--timeout-s=4",  # the next chunk arrives in this time, also on a busy machine
        "--count=100000",
        "--shard-size=20000",
    ]
    making = asyncio.ensure_future(make(tmp_path / "set", *flags, format_name="npz"))
    await wait_for_shard(tmp_path / "set", making)
    await leaving.stop()
    assert await making == 0
    flags = [*make_local_flags(models), "--count=100000", "--shard-size=20000"]
    assert await make(tmp_path / "local", *flags, format_name="npz") == 0
    assert read_files(tmp_path / "set") == read_files(tmp_path / "local")


async def test_restarted_server_is_waited_for(serve, models, tmp_path, monkeypatch):
    """A server that is away when a shard begins does not end the run."""
    assert await make(tmp_path / "set", *make_local_flags(models)) == 0
    plan = read_plan(open_folder(str(tmp_path / "set")))
    app = await serve(models)
    spec = ServerSpec((app.grpc_address,), timeout_s=WAIT_S)
    waits = asyncio.Queue()
    loop = asyncio.get_running_loop()

    class Recorded:
        def compute_delay_s(self, failures, asked_s):
            loop.call_soon_threadsafe(waits.put_nowait, (failures, asked_s))
            return 0.01

    monkeypatch.setattr(sources, "BACKOFF", Recorded())
    with spec.open_source(plan, 0) as source:

        def read(first, count):
            return [serial for batch in source.read(first, count) for serial in batch.serials]

        before = await asyncio.to_thread(read, 0, 40)
        await app.stop()
        reading = asyncio.create_task(asyncio.to_thread(read, 40, 40))
        await waits.get()
        await serve(models, grpc_address=app.grpc_address)
        after = await reading
    assert [each.split("/")[2].split("?")[0] for each in before + after] == [
        str(index) for index in range(80)
    ]


@pytest.mark.parametrize("workers", [1, 2])
async def test_lost_server_is_a_temporary_failure(serve, models, tmp_path, capsys, workers):
    """A server that stays away ends the run with status 75, from each worker."""
    app = await serve(models, drain_grace_s=0.1)
    # A chunk of the running server arrives in this time, also on a busy machine.
    out, flags = tmp_path / "set", ["--timeout-s=3", "--count=1000000", "--shard-size=1000"]
    making = asyncio.ensure_future(
        make(out, *make_server_flags(app, workers=workers), *flags, format_name="npz")
    )
    await wait_for_shard(out, making)
    await app.stop()
    assert await making == os.EX_TEMPFAIL
    assert "Finished shards are kept. Run the same command" in capsys.readouterr().err


async def test_stopped_source_waits_for_no_server(serve, models, tmp_path, monkeypatch):
    """Ctrl-C, or the error of another worker, ends a read that waits for a server at once."""
    assert await make(tmp_path / "set", *make_local_flags(models)) == 0
    plan = read_plan(open_folder(str(tmp_path / "set")))
    app = await serve(models)
    await app.stop()
    waits = asyncio.Queue()
    loop = asyncio.get_running_loop()

    class Long:
        def compute_delay_s(self, failures, asked_s):
            loop.call_soon_threadsafe(waits.put_nowait, (failures, asked_s))
            return 3600.0

    monkeypatch.setattr(sources, "BACKOFF", Long())
    with ServerSpec((app.grpc_address,), timeout_s=7200.0).open_source(plan, 0) as source:
        reading = asyncio.create_task(asyncio.to_thread(list, source.read(0, 40)))
        await waits.get()
        source.stop()
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(ClientClosed):
                await reading


async def test_loading_model_is_away_and_not_missing():
    """After a restart the model is ready again in a moment, so that asking again helps."""
    loading = ModelVersion("1", ModelState.LOADING, "", "", "", "", None)
    model = Model("digits", "", (loading,), Limits(64, 64, 64))
    for version in ("1", ""):  # a server that starts has no default version yet
        with pytest.raises(Unavailable, match="digits@1 is loading"):
            describe_model(model, version)


async def test_missing_server_is_an_error(serve, models, tmp_path, capsys):
    """A server that is gone ends the run with its address."""
    gone = await serve(models)
    address = gone.grpc_address
    await gone.stop()
    assert await make(tmp_path / "set", f"--server={address}", "--timeout-s=0.5") == os.EX_TEMPFAIL
    said = capsys.readouterr().err
    assert address in said
    assert "Finished shards are kept. Run the same command again to continue" in said
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("start", ["absent", "loading"])
async def test_starting_server_is_waited_for(serve, models, tmp_path, monkeypatch, capsys, start):  # noqa: PLR0917 - fixtures
    """A server that does not accept connections, or loads the model, is named and asked again."""
    app = await serve(models)
    waits = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loaded = threading.Event()
    if start == "absent":
        await app.stop()
    else:
        original = sources.describe_model

        def describe(model, version):
            if not loaded.is_set():
                raise Unavailable("digits@1 is loading", reason="MODEL_NOT_READY")
            return original(model, version)

        monkeypatch.setattr(sources, "describe_model", describe)

    class Recorded:
        def compute_delay_s(self, failures, asked_s):
            loop.call_soon_threadsafe(waits.put_nowait, failures)
            return 0.01

    monkeypatch.setattr(sources, "BACKOFF", Recorded())
    flags = [f"--server={app.grpc_address}", "--workers=1", f"--timeout-s={WAIT_S}"]
    making = asyncio.create_task(make(tmp_path / "set", *flags))
    assert [await waits.get(), await waits.get()] == [1, 2]
    if start == "absent":
        await serve(models, grpc_address=app.grpc_address)
    loaded.set()
    assert await making == 0
    said = capsys.readouterr().err
    assert said.count(f"waiting up to {WAIT_S:g} s for a server: ") == 1
    assert ("is loading" if start == "loading" else app.grpc_address) in said


async def test_servers_that_differ_are_refused(serve, app, tmp_path, capsys):
    """Two servers with other bytes under the same version would mix two data sets."""
    write_bundle(tmp_path / "models", "digits", weights_seed=1)
    other = await serve(tmp_path / "models")
    assert await make(tmp_path / "set", *make_server_flags(app, other)) == 1
    assert "would make different images of digits@1: bundle_sha256" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


async def test_changed_variant_is_refused(serve, tmp_path, capsys):
    """A server of another variant does not continue a data set of the reference."""
    bundle = write_bundle(tmp_path / "models", "digits")
    write_variant(bundle, "half", precision=pb.PRECISION_FP16)
    app = await serve(tmp_path / "models")
    assert await make(tmp_path / "set", *make_server_flags(app)) == 0
    (tmp_path / "set/SHA256SUMS").unlink()
    await app.stop()
    other = await serve(tmp_path / "models", variant="auto", grpc_address=app.grpc_address)
    assert await make(tmp_path / "set", *make_server_flags(other)) == 1
    assert "runs variant half" in capsys.readouterr().err


async def test_verification_can_use_a_server(app, models, tmp_path, capsys):
    """Images of the engine are compared with those of a server."""
    assert await make(tmp_path / "set", *make_local_flags(models)) == 0
    words = ["dataset", f"--verify={tmp_path / 'set'}", f"--server={app.grpc_address}", "--all"]
    assert await asyncio.to_thread(main, words) == 0
    assert "300 images of 8 of 8 shards" in capsys.readouterr().out


async def test_refused_truncation_leaves_no_folder(app, tmp_path, capsys):
    """A wrong setting does not claim the folder, so that the corrected command can have it."""
    out = tmp_path / "set"
    for model, said in (("digits", "takes no truncation"), ("styled", "takes 0.0 to 1.0")):
        assert await make(out, *make_server_flags(app), "--truncation=1.5", model=model) == 1
        assert said in capsys.readouterr().err
        assert not out.exists()


async def test_worker_reports_the_reason(serve, tmp_path, capsys):
    """An error in another process is one line with the reason."""
    write_critic(write_bundle(tmp_path / "models", "digits"))
    app, out = await serve(tmp_path / "models"), tmp_path / "set"
    flags = ["--min-class-confidence=1", "--max-tries=1", "--workers=2"]
    assert await make(out, *make_server_flags(app), *flags) == 1
    assert "passes the filter with max_tries 1" in capsys.readouterr().err
    assert not list(out.glob("*.tar"))

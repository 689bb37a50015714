"""Tests of a server whose model repository is in a real S3-compatible store."""

import asyncio

import boto3
import pytest
from s3_server import BUCKET, s3_server
from server_process import ended, line_of, process
from switched_store import put_directory, switched_store
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient
from imagemint.engine.errors import LoadFailed
from imagemint.server.storage.errors import StoreError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # moto, botocore and aiohttp close their sockets late
    pytest.mark.filterwarnings("ignore"),
]

ADDRESS = f"s3://{BUCKET}/models"
SYNCS = "imagemint_repository_syncs_total"


@pytest.fixture
def put_bundle(tmp_path):
    """Returns a function that uploads a bundle file by file, SHA256SUMS first."""

    def put(name, version, **options):
        directory = write_bundle(tmp_path / "drafts", name, version, **options)
        for path in sorted(directory.iterdir()):
            key = f"models/{name}/{version}/{path.name}"
            boto3.client("s3").upload_file(str(path), BUCKET, key)

    return put


async def test_workers_serve_from_s3(  # noqa: PLR0917 - fixtures
    monkeypatch, tmp_path, put_bundle, serve, scrape, total, until
):
    """Each bundle is copied once for both workers.

    They serve a new one, and all after S3 is gone.
    """
    cache = tmp_path / "cache"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    options = (f"--repository={ADDRESS}", f"--repository-cache={cache}", "--poll-interval-s=0.2")
    with s3_server(monkeypatch.setenv):
        await asyncio.to_thread(put_bundle, "tiny", 1)
        async with process(*options, "--processes=2", "--start-timeout-s=60") as server:
            ready = await line_of(server, "ready")
            assert ready["models"] == {"tiny": [1]}
            await asyncio.to_thread(put_bundle, "tiny", 2, weights_seed=2)

            async def serves_second():
                samples = await scrape(ready["metrics_address"])
                copied = total(samples, SYNCS, what="bundle", outcome="ok")
                # One worker may serve what the other one has copied and not counted yet.
                return total(samples, "imagemint_model_info", version="2") == 1 and copied >= 2

            await until(serves_second)
            samples = await scrape(ready["metrics_address"])
            assert total(samples, SYNCS, what="bundle", outcome="ok") == 2
            assert total(samples, SYNCS, outcome="failed") == 0
            async with AsyncClient(ready["grpc_address"]) as client:
                assert len(await client.generate("tiny", 3, version="2")) == 3
            server.terminate()
            assert await ended(server) == 0
    app = await serve(ADDRESS, repository_cache=cache, start_timeout_s=60)
    assert app.served == {"tiny": [1, 2]}
    samples = await scrape(app.metrics_address)
    assert total(samples, SYNCS, what="listing", outcome="failed") == 1
    assert total(samples, "imagemint_repository_lost") == 1


async def test_missing_bucket_fails_the_start(monkeypatch, tmp_path, serve):
    """The error has the wrong address."""
    why = "s3://nowhere/models cannot be listed: FileNotFound"
    with s3_server(monkeypatch.setenv), pytest.raises(StoreError, match=why):
        await serve("s3://nowhere/models", repository_cache=tmp_path)


@pytest.mark.parametrize("mode", ["none", "poll"])
async def test_server_waits_for_an_unreachable_store(tmp_path, serve, until, mode):
    """The server starts without models, and serves when the store answers, however late."""
    draft = write_bundle(tmp_path / "drafts", "tiny", 1)
    with switched_store() as store:
        put_directory("switched://models/tiny/1", draft)
        store.is_down = True
        options = {"model_control": mode, "poll_interval_s": 0.05}
        app = await serve("switched://models", repository_cache=tmp_path / "cache", **options)
        assert app.served == {}
        assert not app.repository.ready

        async def has_tried_several_times():
            samples = app.metrics.registry.get_sample_value
            return samples(SYNCS, {"what": "listing", "outcome": "failed"}) >= 4

        await until(has_tried_several_times)
        store.is_down = False

        async def serves():
            return app.served == {"tiny": [1]}

        await until(serves)
        assert app.repository.ready


async def test_load_from_an_unreachable_store_fails(tmp_path, serve):
    """The error names the repository as the cause, and loaded models continue to serve."""
    draft = write_bundle(tmp_path / "drafts", "tiny", 1)
    with switched_store() as store:
        put_directory("switched://models/tiny/1", draft)
        options = {"model_control": "explicit", "load_models": ["tiny"]}
        app = await serve("switched://models", repository_cache=tmp_path / "cache", **options)
        store.is_down = True
        with pytest.raises(LoadFailed, match="the repository cannot be read"):
            await app.control.load("tiny")
        assert app.served == {"tiny": [1]}

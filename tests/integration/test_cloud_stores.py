"""Tests of a server whose model repository is in Google Cloud Storage or Azure Blob Storage.

The tests of S3 cover more; these show that the other file systems behave in the same way.
"""

import asyncio

import pytest
from cloud_stores import BUCKET, azure_store, google_store
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient
from imagemint.server.storage.errors import StoreError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # aiohttp and the emulators close their sockets late
    pytest.mark.filterwarnings("ignore"),
]

STORES = {"gs": google_store, "az": azure_store}


@pytest.fixture(params=STORES)
def store(request):
    """The context manager of each store."""
    return STORES[request.param]


def put(files, directory, *names):
    """Uploads files of a bundle, or all of them."""
    model, version = directory.parts[-2:]
    for name in names or sorted(path.name for path in directory.iterdir()):
        files.put_file(str(directory / name), f"{BUCKET}/models/{model}/{version}/{name}")


async def test_bundles_are_served_from_the_store(store, monkeypatch, tmp_path, serve, until):
    """A version counts when it is complete, and is served without a restart."""
    drafts = tmp_path / "drafts"
    first = write_bundle(drafts, "tiny", 1)
    second = write_bundle(drafts, "tiny", 2, weights_seed=2)
    with store(monkeypatch.setenv) as (scheme, files):
        address = f"{scheme}://{BUCKET}/models"
        await asyncio.to_thread(put, files, first)
        await asyncio.to_thread(put, files, second, "SHA256SUMS")
        settings = {"repository_cache": tmp_path / "cache", "start_timeout_s": 60}
        app = await serve(address, poll_interval_s=0.1, **settings)
        assert app.served == {"tiny": [1]}
        await asyncio.to_thread(put, files, second)

        async def serves_second():
            return app.served == {"tiny": [1, 2]}

        await until(serves_second)
        async with AsyncClient(app.grpc_address) as client:
            assert len(await client.generate("tiny", 3, version="2")) == 3
        await app.stop()  # before the store, whose absence both libraries try to outlast


async def test_missing_bucket_fails_the_start(store, monkeypatch, tmp_path, serve):
    """The error has the wrong address."""
    with store(monkeypatch.setenv) as (scheme, _):
        address = f"{scheme}://nowhere/models"
        with pytest.raises(StoreError, match=f"{address} cannot be listed: FileNotFound"):
            await serve(address, repository_cache=tmp_path)

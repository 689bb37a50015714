"""Tests that a filtered image depends on its index and the filter alone, and has a serial."""

import asyncio

import numpy as np
import pytest
from tiny_bundles import write_bundle, write_critic

from imagemint.client import AsyncClient, Cycle, Filter
from imagemint.client.cli import main
from imagemint.client.errors import FailedPrecondition, InvalidRequest
from imagemint.client.image_source import ServerSource
from imagemint.dataset.engine_source import EngineSource
from imagemint.engine.filtering import INDEX_END
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")
BRIGHT = Filter(min_class_confidence=0.5, max_tries=1000)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Models with a critic: `digits` with classes and `people` with captions; and one without."""
    directory = tmp_path_factory.mktemp("critics")
    write_critic(write_bundle(directory, "digits"))
    write_critic(write_bundle(directory, "styled", truncation="psi"))
    people = write_bundle(directory, "people", captions=True)
    write_critic(people, ("realness", "training_distance"))
    write_bundle(directory, "plain")
    return directory


async def test_each_index_has_one_image_that_passes(client):
    """Count and classes are as requested, and the scores are returned."""
    batch = await client.generate("digits", 60, seed=3, condition=Cycle(), image_filter=BRIGHT)
    assert batch.index.tolist() == list(range(60))
    assert batch.class_id.tolist() == [index % 10 for index in range(60)]
    assert batch.scores.class_confidence.min() >= 0.5
    assert batch.scores.rejected.max() > 1
    indices = [int(serial.split("/")[2].partition("?")[0]) for serial in batch.serials]
    expected = [i + t * INDEX_END for i, t in enumerate(batch.scores.rejected.tolist())]
    assert indices == expected


async def test_serials_make_filtered_images_again(client):
    """The serial of a filtered image is an ordinary one."""
    batch = await client.generate("digits", 30, seed=3, image_filter=BRIGHT)
    again = await client.mint(batch.serials)
    assert again.image.tobytes() == batch.image.tobytes()
    assert again.scores is None


@pytest.mark.parametrize("model", ["digits", "styled"])
async def test_filtered_images_do_not_depend_on_the_request(client, model):
    """Streams, chunks and single images give the same pixels, scores and serials."""
    selection = {"seed": 9, "image_filter": Filter(0.4, rejection_sampling=True, max_tries=1000)}
    whole = await client.generate(model, 40, **selection)
    single = await asyncio.gather(
        *(client.generate(model, 1, first_index=at, **selection) for at in range(40))
    )
    chunks = [chunk async for chunk in client.stream(model, 40, chunk_size=7, **selection)]
    for parts in (single, chunks):
        assert np.concatenate([part.image for part in parts]).tobytes() == whole.image.tobytes()
        assert [serial for part in parts for serial in part.serials] == list(whole.serials)
        for name, values in whole.scores.by_name().items():
            found = np.concatenate([part.scores.by_name()[name] for part in parts])
            assert found.tobytes() == values.tobytes()


async def test_a_filter_without_conditions_only_scores(client):
    """The pixels are those of a request without a filter."""
    plain = await client.generate("digits", 10, seed=3)
    scored = await client.generate("digits", 10, seed=3, image_filter=Filter())
    assert scored.image.tobytes() == plain.image.tobytes()
    assert scored.serials == plain.serials
    assert plain.scores is None
    assert scored.scores.rejected.tolist() == [0] * 10


async def test_encoded_pictures_and_captions(client):
    """Pictures also have scores, and candidates keep the caption of their index."""
    plain = await client.encoded("people", 12, seed=1)
    kept = await client.encoded(
        "people", 12, seed=1, image_filter=Filter(min_training_distance=0.7)
    )
    assert [each.captions for each in kept] == [each.captions for each in plain]
    assert all(each.scores.training_distance[0] >= 0.7 for each in kept)
    assert kept[0].scores.class_confidence is None


async def test_a_filter_that_rejects_everything_is_an_error(client):
    """Generate and streams report the number of tries and the best score."""
    none = Filter(min_class_confidence=1.0, max_tries=5)
    for call in (
        client.generate("digits", 4, seed=0, image_filter=none),
        anext(client.stream("digits", 400, seed=0, image_filter=none)),
    ):
        with pytest.raises(FailedPrecondition, match="class_confidence up to 0") as caught:
            await call
        assert caught.value.reason == "FILTER_EXHAUSTED"
        assert caught.value.metadata["tries"] == "5"


async def test_unknown_scores_are_refused(client):
    """The error lists the scores of the model."""
    with pytest.raises(FailedPrecondition, match="no class_confidence; its scores: realness"):
        await client.generate("people", 1, image_filter=BRIGHT)
    with pytest.raises(FailedPrecondition, match="its scores: none") as caught:
        await client.generate("plain", 1, image_filter=Filter())
    assert caught.value.reason == "SCORE_UNSUPPORTED"


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        ({"image_filter": Filter(min_class_confidence=2)}, "images.filter.min_class_confidence"),
        ({"image_filter": Filter(max_tries=0)}, "images.filter.max_tries"),
        ({"image_filter": Filter(), "first_index": 2**48}, "images.first_index"),
        ({"image_filter": Filter(), "latents": np.zeros((1, 8)), "condition": 1}, "images.filter"),
    ],
)
async def test_invalid_filters_are_refused(client, selection, field):
    """The error names the field."""
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("digits", 1, **selection)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_many_filtered_streams_are_served(models, tmp_path):
    """A server with a queue of one batch serves many filtered streams at once."""
    settings = ServeSettings(
        repository=models,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        max_batch_images=8,
        max_queue_images=16,
        max_images_per_request=16,
    )
    app = App(settings)
    await app.start()
    try:
        async with AsyncClient(app.grpc_address) as client:

            async def read(seed):
                stream = client.stream("digits", 50, seed=seed, image_filter=BRIGHT)
                return np.concatenate([chunk.image async for chunk in stream])

            found = await asyncio.gather(*map(read, [1, 2, 3, 1]))
            assert found[0].tobytes() == found[3].tobytes() != found[1].tobytes()
    finally:
        await app.stop()


@pytest.mark.parametrize("model", ["digits", "styled", "people"])
async def test_data_sets_and_the_engine_agree_with_the_server(app, models, tmp_path, model):
    """A data set has the same images from a server and from the engine, in shards of any size."""
    wanted = "--min-training-distance=0.7" if model == "people" else "--min-class-confidence=0.45"
    flags = ["--count=70", "--seed=3", "--max-tries=1000", "--format=npz", "--workers=1", wanted]
    flags += [] if model == "people" else ["--classes=balanced"]

    async def make(name, *more):
        words = ["dataset", f"--model={model}", f"--out={tmp_path / name}", *flags, *more]
        assert await asyncio.to_thread(main, words) == 0

    local = ["--local", f"--repository={models}"]
    await make("server", f"--server={app.grpc_address}", "--shard-size=40")
    await make("local", *local, "--shard-size=40")
    await make("whole", *local, "--shard-size=70")
    # The plan of the engine also names its releases, and SHA256SUMS has the digest of the plan.
    paths = [*sorted((tmp_path / "server").glob("*.npz")), tmp_path / "server/README.md"]
    assert len(paths) == 3
    assert [path.read_bytes() for path in paths] == [
        (tmp_path / "local" / path.name).read_bytes() for path in paths
    ]
    parts = [np.load(path)["image"] for path in sorted((tmp_path / "local").glob("*.npz"))]
    whole = np.load(next((tmp_path / "whole").glob("*.npz")))["image"]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


async def test_sources_for_training_filter(app, models):
    """Sources of a server and of the engine give the same images and have the filter."""
    local = EngineSource("digits", repository=models, seed=5, image_filter=BRIGHT, device="cpu")

    def read_both():
        server = ServerSource(app.grpc_address, "digits", seed=5, image_filter=BRIGHT)
        assert server.identity == local.identity
        assert server.identity.image_filter == BRIGHT
        for class_ids in (None, [2, 2, 0, 9, 1]):
            theirs, ours = server.read(7, 5, class_ids), local.read(7, 5, class_ids)
            assert theirs.image.tobytes() == ours.image.tobytes()
            assert theirs.serials == ours.serials
        server.close()

    await asyncio.to_thread(read_both)


async def test_generate_command_writes_scores(app, tmp_path):
    """`imagemint generate` filters, and an npz has the scores."""
    words = ["generate", "--model=digits", "--count=20", "--seed=1", f"--out={tmp_path}/some.npz"]
    words += [f"--server={app.grpc_address}", "--min-class-confidence=0.45", "--max-tries=1000"]
    assert await asyncio.to_thread(main, words) == 0
    with np.load(tmp_path / "some.npz") as found:
        assert found["class_confidence"].min() >= 0.45
        assert found["rejected"].shape == (20,)

"""Tests of translations with the Python client and the command, on a real server."""

import asyncio
import io

import numpy as np
import pytest
from made_sources import draw, to_file
from PIL import Image

from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.mix import parse_mix
from imagemint.client import (
    Client,
    FailedPrecondition,
    InvalidRequest,
    PerImage,
    Serial,
    Source,
    SourceShape,
    cli,
)
from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_latents
from imagemint.engine.serial import hash_source

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_translations_as_pixels(translator, backends, tmp_path):
    """Paths, bytes and arrays are sources; the answers are in their order."""
    sources = [draw(number) for number in range(3)]
    (tmp_path / "a.png").write_bytes(to_file(sources[0]))
    given = [tmp_path / "a.png", to_file(sources[1]), sources[2]]
    results = await translator.translate("fixed", given)
    expected = backends["fixed"].run(Batch(source=np.stack(sources)))
    assert np.array_equal([result.image for result in results], expected)
    for source, result in zip(sources, results, strict=True):
        assert result.serials == (f"fixed@1/0/0?source={hash_source(source)}",)
        assert result.seed is None


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
async def test_pillow_image_is_its_file(translator, mode):
    """A Pillow image has the result of the file that it was read from, also turned by EXIF."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    turned = np.rot90(draw(1))
    image = Image.fromarray(turned).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(turned[..., 0]))
    image.save(file, "PNG", exif=exif)
    sources = [file.getvalue(), Image.open(file)]
    of_file, of_image = await translator.translate("fixed", sources)
    assert of_file.serials == of_image.serials
    assert np.array_equal(of_file.image, of_image.image)


async def test_selection_of_a_translation(translator, backends):
    """Seed, index and class are sent with the sources."""
    source = draw(1)
    (each,) = await translator.translate("drawn", [source], seed=5, first_index=9, condition="3")
    batch = Batch(draw_latents(5, 9, 1, 4), np.int64([3]), source=source[np.newaxis])
    assert np.array_equal(each.image, backends["drawn"].run(batch)[0])
    assert (each.seed, each.index.tolist(), each.class_id.tolist()) == (5, [9], [3])
    parsed = Serial.parse(each.serials[0])
    assert (parsed.source, parsed.class_id) == (hash_source(source), 3)


async def test_frames_as_files(translator, backends):
    """A source can have several frames and a mask."""
    source = draw(1, depth=10)
    source[..., -1] = np.where(source[..., -1] < 128, 0, 255)
    frames = [to_file(source[..., at : at + 3]) for at in (0, 3, 6)]
    arrays = [source[..., at : at + 3] for at in (0, 3, 6)]
    given = [
        Source(frames, mask=to_file(source[..., 9:])),
        Source(arrays, mask=source[..., 9] == 255),
        source,
    ]
    results = await translator.translate("sequence", given)
    expected = backends["sequence"].run(Batch(source=source[np.newaxis]))[0]
    assert all(np.array_equal(result.image, expected) for result in results)


async def test_many_sources_in_order(translator, backends):
    """Any number of sources in several calls: numbered through, with one seed."""
    sources = [draw(number) for number in range(70)]
    pictures = [each async for each in translator.translate_many("drawn", sources, condition=1)]
    assert [int(picture.index[0]) for picture in pictures] == list(range(70))
    assert len({picture.seed for picture in pictures}) == 1
    z = draw_latents(pictures[0].seed, 0, 70, 4)
    expected = backends["drawn"].run(Batch(z, np.full(70, 1), source=np.stack(sources)))
    assert np.array_equal([np.asarray(picture.pil()) for picture in pictures], expected)


async def test_refusals_reach_the_caller(translator):
    """Errors have the classes and reasons of the client."""
    with pytest.raises(FailedPrecondition) as caught:
        await translator.translate("digits", [draw(1)])
    assert caught.value.reason == "SOURCE_UNSUPPORTED"
    with pytest.raises(FailedPrecondition) as caught:
        await translator.generate("fixed")
    assert caught.value.reason == "SOURCE_REQUIRED"
    with pytest.raises(InvalidRequest) as caught:
        await translator.translate("fixed", [draw(1), b"no picture"])
    assert [violation.field for violation in caught.value.violations] == [
        "sources[1].encoded.pictures[0]"
    ]
    for wrong in (np.zeros((4, 4, 3)), np.zeros(4, np.uint8)):
        with pytest.raises(InvalidRequest, match="pixels are uint8"):
            await translator.translate("fixed", [wrong])
    with pytest.raises(InvalidRequest, match="fit"):
        await translator.translate("fixed", [draw(1)], fit="fill")
    with pytest.raises(InvalidRequest, match="PerImage"):
        await anext(translator.translate_many("fixed", [draw(1)], condition=PerImage([1])))
    with pytest.raises(InvalidRequest, match="call translate"):
        await translator.mint("fixed@1/0/0?source=" + "0" * 32)


async def test_models_describe_their_source(translator):
    """The manifest of the client has the source."""
    free = (await translator.model("free")).manifest().source
    assert free == SourceShape(0, 0, 3, 1, False, 4, 24, 32, 1, True)
    assert (await translator.model("digits")).manifest().source is None


async def test_source_above_the_limit_of_a_request(translator):
    """It is an invalid request, which is not retried, also in the middle of a stream."""
    large = b"x" * 5_000_000
    with pytest.raises(InvalidRequest, match=r"too large for one call: .*\(50000.. vs\. 4194304\)"):
        await translator.translate("fixed", [large])
    # The client sends four messages of eight sources ahead of what it reads.
    stream = translator.translate_many("fixed", [draw(1)] * 100 + [large], timeout_s=5)
    assert await anext(stream)
    with pytest.raises(InvalidRequest, match=r"^sources\[100\]: too large for one call") as caught:
        [each async for each in stream]
    assert [violation.field for violation in caught.value.violations] == ["sources[100]"]


async def run_command(*words):
    """Runs the command on a separate thread; returns its status."""
    return await asyncio.to_thread(cli.main, [str(word) for word in words])


async def test_command_writes_results(translating_app, backends, tmp_path, capsys):
    """A folder of pictures becomes a folder of results with the same names."""
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        (tmp_path / f"in/{name}.png").write_bytes(to_file(draw(len(name) + ord(name))))
    server = ("--server", translating_app.grpc_address, "--model", "fixed")
    assert (
        await run_command(
            "translate", *server, "--source", tmp_path / "in", "--out", tmp_path / "out"
        )
        == 0
    )
    told = capsys.readouterr().out
    assert told.startswith("2 images in ")
    assert "first serial fixed@1/0/0?source=" in told
    for name in ("a", "b"):
        source = draw(1 + ord(name))
        expected = backends["fixed"].run(Batch(source=source[np.newaxis]))[0]
        with Image.open(tmp_path / f"out/{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), expected)


async def test_command_with_frames_and_mask(translating_app, tmp_path):
    """Several pictures are the frames of one source, and the result is one file."""
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(to_file(draw(number)))
    sources = [word for file in files[:3] for word in ("--source", file)]
    words = ["--server", translating_app.grpc_address, "--model", "sequence", *sources]
    words += ["--mask", files[3], "--out", tmp_path / "result.webp"]
    assert await run_command("translate", *words) == 0
    with Image.open(tmp_path / "result.webp") as picture:
        assert picture.size == (8, 6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--source", "{tmp}/none.png", "--out", "{tmp}/x.png"], "does not exist"),
        (["--source", "{tmp}/empty", "--out", "{tmp}/x"], "holds no PNG, JPEG or WebP"),
        (["--source", "{tmp}/in", "--out", "{tmp}/x.png"], "2 results for one file"),
        (["--source", "{tmp}/a.png", "--out", "{tmp}/in"], "exists; --overwrite"),
        (
            ["--source", "{tmp}/in/a.png", "--source", "{tmp}/a.png", "--out", "{tmp}/x"],
            "several have the same name: {tmp}/in/a.png, {tmp}/a.png;",
        ),
        (["--source", "{tmp}/large.png", "--out", "{tmp}/x.png"], "{tmp}/large.png: 9 x 9 pixels"),
        (
            ["--source", "{tmp}/a.png,{tmp}/heavy.png", "--out", "{tmp}/x"],
            "{tmp}/heavy.png: too large for one call",
        ),
        (
            ["--source", "{tmp}/in", "--source", "{tmp}/cut.png", "--out", "{tmp}/x"],
            "translate: {tmp}/cut.png: a damaged picture",
        ),
        (["--source", "{tmp}/a.png", "--out", "{tmp}", "--overwrite"], "would replace a picture"),
        (
            [*("--source", "{tmp}/a.png", "--mask", "{tmp}/b.png"), "--out", "{tmp}/b.png"],
            "b.png would replace a picture that you give; change --out",
        ),
        (["--source", "{tmp}/a.png", "--out", "{tmp}/in/b.png/"], "b.png exists and is not a fold"),
        (
            ["--source", "{tmp}/a.png", "--out", "{tmp}/x.jpg", "--format", "webp"],
            "format: webp contradicts x.jpg",
        ),
        (
            ["--source", "{tmp}/a.png", "--mask", "{tmp}/in/b.png", "--out", "{tmp}/x"],
            "{tmp}/in/b.png: the model takes no mask",
        ),
    ],
)
async def test_command_refuses(translating_app, tmp_path, capsys, words, told):
    """The command prints one line on stderr with the error."""
    (tmp_path / "in").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("in/a.png", "in/b.png", "a.png"):
        (tmp_path / name).write_bytes(to_file(draw(1)))
    (tmp_path / "large.png").write_bytes(to_file(draw(1, 9, 9)))
    (tmp_path / "cut.png").write_bytes(to_file(draw(1))[:-30])
    (tmp_path / "heavy.png").write_bytes(to_file(draw(1)) + bytes(5_000_000))
    words = [word.format(tmp=tmp_path) for word in words]
    server = ["--server", translating_app.grpc_address, "--model", "fixed"]
    assert await run_command("translate", *server, *words) == 1
    captured = capsys.readouterr()
    assert told.format(tmp=tmp_path) in captured.err
    assert captured.err.count("\n") == 1


async def test_command_reads_a_folder_by_numbers(translating_app, tmp_path):
    """Frame 2 comes before frame 10; folders and hidden files are left out."""
    for number in (10, 9, 2):
        (tmp_path / f"frame{number}.png").write_bytes(to_file(draw(number)))
    (tmp_path / "._frame1.png").write_bytes(b"of macOS")
    (tmp_path / "folder.png").mkdir()
    mask = tmp_path / "mask.bin"
    mask.write_bytes(to_file(draw(1, depth=1)))
    words = ["--server", translating_app.grpc_address, "--model", "sequence", "--mask", mask]
    frames = [tmp_path / f"frame{number}.png" for number in (2, 9, 10)]
    for source, out in ([tmp_path], "folder/"), (frames, "files/"):
        words_of = [*words, "--source", *source, "--out", tmp_path / out]
        assert await run_command("translate", *words_of) == 0
    made = [(tmp_path / each / "frame10.png").read_bytes() for each in ("folder", "files")]
    assert made[0] == made[1]


async def test_command_continues(translating_app, tmp_path, capsys):
    """--skip-existing makes what is missing, with the indices of the whole."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(to_file(draw(number)))
    out = tmp_path / "out"
    words = ["--server", translating_app.grpc_address, "--model", "drawn", "--source", tmp_path]
    words += ["--class", "1", "--out", out]
    seed = ["--seed", "5"]
    assert await run_command("translate", *words, *seed) == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("1.png", "3.png"):
        (out / name).unlink()
    (out / "2.png").write_bytes(b"kept")
    assert await run_command("translate", *words, *seed) == 1
    assert "--overwrite replaces it, --skip-existing keeps it" in capsys.readouterr().err
    assert await run_command("translate", *words, "--skip-existing") == 1
    assert "seed: the model draws at random" in capsys.readouterr().err
    assert await run_command("translate", *words, *seed, "--skip-existing") == 0
    assert ", 2 kept, first serial drawn@1/5/1?class=1" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole | {"2.png": b"kept"}
    assert await run_command("translate", *words, *seed, "--skip-existing") == 0
    assert capsys.readouterr().out.startswith("0 images in ")
    assert await run_command("translate", *words, "--skip-existing", "--overwrite") == 2


async def test_command_chooses_the_encoding(translating_app, tmp_path):
    """--format is that of the files in a folder, and --quality theirs."""
    (tmp_path / "a.png").write_bytes(to_file(draw(1)))
    server = ("--server", translating_app.grpc_address, "--model", "fixed")
    sizes = []
    for quality in (10, 100):
        words = ["--source", tmp_path / "a.png", "--format", "jpeg", "--quality", quality]
        out = tmp_path / f"q{quality}"
        assert await run_command("translate", *server, *words, "--out", out) == 0
        with Image.open(out / "a.jpg") as picture:
            assert picture.format == "JPEG"
        sizes.append((out / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


async def test_command_asks_for_the_mask(translating_app, tmp_path, capsys):
    """A model with a mask says which option is missing."""
    (tmp_path / "a.png").write_bytes(to_file(draw(1)))
    words = ["--server", translating_app.grpc_address, "--model", "sequence", "--source"]
    words += [tmp_path / "a.png"] * 3
    assert await run_command("translate", *words, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("imagemint translate: --mask: required")


@pytest.mark.parametrize("out", ["-", "x.gif", "x.npz", "x.PDF", ""])
async def test_command_refuses_other_outputs(translating_app, tmp_path, capsys, monkeypatch, out):
    """Standard output and suffixes of other files are refused: no folder of that name is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(to_file(draw(1)))
    server = ["--server", translating_app.grpc_address, "--model", "fixed"]
    assert await run_command("translate", *server, "--source", "a.png", "--out", out) == 2
    assert "--out: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert await run_command("translate", *server, "--source", "a.png", "--out", "x.gif/") == 0
    assert (tmp_path / "x.gif/a.png").exists()


async def test_models_command_shows_sources(translating_app, capsys):
    """`imagemint models` has a column with the source."""
    assert await run_command("models", "--server", translating_app.grpc_address) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["MODEL"][4] == "SOURCE"
    assert rows["sequence"][4] == "3*6x8x3+mask"
    assert rows["double"][4:6] == ["any/4x3", "source*2x3"]
    assert rows["digits"][4] == "-"


async def test_blocking_client(translating_app, backends):
    """The blocking client has the same methods."""
    source = draw(1)

    def ask():
        with Client(translating_app.grpc_address) as client:
            (picture,) = client.translate_many("fixed", [source])
            (encoded,) = client.translate_encoded("fixed", [source], format="webp", quality=100)
            (result,) = client.translate("fixed", [source])
            return picture, encoded, result

    picture, encoded, result = await asyncio.to_thread(ask)
    expected = backends["fixed"].run(Batch(source=source[np.newaxis]))[0]
    for found in (picture.pil(), Image.open(io.BytesIO(encoded.data)), result.image):
        assert np.array_equal(np.asarray(found), expected)


async def test_load_test_of_translations(translating_app, tmp_path):
    """A kind `translate` sends its file, and equal turns get equal answers."""
    path = tmp_path / "source.png"
    path.write_bytes(to_file(draw(1)))
    (ask,) = parse_mix(f"translate source={path} count=3 format=png").kinds
    assert str(ask) == f"count=3 format=png translate source={path}"
    target = ImagemintTarget((translating_app.grpc_address,), "drawn")
    async with target.connect() as connection:
        send = connection.prepare_unary(ask, 7)
        replies = [await send(turn) for turn in (0, 0, 1)]
        prints = [connection.compute_fingerprint(reply.content) for reply in replies]
    assert [reply.images for reply in replies] == [3, 3, 3]
    assert prints[0] == prints[1] != prints[2]
    serials = [translation.image.serial for translation in replies[2].content.batch.translations]
    assert [Serial.parse(serial).index for serial in serials] == [3, 4, 5]

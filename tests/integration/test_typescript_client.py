"""Tests of the TypeScript client with real servers. Its tests run in Node."""

import asyncio
import json
import os
import random
import struct
import tarfile
import tomllib
from pathlib import Path

import pytest
from made_sources import draw
from node import CLIENT, hold_package, require_node, run_node
from tiny_bundles import write_bundle, write_critic, write_each_kind
from tiny_translators import write_translator

from imagemint.client import AsyncClient, Cycle, Filter
from imagemint.engine.serial import Serial
from imagemint.server.access.api_keys import compute_digest

VECTORS = json.loads((Path(__file__).parents[1] / "unit/engine/sampling_vectors.json").read_text())
KEY = f"imk_{'typescript':k<43}"

PROGRAM = """
import { Client, type ImageBatch } from "imagemint";

const client = new Client(process.argv[2]!);
const batch: ImageBatch = await client.generate("digits", {
  seed: 42n,
  firstIndex: 17,
  condition: 7,
});
console.log(batch.images[0]!.serial);
client.close();
"""


@pytest.fixture(scope="module")
def compiled():
    """The folder of the compiled tests."""
    require_node()
    run_node("node_modules/.bin/tsc", "--outDir", "build")
    return CLIENT / "build/test"


@pytest.fixture(scope="module")
def all_models(tmp_path_factory):
    """One model of each kind, one with a critic, and one for each vector's number of classes."""
    directory = tmp_path_factory.mktemp("models")
    write_each_kind(directory)
    write_bundle(directory, "worded", captions=True)
    write_critic(write_bundle(directory, "judged"))
    write_translator(directory, "sketch", size=(6, 8))
    write_translator(directory, "drawn", size=(6, 8), z_dim=4, conditional=True)
    for num_classes in {each["num_classes"] for each in VECTORS["classes"]}:
        write_bundle(directory, f"vectors-{num_classes}", num_classes=num_classes)
    return directory


def describe_vectors():
    """Returns the serials that drawing the classes of each vector must give."""
    return [
        {
            "model": f"vectors-{vector['num_classes']}",
            "seed": vector["seed"],
            "firstIndex": vector["first_index"],
            "weights": vector["weights"],
            "serials": [
                f"vectors-{vector['num_classes']}@1/{vector['seed']}/"
                f"{int(vector['first_index']) + at}?class={class_id}"
                for at, class_id in enumerate(vector["class_ids"])
            ],
        }
        for vector in VECTORS["classes"]
    ]


def spell_serials():
    """Returns serials as the engine writes them: every form, and truncations of any magnitude."""
    generator = random.Random(7)  # noqa: S311 - test data
    truncations = [None, 0.0, 1.0, 0.7, 1e-4, 9.9e-5, 1e15, 1e16, 123456.789]
    doubles = (struct.unpack("<d", generator.randbytes(8))[0] for _ in range(1000))
    truncations += [abs(double) for double in doubles if double == double][:150]  # noqa: PLR0124 - not NaN
    truncations += [generator.uniform(0, 2) for _ in range(50)]
    uint64 = [0, 1, 2**53 + 1, 2**64 - 1]
    captions = [None, *(each["normal"] for each in VECTORS["captions"])]
    spelled = []
    for at, truncation in enumerate(truncations):
        serial = Serial(
            model="mnist",
            version=3,
            seed=uint64[at % 4],
            index=uint64[at // 4 % 4],
            class_id=(None, 0, 7)[at % 3],
            caption=captions[at % len(captions)],
            source=(None, None, "0123456789abcdef" * 2)[at % 3],
            truncation=truncation,
            variant=(None, "int8")[at // 2 % 2],
        )
        spelled.append(
            {
                "text": str(serial),
                "seed": str(serial.seed),
                "index": str(serial.index),
                "classId": serial.class_id,
                "caption": serial.caption,
                "truncation": truncation,
                "source": serial.source,
                "variant": serial.variant,
            }
        )
    return spelled


def describe_filtered(batch):
    """Returns the images of a batch with their scores, as the Node client names them."""
    scores = batch.scores
    return [
        {
            "serial": serial,
            "pixels": batch.image[at].tobytes().hex(),
            "classConfidence": float(scores.class_confidence[at]),
            "realness": float(scores.realness[at]),
            "trainingDistance": float(scores.training_distance[at]),
            "rejected": int(scores.rejected[at]),
        }
        for at, serial in enumerate(batch.serials)
    ]


async def start_locked(serve, models, authority, write_certificate, folder):
    """Starts a server with TLS and one API key, and returns it with the file of its authority."""
    certificate, key = write_certificate(authority, folder)
    roots, keys = folder / "roots.pem", folder / "keys.toml"
    authority.cert_pem.write_to_path(roots)
    keys.write_text(f'[[key]]\nname = "node"\nsha256 = "{compute_digest(KEY)}"\n')
    app = await serve(models, api_keys=keys, tls_certificate=certificate, tls_key=key)
    return app, roots


@pytest.mark.asyncio(loop_scope="module")
async def test_node_client_passes_its_tests(  # noqa: PLR0917 - fixtures
    compiled, serve, all_models, authority, write_certificate, tmp_path
):
    """Every test of clients/typescript passes against servers over tiny bundles."""
    app = await serve(all_models)
    locked, roots = await start_locked(serve, all_models, authority, write_certificate, tmp_path)
    async with AsyncClient(app.grpc_address) as python:
        batch = await python.generate("digits", 4, seed=42, condition=Cycle())
        bright = Filter(min_class_confidence=0.5, max_tries=1_000)
        kept = await python.generate("judged", 12, seed=3, condition=Cycle(), image_filter=bright)
        (picture,) = await python.translate_encoded("sketch", [draw(1)])
    given = {
        "address": app.grpc_address,
        "secureAddress": locked.grpc_address,
        "rootCertificatesPath": str(roots),
        "apiKey": KEY,
        "pixels": {
            serial: image.tobytes().hex()
            for serial, image in zip(batch.serials, batch.image, strict=True)
        },
        "filtered": describe_filtered(kept),
        "source": draw(1).tobytes().hex(),
        "translation": picture.data.hex(),
        "vectors": describe_vectors(),
        "spelled": spell_serials(),
    }
    path = tmp_path / "given.json"
    path.write_text(json.dumps(given))
    process = await asyncio.create_subprocess_exec(
        *("node", "--test", "--test-timeout=120000", "--test-reporter=tap", compiled),
        env=os.environ | {"IMAGEMINT_TEST_GIVEN": str(path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    assert "# pass 0" not in output


@pytest.mark.asyncio(loop_scope="module")
async def test_generated_messages_are_up_to_date(compiled, tmp_path):
    """The committed messages equal the output of `make proto`."""
    await asyncio.to_thread(
        run_node, "scripts/genproto-typescript.sh", tmp_path / "gen", cwd=CLIENT.parents[1]
    )
    fresh, committed = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.ts")}
        for folder in (tmp_path / "gen", CLIENT / "src/gen")
    )
    assert fresh == committed


@pytest.mark.asyncio(loop_scope="module")
async def test_packed_client_works_in_a_typed_program(compiled, app, tmp_path):
    """A strict program compiles with the package of `npm pack` and runs."""

    def pack():
        with hold_package():  # it builds `dist` again
            run_node("npm", "pack", "--pack-destination", tmp_path)

    await asyncio.to_thread(pack)
    (archive,) = tmp_path.glob("imagemint-*.tgz")
    modules = tmp_path / "node_modules"
    with tarfile.open(archive) as packed:
        packed.extractall(modules, filter="data")
    (modules / "package").rename(modules / "imagemint")
    assert {path.name for path in (modules / "imagemint").iterdir()} == {
        *("package.json", "README.md", "LICENSE", "dist"),
    }
    for name in ("@grpc", "@bufbuild", "@types", "undici-types"):
        (modules / name).symlink_to(CLIENT / "node_modules" / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "program.ts").write_text(PROGRAM)
    flags = ("--strict", "--module", "nodenext", "--target", "es2022", "--types", "node")
    compiler = CLIENT / "node_modules/.bin/tsc"
    await asyncio.to_thread(run_node, compiler, *flags, "program.ts", cwd=tmp_path)
    printed = await asyncio.to_thread(
        run_node, "node", "program.js", app.grpc_address, cwd=tmp_path
    )
    assert printed == "digits@1/42/17?class=7\n"


def test_lock_file_has_no_registry():
    """The lock file works with any registry."""
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    assert all("resolved" not in each for each in lock["packages"].values())


def test_version_equals_that_of_the_project():
    """Both clients are released together."""
    project = tomllib.loads((CLIENT.parents[1] / "pyproject.toml").read_text())["project"]
    package = json.loads((CLIENT / "package.json").read_text())
    assert package["version"] == project["version"]

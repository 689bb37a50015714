"""Tests of an unmodified Triton client against a real server.

The client runs once in its own environment. The tests read what it recorded.
"""

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient, PerImage
from imagemint.open_inference import grpc_service_pb2, model_config_pb2
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-triton/bin/python"
CALLS = Path(__file__).with_name("triton_calls.py")
# Two adjacent images of a seed in reverse order, another seed, and the last image of the last seed.
SERIALS = [5, 5, 7, 2**64 - 1], [9, 3, 4, 2**64 - 1], [1, 2, 3, 4]
ASKED = {
    "seed": np.array(SERIALS[0], np.uint64).reshape(4, 1),
    "index": np.array(SERIALS[1], np.uint64).reshape(4, 1),
    "class_id": np.array(SERIALS[2], np.int64).reshape(4, 1),
    "truncation": np.full((4, 1), 0.5, np.float32),
    "z": np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8),
}
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not PYTHON.exists(), reason="no .venv-triton; make it with: scripts/venv-triton.sh"
    ),
]


class Heard:
    """What the client recorded, and the images of the same serials from imagemint's client."""

    def __init__(self, directory, minted):
        self.told = json.loads((directory / "told.json").read_text())
        with np.load(directory / "images.npz") as images:
            self.images = dict(images)
        self.schemas = [
            descriptor_pb2.FileDescriptorProto.FromString(path.read_bytes())
            for path in sorted(directory.glob("*.binpb"))
        ]
        self.minted = minted


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def recorded(tmp_path_factory):
    """One run of the client with a server of three models, and a fourth that is loaded later."""
    models, directory = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("heard")
    write_bundle(models, "digits")
    write_bundle(models, "plain", conditional=False)
    write_bundle(models, "styled", truncation="psi")
    write_bundle(models, "late")
    np.savez(directory / "asked.npz", **ASKED)
    anywhere = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    control = {"model_control": "explicit", "load_models": ["digits", "plain", "styled"]}
    app = App(ServeSettings(repository=models, **anywhere, **control))
    await app.start()
    try:
        client = await asyncio.create_subprocess_exec(
            *(PYTHON, "-I", CALLS, app.grpc_address, directory),
            env={"PATH": os.environ["PATH"]},  # neither the paths of this process nor a proxy
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await client.communicate()
        assert client.returncode == 0, errors.decode()
        return Heard(directory, await _generate_expected(app.grpc_address))
    finally:
        await app.stop()


async def _generate_expected(address):
    """Returns what imagemint's client gets for the rows of ASKED, one at a time."""
    rows = [(int(s), int(i), int(c)) for s, i, c in zip(*SERIALS, strict=True)]
    async with AsyncClient(address) as client:

        async def each(model, *, classes=True, **selection):
            batches = [
                await client.generate(
                    model,
                    1,
                    seed=seed,
                    first_index=index,
                    condition=class_id if classes else None,
                    **selection,
                )
                for seed, index, class_id in rows
            ]
            return np.concatenate([batch.image for batch in batches])

        given = PerImage(ASKED["class_id"].ravel().tolist())
        return {
            "by_serial": await each("digits"),
            "drawn": await each("digits", classes=False),
            "by_psi": await each("styled", truncation=0.5),
            "by_latents": (
                await client.generate("digits", 4, latents=ASKED["z"], condition=given)
            ).image,
            "seed": (await client.generate("digits", 16, seed=5)).image,
        }


@pytest.mark.parametrize("name", ["by_serial", "drawn", "by_psi", "by_latents"])
async def test_pixels_equal_those_of_the_own_client(recorded, name):
    """The same serials or latents give the same bytes."""
    assert recorded.images[name].dtype == np.uint8
    assert recorded.images[name].tobytes() == recorded.minted[name].tobytes()


@pytest.mark.parametrize(("name", "places"), [("together", range(16)), ("aio", [0])])
async def test_pixels_do_not_depend_on_the_kind_of_call(recorded, name, places):
    """Sixteen parallel calls and the asyncio client give the same bytes."""
    assert recorded.images[name].tobytes() == recorded.minted["seed"][list(places)].tobytes()


async def test_response_describes_itself(recorded):
    """The response has id, version, classes and serials."""
    told = recorded.told["inferred"]
    assert (told["id"], told["version"]) == ("mine", "1")
    assert recorded.images["class_id"].tolist() == ASKED["class_id"].tolist()
    expected = [f"digits@1/{s}/{i}?class={c}" for s, i, c in zip(*SERIALS, strict=True)]
    assert told["serials"] == expected


async def test_stream_continues_after_an_invalid_request(recorded):
    """Responses are in order. The invalid request gets an error and the others images."""
    told = recorded.told["streamed"]
    assert told["ids"] == ["0", "1", "2", "4", "5"]
    assert [bool(error) for error in told["errors"]] == [i == 3 for i in range(6)]
    assert "99 out of range" in told["errors"][3]
    good = recorded.minted["seed"][[0, 1, 2, 4, 5]]
    assert recorded.images["streamed"].tobytes() == good.tobytes()


async def test_descriptions_are_readable(recorded):
    """The client converts health, metadata, configuration and index to JSON."""
    told = recorded.told["described"]
    assert told["live"] is True
    assert told["ready"] is True
    assert told["models_ready"] == [True, False]
    assert told["server"]["name"] == "imagemint"
    assert "statistics" in told["server"]["extensions"]
    inputs = {
        each["name"]: (each["datatype"], each["shape"]) for each in told["metadata"]["inputs"]
    }
    assert inputs == {"z": ("FP32", ["-1", "8"]), "class_id": ("INT64", ["-1", "1"])}
    assert [int(version) for version in told["metadata"]["versions"]] == [1]
    (image,) = told["metadata"]["outputs"]
    assert image == {"name": "image", "datatype": "UINT8", "shape": ["-1", "4", "6", "1"]}
    assert told["config"]["max_batch_size"] > 0
    assert "dynamic_batching" in told["config"]
    dims = {each["name"]: (each["data_type"], each["dims"]) for each in told["config"]["input"]}
    assert dims == {"z": ("TYPE_FP32", ["8"]), "class_id": ("TYPE_INT64", ["1"])}
    assert told["config"]["output"][0]["dims"] == ["4", "6", "1"]
    states = {each["name"]: (each["version"], each["state"]) for each in told["index"]}
    serving = dict.fromkeys(("digits", "plain", "styled"), ("1", "READY"))
    assert states == serving | {"late": ("1", "UNAVAILABLE")}
    assert "model_repository" in told["server"]["extensions"]


async def test_statistics_are_cumulative(recorded):
    """Counts and times are differences between two moments, as in perf_analyzer."""
    before, after = recorded.told["statistics"]

    def grown(*path):
        values = []
        for each in (before, after):
            for key in path:
                each = each.get(key, {})  # noqa: PLW2901 - down the path
            values.append(int(each or 0))
        return values[1] - values[0]

    assert grown("inference_count") == 12
    assert grown("execution_count") >= 1
    assert grown("inference_stats", "success", "count") == 3
    assert [grown("inference_stats", part, "count") for part in PARTS] == [3] * 4
    spent = sum(grown("inference_stats", part, "ns") for part in PARTS)
    assert spent == grown("inference_stats", "success", "ns") > 0


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        ("nobody", "NOT_FOUND", "no model 'nobody'"),
        ("version", "NOT_FOUND", "no version 7"),
        ("class", "INVALID_ARGUMENT", "inputs.class_id: 99 out of range"),
        ("unconditional", "FAILED_PRECONDITION", "has no classes"),
        ("shape", "INVALID_ARGUMENT", "inputs[0].shape: z is [N, 8]"),
        ("timeout", "INVALID_ARGUMENT", "parameters.timeout: -1 is negative"),
        ("load_nobody", "NOT_FOUND", "no model 'nobody'"),
        ("load_config", "UNIMPLEMENTED", "load takes no parameter"),
        ("unload_nobody", "NOT_FOUND", "no model 'nobody'"),
        ("trace", "UNIMPLEMENTED", ""),
        ("log", "UNIMPLEMENTED", ""),
        ("shared_memory", "UNIMPLEMENTED", ""),
        ("cuda_shared_memory", "UNIMPLEMENTED", ""),
    ],
)
async def test_failures_are_exceptions_of_the_client(recorded, call, status, text):
    """Status and text are available as its users expect."""
    refused = recorded.told["refused"][call]
    assert refused["status"] == f"StatusCode.{status}"
    assert text in refused["message"]


async def test_load_of_a_ready_model_succeeds(recorded):
    """Scripts that load a model before use work unchanged."""
    assert recorded.told["refused"]["load"] is None


async def test_model_is_loaded_and_unloaded(recorded):
    """A model answers between the client's load and unload calls, and not afterwards."""
    before, between, after, refused = recorded.told["control"]
    assert before["ready"] is False
    assert before["index"][0]["reason"] == "not loaded"
    assert between["ready"] is True
    assert between["index"] == [{"name": "late", "version": "1", "state": "READY"}]
    assert after["ready"] is False
    assert after["index"][0]["state"] in ("UNLOADING", "UNAVAILABLE")
    assert refused["status"] == "StatusCode.NOT_FOUND"


async def test_schema_equals_the_published_one(recorded):
    """Every name, number, type and label equals that of the client's schema."""
    published = {}
    for schema in recorded.schemas:
        published.update(_list_elements(schema))
    ours = {}
    for module in (grpc_service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        ours.update(_list_elements(file))
    assert len(ours) > 150
    assert {name: published.get(name) for name in ours} == ours


def _list_elements(file):
    """Returns fields, enum values and RPCs of a schema by their full names, with their types."""
    found = {}
    for service in file.service:
        for rpc in service.method:
            streams = (rpc.client_streaming, rpc.server_streaming)
            found[f"{service.name}/{rpc.name}"] = (rpc.input_type, rpc.output_type, *streams)

    def enter(scope, message):
        for field in message.field:
            kind = (field.type, field.type_name, field.label)
            in_oneof = field.HasField("oneof_index")
            oneof = message.oneof_decl[field.oneof_index].name if in_oneof else ""
            found[f"{scope}.{field.name}"] = (field.number, *kind, oneof)
        for each in message.nested_type:
            enter(f"{scope}.{each.name}", each)
        for enum in message.enum_type:
            note(f"{scope}.{enum.name}", enum)

    def note(scope, enum):
        found.update({f"{scope}.{value.name}": value.number for value in enum.value})

    for message in file.message_type:
        enter(message.name, message)
    for enum in file.enum_type:
        note(enum.name, enum)
    return found

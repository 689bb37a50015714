"""Makes every kind of call of the Triton client to a server and records the results.

Runs in .venv-triton, started by test_tritonclient.py: triton_calls.py ADDRESS DIRECTORY. It knows
nothing of imagemint. Reads asked.npz, the inputs of its requests; writes told.json, images.npz, and
the schemas that it was built with.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def make_inputs(**arrays):
    """Returns inputs by name."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def make_column(dtype, values):
    """Returns one value per row."""
    return np.array(values, dtype).reshape(-1, 1)


def make_image_inputs(index, **more):
    """Returns inputs that name one image of seed 5."""
    return make_inputs(
        seed=make_column(np.uint64, [5]), index=make_column(np.uint64, [index]), **more
    )


def record_failure(call, *arguments, **options):
    """Returns the status and text of a call that must fail."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


def describe(client):
    """Returns the server's descriptions of itself and of a model."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models_ready": [client.is_model_ready(name) for name in ("digits", "nobody")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata("digits", as_json=True),
        "config": client.get_model_config("digits", "1", as_json=True)["config"],
        "index": client.get_model_repository_index(as_json=True)["models"],
    }


def infer(client, asked, images):
    """Requests images by serial and by latents."""
    rows = {"seed": asked["seed"], "index": asked["index"]}
    classes = {"class_id": asked["class_id"]}
    outputs = [triton.InferRequestedOutput(name) for name in ("image", "class_id", "serial")]
    by_serial = client.infer(
        "digits",
        make_inputs(**rows, **classes),
        model_version="1",
        outputs=outputs,
        request_id="mine",
        priority=1,
        timeout=60_000_000,
    )
    images["by_serial"] = by_serial.as_numpy("image")
    images["class_id"] = by_serial.as_numpy("class_id")
    images["drawn"] = client.infer("digits", make_inputs(**rows)).as_numpy("image")
    latents = make_inputs(z=asked["z"], **classes)
    images["by_latents"] = client.infer("digits", latents).as_numpy("image")
    psi = make_inputs(**rows, **classes, truncation=asked["truncation"])
    images["by_psi"] = client.infer("styled", psi).as_numpy("image")
    return {
        "id": by_serial.get_response().id,
        "version": by_serial.get_response().model_version,
        "serials": [each.decode() for each in by_serial.as_numpy("serial").ravel()],
    }


def infer_in_parallel(client, images):
    """Makes many parallel calls, which may be answered in any order."""
    answers = queue.Queue()

    def done(index):
        return lambda result, error: answers.put((index, result, error))

    for index in range(16):
        client.async_infer("digits", make_image_inputs(index), done(index))
    found = {}
    for _ in range(16):
        index, result, error = answers.get(timeout=60)
        assert error is None, error
        found[index] = result.as_numpy("image")
    images["together"] = np.concatenate([found[index] for index in range(16)])


async def infer_aio(address, images):
    """Makes a call with the asyncio client."""
    async with triton_aio.InferenceServerClient(address) as client:
        answer = await client.infer("digits", make_image_inputs(0))
        images["aio"] = answer.as_numpy("image")


def stream(client, images):
    """Sends a stream of requests, one of them invalid."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(6):
        classes = {"class_id": make_column(np.int64, [99])} if index == 3 else {}
        client.async_stream_infer(
            "digits", make_image_inputs(index, **classes), request_id=str(index)
        )
    heard = [answers.get(timeout=60) for _ in range(6)]
    client.stop_stream()
    good = [result for result, error in heard if error is None]
    images["streamed"] = np.concatenate([result.as_numpy("image") for result in good])
    return {
        "ids": [result.get_response().id for result in good],
        "errors": [error and error.message() for _, error in heard],
    }


def record_refusals(client):
    """Makes calls that must fail."""
    bad = make_image_inputs(0, class_id=make_column(np.int64, [99]))
    return {
        "nobody": record_failure(client.infer, "nobody", make_image_inputs(0)),
        "version": record_failure(client.infer, "digits", make_image_inputs(0), model_version="7"),
        "class": record_failure(client.infer, "digits", bad),
        "unconditional": record_failure(client.infer, "plain", bad),
        "shape": record_failure(
            client.infer, "digits", make_inputs(z=np.zeros((2, 3), np.float32))
        ),
        "timeout": record_failure(client.infer, "digits", make_image_inputs(0), timeout=-1),
        "load": record_failure(client.load_model, "digits"),
        "load_nobody": record_failure(client.load_model, "nobody"),
        "load_config": record_failure(client.load_model, "digits", config="{}"),
        "unload_nobody": record_failure(client.unload_model, "nobody"),
        "trace": record_failure(client.get_trace_settings),
        "log": record_failure(client.get_log_settings),
        "shared_memory": record_failure(client.get_system_shared_memory_status),
        "cuda_shared_memory": record_failure(client.get_cuda_shared_memory_status),
    }


def record_statistics(client):
    """Returns the statistics of a model before and after three calls of 4 images."""
    heard = []
    for calls in (0, 3):
        for _ in range(calls):
            client.infer(
                "plain",
                make_inputs(
                    seed=np.zeros((4, 1), np.uint64), index=make_column(np.uint64, range(4))
                ),
            )
        heard.append(client.get_inference_statistics("plain", as_json=True)["model_stats"][0])
    return heard


def record_control(client):
    """Returns the states of a model before its load, while it serves, and after its unload."""
    heard = []

    def look():
        index = client.get_model_repository_index(as_json=True)["models"]
        late = [each for each in index if each["name"] == "late"]
        heard.append({"ready": client.is_model_ready("late"), "index": late})

    look()
    client.load_model("late")
    client.infer("late", make_image_inputs(0))
    look()
    client.unload_model("late")
    look()
    heard.append(record_failure(client.infer, "late", make_image_inputs(0)))
    return heard


def main(address, directory):
    """Makes all calls and writes the results."""
    images = {}
    with np.load(directory / "asked.npz") as arrays:
        asked = dict(arrays)
    with triton.InferenceServerClient(address) as client:
        told = {
            "described": describe(client),
            "inferred": infer(client, asked, images),
            "streamed": stream(client, images),
            "refused": record_refusals(client),
            "statistics": record_statistics(client),
            "control": record_control(client),
        }
        infer_in_parallel(client, images)
    asyncio.run(infer_aio(address, images))
    np.savez(directory / "images.npz", **images)
    (directory / "told.json").write_text(json.dumps(told))
    for module in (service_pb2, model_config_pb2):
        name = Path(module.DESCRIPTOR.name).stem
        (directory / f"{name}.binpb").write_bytes(module.DESCRIPTOR.serialized_pb)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

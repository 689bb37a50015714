"""Tests of GRPCInferenceService: descriptions, tensors, streams, statistics and errors."""

import asyncio
import struct

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S

from imagemint.client import PerImage
from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.open_inference import grpc_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "inference.GRPCInferenceService"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def inference(app, connect):
    """The stub of GRPCInferenceService."""
    async with connect(app) as channel:
        yield grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def make_request(*indices, model="digits", seed=5, classes=None, outputs=(), **fields):
    """Returns a request for these indices of a seed."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    columns = {
        "seed": np.full(len(indices), seed, np.uint64),
        "index": np.array(indices, np.uint64),
    }
    if classes is not None:
        columns["class_id"] = np.array(classes, np.int64)
    for name, values in columns.items():
        datatype = values.dtype.name.upper()
        request.inputs.add(name=name, datatype=datatype, shape=(len(values), 1))
        request.raw_input_contents.append(values.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_image(answer, place=0):
    """Returns the pixels of a response."""
    shape = tuple(answer.outputs[place].shape)
    return np.frombuffer(answer.raw_output_contents[place], np.uint8).reshape(shape)


async def get_code(call):
    """Returns the status with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


# --- descriptions ---------------------------------------------------------------------------------


async def test_server_is_live_and_ready(inference):
    """The server is live and ready after all models are loaded."""
    assert (await inference.ServerLive(pb.ServerLiveRequest())).live
    assert (await inference.ServerReady(pb.ServerReadyRequest())).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("digits", "", True),
        ("digits", "1", True),
        ("digits", "2", False),
        ("digits", "x", False),
        ("nobody", "", False),
    ],
)
async def test_model_ready_answers_for_any_name(inference, name, version, ready):
    """A model or version that does not exist is not ready."""
    answer = await inference.ModelReady(pb.ModelReadyRequest(name=name, version=version))
    assert answer.ready is ready


async def test_server_metadata_lists_the_extensions(inference):
    """The metadata have name, release and extensions."""
    answer = await inference.ServerMetadata(pb.ServerMetadataRequest())
    assert answer.name == "imagemint"
    assert answer.version
    assert {"statistics", "schedule_policy"} <= set(answer.extensions)


@pytest.mark.parametrize(
    ("model", "inputs", "image"),
    [
        ("digits", [("z", "FP32", [-1, 8]), ("class_id", "INT64", [-1, 1])], [-1, 4, 6, 1]),
        ("plain", [("z", "FP32", [-1, 8])], [-1, 5, 3, 3]),
        (
            "styled",
            [
                ("z", "FP32", [-1, 8]),
                ("class_id", "INT64", [-1, 1]),
                ("truncation", "FP32", [-1, 1]),
            ],
            [-1, 4, 6, 1],
        ),
    ],
)
async def test_metadata_equal_those_of_the_graph(inference, model, inputs, image):
    """Names and datatypes are those of the graph, and shapes start with the batch."""
    answer = await inference.ModelMetadata(pb.ModelMetadataRequest(name=model))
    assert [
        (input_.name, input_.datatype, list(input_.shape)) for input_ in answer.inputs
    ] == inputs
    told = [(output.name, output.datatype, list(output.shape)) for output in answer.outputs]
    assert told == [("image", "UINT8", image)]
    assert (answer.name, list(answer.versions)) == (model, ["1"])


async def test_config_has_limits_and_batching(inference, app):
    """The configuration has the maximum batch, dims without the batch, and dynamic batching."""
    answer = await inference.ModelConfig(pb.ModelConfigRequest(name="styled", version="1"))
    config = answer.config
    limit = app.repository.resolve("styled").max_images
    assert (config.name, config.platform, config.max_batch_size) == (
        "styled",
        "onnxruntime_onnx",
        limit,
    )
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    told = [(each.name, list(each.dims), each.optional) for each in config.input]
    assert told == [("z", [8], False), ("class_id", [1], False), ("truncation", [1], True)]
    assert [(each.name, list(each.dims)) for each in config.output] == [("image", [4, 6, 1])]
    assert config.instance_group[0].count >= 1
    batching = config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    assert not batching.preferred_batch_size


async def test_index_lists_every_version(inference):
    """The index has every version with its state."""
    answer = await inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    listed = [(model.name, model.version, model.state) for model in answer.models]
    names = ("bounded", "digits", "people", "plain", "styled")
    assert listed == [(name, "1", "READY") for name in names]


async def test_health_has_the_service(app, connect):
    """The service has a health status like all others."""
    async with connect(app) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


# --- images ---------------------------------------------------------------------------------------


async def test_rows_equal_the_images_of_their_serials(inference, client):
    """Rows in any order with classes have the bytes of imagemint.v1."""
    indices, classes = [9, 3, 4, 2**64 - 1], [1, 2, 3, 4]
    asked = make_request(*indices, classes=classes, outputs=["serial", "image"], id="mine")
    answer = await inference.ModelInfer(asked)
    assert (answer.model_name, answer.model_version, answer.id) == ("digits", "1", "mine")
    assert [output.name for output in answer.outputs] == ["serial", "image"]
    for place, (index, class_id) in enumerate(zip(indices, classes, strict=True)):
        alone = await client.generate("digits", 1, seed=5, first_index=index, condition=class_id)
        assert read_image(answer, 1)[place].tobytes() == alone.image[0].tobytes()
    (length,) = struct.unpack("<I", answer.raw_output_contents[0][:4])
    assert answer.raw_output_contents[0][4 : 4 + length].decode() == "digits@1/5/9?class=1"


async def test_drawn_classes_are_returned(inference, client):
    """A caller that does not set the class can request it as an output."""
    answer = await inference.ModelInfer(make_request(3, 4, outputs=["image", "class_id"]))
    same = await client.generate("digits", 2, seed=5, first_index=3)
    assert read_image(answer).tobytes() == same.image.tobytes()
    told = np.frombuffer(answer.raw_output_contents[1], np.int64)
    assert told.tolist() == same.class_id.tolist()
    assert list(answer.outputs[1].shape) == [2, 1]


async def test_explicit_latents_are_inputs_of_the_graph(inference, client):
    """The request is valid for any server of this model.onnx."""
    z = np.linspace(-2, 2, 24, dtype=np.float32).reshape(3, 8)
    request = pb.ModelInferRequest(model_name="digits")
    request.inputs.add(name="z", datatype="FP32", shape=z.shape)
    request.inputs.add(name="class_id", datatype="INT64", shape=(3, 1))
    request.raw_input_contents.extend([z.tobytes(), np.array([7, 8, 9]).tobytes()])
    answer = await inference.ModelInfer(request)
    same = await client.generate("digits", 3, latents=z, condition=PerImage([7, 8, 9]))
    assert read_image(answer).tobytes() == same.image.tobytes()


@pytest.mark.parametrize(("model", "dtype"), [("styled", np.float32), ("bounded", np.float64)])
async def test_truncation_equals_that_of_the_serial(inference, client, model, dtype):
    """0.5 and 0.75 have the same meaning in both APIs for each kind of truncation."""
    request = make_request(3, 3, model=model, classes=[1, 1])
    values = np.array([0.5, 0.75], dtype)
    datatype = {"float32": "FP32", "float64": "FP64"}[values.dtype.name]
    request.inputs.add(name="truncation", datatype=datatype, shape=(2, 1))
    request.raw_input_contents.append(values.tobytes())
    answer = await inference.ModelInfer(request)
    for place, truncation in enumerate((0.5, 0.75)):
        same = await client.generate(
            model, 1, seed=5, first_index=3, condition=1, truncation=truncation
        )
        assert read_image(answer)[place].tobytes() == same.image[0].tobytes()


async def test_failure_has_details(inference, details_of):
    """The google.rpc details have every violation and the request id."""
    request = make_request(1, classes=[99], outputs=["pixels"])
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await inference.ModelInfer(request, metadata=[("x-request-id", "mine")])
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(failed.value)
    fields = [violation.field for violation in details["BadRequest"].field_violations]
    assert fields == ["inputs.class_id", "outputs[0].name"]
    assert details["ErrorInfo"].metadata["request_id"] == "mine"


async def test_calls_are_counted(inference, app, scrape, total):
    """Requests, streams and images are counted by method and model."""
    labels = {"service": SERVICE, "model": "plain", "code": "OK"}
    before = await scrape(app.metrics_address)
    await inference.ModelInfer(make_request(1, 2, model="plain"))
    answers = [
        answer
        async for answer in inference.ModelStreamInfer(iter([make_request(1, model="plain")]))
    ]
    after = await scrape(app.metrics_address)
    assert len(answers) == 1
    for method in ("ModelInfer", "ModelStreamInfer"):
        name = "imagemint_requests_total"
        counted = [total(each, name, method=method, **labels) for each in (before, after)]
        assert counted[1] - counted[0] == 1
    minted = [total(each, "imagemint_images_total", model="plain") for each in (before, after)]
    assert minted[1] - minted[0] == 3


# --- statistics -----------------------------------------------------------------------------------


async def test_statistics_count_requests(inference):
    """Differences are exact, the counts agree, and the phases add up."""
    asked = pb.ModelStatisticsRequest(name="bounded", version="1")
    (before,) = (await inference.ModelStatistics(asked)).model_stats
    for count in (1, 5):
        await inference.ModelInfer(make_request(*range(count), model="bounded"))
    (after,) = (await inference.ModelStatistics(asked)).model_stats
    assert (after.name, int(after.version)) == ("bounded", 1)
    assert after.inference_count - before.inference_count == 6
    was, now = before.inference_stats, after.inference_stats
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    for name in ("success", *parts):
        assert getattr(now, name).count - getattr(was, name).count == 2
    assert sum(getattr(now, name).ns for name in parts) == now.success.ns
    assert after.execution_count == sum(
        batch_stat.compute_infer.count for batch_stat in after.batch_stats
    )
    assert after.inference_count == sum(
        batch_stat.batch_size * batch_stat.compute_infer.count for batch_stat in after.batch_stats
    )
    assert after.last_inference > 1_700_000_000_000


async def test_statistics_cover_all_models(inference):
    """A request without a name returns all models."""
    answer = await inference.ModelStatistics(pb.ModelStatisticsRequest())
    names = [model_stat.name for model_stat in answer.model_stats]
    assert names == ["bounded", "digits", "people", "plain", "styled"]


async def test_statistics_of_an_unknown_model_are_not_found(inference):
    """The code is NOT_FOUND, as for any other call."""
    call = inference.ModelStatistics(pb.ModelStatisticsRequest(name="nobody"))
    assert await get_code(call) is grpc.StatusCode.NOT_FOUND


# --- streams --------------------------------------------------------------------------------------


async def test_stream_answers_in_order(inference):
    """More requests than are read ahead, of different sizes, are answered in order."""
    requests = [make_request(*range(i, i + 1 + i % 3), id=str(i)) for i in range(80)]
    answers = [answer async for answer in inference.ModelStreamInfer(iter(requests))]
    assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(80)]
    assert not any(answer.error_message for answer in answers)
    for number in (0, 41, 79):
        alone = await inference.ModelInfer(requests[number])
        together = answers[number].infer_response
        assert together.raw_output_contents == alone.raw_output_contents
        assert together.parameters["triton_final_response"].bool_param


async def test_stream_continues_after_an_invalid_request(inference):
    """The error is the response of that request only."""
    requests = [
        make_request(1, id="a"),
        make_request(1, classes=[99], id="b"),
        make_request(1, id="c"),
    ]
    answers = [answer async for answer in inference.ModelStreamInfer(iter(requests))]
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert "classes are 0 to 9" in answers[1].error_message
    assert not answers[1].infer_response.outputs


async def test_stream_waits_for_room(held, connect):
    """A stream that requests more than the queue holds fills it again and again."""
    held.backends["digits"].release()
    async with connect(held) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        requests = [make_request(*range(15)) for _ in range(12)]
        answers = [answer async for answer in stub.ModelStreamInfer(iter(requests))]
    assert [answer.error_message for answer in answers] == [""] * 12


async def test_cancelled_stream_drops_its_work(held, connect, until):
    """Work that has not started when the client leaves is not computed."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer()
        for _ in range(3):
            await call.write(make_request(*range(6)))
        await backend.begun()
        batcher = held.repository.resolve("digits").batcher

        async def waiting():
            return batcher._queue.images + batcher._room._waiting_images >= 10

        async def dropped():
            return batcher._queue.images == 0 and not batcher._room

        await until(waiting)
        call.cancel()
        await until(dropped)
    backend.release()
    await held.stop()
    assert sum(backend.sizes) <= 8


async def test_expired_request_is_not_computed(held, connect):
    """A request whose timeout passes in the queue fails."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        first = stub.ModelInfer(make_request(1))
        await backend.begun()
        request = make_request(2)
        request.parameters["timeout"].int64_param = 1
        late = asyncio.ensure_future(get_code(stub.ModelInfer(request)))
        backend.release()
        assert await late is grpc.StatusCode.DEADLINE_EXCEEDED
        await first
    assert sum(backend.sizes) == 1


async def test_priority_is_respected(held, connect, until):
    """A request of priority 1 is computed before earlier ones."""
    backend, batcher = held.backends["digits"], held.repository.resolve("digits").batcher

    async def holds(images):
        async def so_many():
            return batcher._queue.images == images

        await until(so_many)

    async with connect(held) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        first = stub.ModelInfer(make_request(1))
        await backend.begun()
        waiting = stub.ModelInfer(make_request(*range(20)))
        await holds(20)
        request = make_request(1, 2)
        request.parameters["priority"].uint64_param = 1
        hasty = stub.ModelInfer(request)
        await holds(22)
        backend.step()
        await backend.begun()
        backend.step()  # completes the urgent one and one of three batches of the other
        await hasty
        assert not waiting.done()
        backend.release()
        await asyncio.gather(first, waiting)


async def test_full_queue_refuses_with_a_delay(held, connect, details_of, until):
    """The error has a retry delay as in imagemint.v1."""
    backend = held.backends["digits"]
    async with connect(held) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        first = stub.ModelInfer(make_request(*range(8)))
        await backend.begun()
        second = stub.ModelInfer(make_request(*range(20)))

        async def full():
            return held.repository.resolve("digits").batcher._queue.images == 20

        await until(full)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(make_request(1))
        backend.release()
        await first
        await second
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "RetryInfo" in details_of(refused.value)


async def test_drain_ends_an_idle_stream(serve, models, connect):
    """Accepted requests are answered. Then the stream ends long before the grace does."""
    app = await serve(models, drain_grace_s=600.0)
    async with connect(app) as channel:
        call = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(make_request(1, id="taken"))
        assert (await call.read()).infer_response.id == "taken"
        async with asyncio.timeout(WAIT_S):
            stopped = asyncio.ensure_future(app.stop())
            assert await get_code(call.read()) is grpc.StatusCode.UNAVAILABLE
            await stopped

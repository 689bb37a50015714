"""Loading by name with two workers: what one is told, both do, and those that start later."""

import os
import shutil
import signal

import grpc
import pytest
from server_process import ended, line_of, process
from tiny_bundles import write_bundle

from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.open_inference import grpc_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each channel has a connection of its own; the kernel gives it to one of the workers.
APART = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


async def ready_of(address, name):
    """What each worker says of a model, by the worker's number: both were asked."""
    told = {}
    for _ in range(200):
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = await stub.ModelReady(pb.ModelReadyRequest(name=name))
            told[(await line_of(address[1], "call", method="ModelReady"))["worker"]] = answer.ready
        if len(told) == 2:
            return told
    raise AssertionError("only one worker was reached")


async def started(server):
    """The process id of each worker, by its number, and where they listen."""
    pids = {}
    for _ in range(2):
        line = await line_of(server, "worker ready")
        pids[line["worker"]] = line["pid"]
    return pids, ((await line_of(server, "ready"))["grpc_address"], server)


async def test_command_reaches_every_worker(tmp_path):
    """A load, a failed load, a worker that is replaced, and an unload."""
    for name in ("tiny", "bad"):
        write_bundle(tmp_path, name)
    (tmp_path / "bad/1/SHA256SUMS").unlink()
    options = ("--processes=2", "--model-control=explicit", "--access-log=1")
    async with process(f"--repository={tmp_path}", *options) as server:
        pids, address = await started(server)
        assert await ready_of(address, "tiny") == {0: False, 1: False}
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tiny"))
            for name, code in (("bad", "FAILED_PRECONDITION"), ("nobody", "NOT_FOUND")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
                assert caught.value.code().name == code
        # What failed is not tried again by one worker alone.
        shutil.rmtree(tmp_path / "bad")
        for name in ("bad", "nobody"):
            write_bundle(tmp_path, name)
        assert await ready_of(address, "tiny") == {0: True, 1: True}
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        assert await ready_of(address, "tiny") == {0: True, 1: True}
        for name in ("bad", "nobody"):
            assert await ready_of(address, name) == {0: False, 1: False}
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="tiny"))
        assert await ready_of(address, "tiny") == {0: False, 1: False}
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_replaced_worker_refuses_changed_bytes(tmp_path):
    """What its predecessor served under a version, a new worker holds it to."""
    write_bundle(tmp_path, "tiny")
    options = ("--processes=2", "--model-control=none", "--access-log=1")
    async with process(f"--repository={tmp_path}", *options) as server:
        pids, address = await started(server)
        shutil.rmtree(tmp_path / "tiny")
        write_bundle(tmp_path, "tiny", weights_seed=1)
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        assert await ready_of(address, "tiny") == {0: False, 1: True}
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0

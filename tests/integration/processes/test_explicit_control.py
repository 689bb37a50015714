"""Tests of explicit model control with two workers: both follow, and later workers do too."""

import asyncio
import os
import shutil
import signal

import grpc
import pytest
from held_backend import WAIT_S
from server_process import ended, line_of, process
from tiny_bundles import write_bundle

from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.open_inference import grpc_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each channel has its own connection, which the kernel gives to one of the workers.
APART = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
NO_RETRIES = ("grpc.enable_retries", 0)


async def read_readiness(address, name):
    """Returns the readiness of a model in each worker, by the worker's number."""
    told = {}
    for _ in range(200):
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = await stub.ModelReady(pb.ModelReadyRequest(name=name))
            told[(await line_of(address[1], "call", method="ModelReady"))["worker"]] = answer.ready
        if len(told) == 2:
            return told
    raise AssertionError("only one worker was reached")


async def read_codes(server, name, address):
    """Returns the status of a call for a model in each worker, by the worker's number."""
    told = {}
    for _ in range(200):
        async with grpc.aio.insecure_channel(address, options=[*APART, NO_RETRIES]) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = pb.ModelMetadataRequest(name=name)
            try:
                await stub.ModelMetadata(request, timeout=WAIT_S)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            line = await line_of(server, "call", method="ModelMetadata")
            told[line["worker"]] = code
        if len(told) == 2:
            return told
    raise AssertionError("only one worker was reached")


async def wait_for_start(server):
    """Returns the process id of each worker by its number, and the address."""
    pids = {}
    for _ in range(2):
        line = await line_of(server, "worker ready")
        pids[line["worker"]] = line["pid"]
    return pids, ((await line_of(server, "ready"))["grpc_address"], server)


async def test_command_reaches_every_worker(tmp_path):
    """A load, a failed load, a replaced worker and an unload reach every worker."""
    for name in ("tiny", "bad"):
        write_bundle(tmp_path, name)
    (tmp_path / "bad/1/SHA256SUMS").unlink()
    options = ("--processes=2", "--model-control=explicit", "--access-log=1")
    async with process(f"--repository={tmp_path}", *options) as server:
        pids, address = await wait_for_start(server)
        assert await read_readiness(address, "tiny") == {0: False, 1: False}
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tiny"))
            for name, code in (("bad", "FAILED_PRECONDITION"), ("nobody", "NOT_FOUND")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
                assert caught.value.code().name == code
        # A worker alone does not repeat a failed load.
        shutil.rmtree(tmp_path / "bad")
        for name in ("bad", "nobody"):
            write_bundle(tmp_path, name)
        assert await read_readiness(address, "tiny") == {0: True, 1: True}
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        assert await read_readiness(address, "tiny") == {0: True, 1: True}
        for name in ("bad", "nobody"):
            assert await read_readiness(address, name) == {0: False, 1: False}
        async with grpc.aio.insecure_channel(address[0], options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="tiny"))
        assert await read_readiness(address, "tiny") == {0: False, 1: False}
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_replaced_worker_refuses_changed_bytes(tmp_path):
    """A new worker knows the digests that its predecessor served."""
    write_bundle(tmp_path, "tiny")
    write_bundle(tmp_path, "more")  # without any model that serves, a new worker takes no calls
    options = ("--processes=2", "--model-control=none", "--access-log=1")
    async with process(f"--repository={tmp_path}", *options) as server:
        pids, address = await wait_for_start(server)
        shutil.rmtree(tmp_path / "tiny")
        write_bundle(tmp_path, "tiny", weights_seed=1)
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        assert await read_readiness(address, "tiny") == {0: False, 1: True}
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_model_of_the_other_worker_is_unavailable(tmp_path):
    """A new worker without a model that the other one serves refuses it for a moment only.

    NOT_FOUND, which clients do not retry, is for models that no worker serves.
    """
    for name in ("tiny", "more"):
        write_bundle(tmp_path, name)
    options = ("--processes=2", "--model-control=explicit", "--load-models=more", "--access-log=1")
    async with process(f"--repository={tmp_path}", *options) as server:
        pids, (address, _) = await wait_for_start(server)
        async with grpc.aio.insecure_channel(address, options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tiny"))
        shutil.rmtree(tmp_path / "tiny")
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        assert await read_codes(server, "tiny", address) == {0: "UNAVAILABLE", 1: "OK"}
        assert await read_codes(server, "nobody", address) == {0: "NOT_FOUND", 1: "NOT_FOUND"}
        async with grpc.aio.insecure_channel(address, options=APART) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="tiny"))
        async with asyncio.timeout(WAIT_S):  # the other worker learns of it a moment later
            while set((await read_codes(server, "tiny", address)).values()) != {"NOT_FOUND"}:
                pass
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0

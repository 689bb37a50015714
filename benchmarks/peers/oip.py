"""Peers of the Open Inference Protocol over gRPC as targets of the load generator.

Tensors are sent as raw contents, the cheapest form of the protocol. Requests are serialised
beforehand.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from peers.messages import POOL, Content, count_images, make_inputs, refuse_streams

from imagemint.bench.calls import Calls, open_calls
from imagemint.bench.mix import RequestKind
from imagemint.bench.target import CallFailed, Reply, Streaming, Unary
from imagemint.engine.spec import ModelSpec
from imagemint.open_inference import grpc_service_pb2 as pb

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Suffix of the name of the model that returns PNG instead of pixels.
PNG_SUFFIX = "_png"


@dataclass(frozen=True, slots=True)
class Oip:
    """A server of the Open Inference Protocol.

    Attributes:
        address: HOST:PORT.
        model: name of the model; with `PNG_SUFFIX`, the model that returns PNG.
        spec: spec of the model.
        timeout_s: seconds that a call may take.
        pool: number of different requests of one kind, used in turn.
    """

    address: str
    model: str
    spec: ModelSpec
    timeout_s: float = 30.0
    pool: int = POOL

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["OipConnection"]:
        """Opens one connection.

        Raises:
            CallFailed: the host name does not resolve.
        """
        async with open_calls((self.address,)) as calls:
            yield OipConnection(self, calls)


class OipConnection:
    """One connection to a server of the Open Inference Protocol.

    Args:
        target: the server.
        calls: calls to the server.
    """

    def __init__(self, target: Oip, calls: Calls) -> None:
        self._target = target
        self._calls = calls

    def prepare_unary(self, kind: RequestKind, seed: int) -> Unary:
        """Prepares calls of ModelInfer."""
        target = self._target
        call = self._calls.prepare_unary(_METHOD, timeout_s=target.timeout_s)
        image_bytes = target.spec.image_bytes
        requests = [
            make_request(target.spec, target.model, kind, seed, turn).SerializeToString()
            for turn in range(target.pool)
        ]

        async def send(turn: int) -> Reply:
            response = pb.ModelInferResponse.FromString(await call(requests[turn % target.pool]))
            return count_images(read_content(response), kind, image_bytes)

        return send

    def prepare_streaming(self, kind: RequestKind, seed: int) -> Streaming:
        """Raises CallFailed, because the server has no streams."""
        del kind, seed
        return refuse_streams()

    def compute_fingerprint(self, content: object) -> bytes:
        """Returns the pictures."""
        if not isinstance(content, Content):
            raise TypeError(f"{type(content).__name__} is not an answer of a peer")
        return content.payload


def make_request(
    spec: ModelSpec, model: str, kind: RequestKind, seed: int, turn: int
) -> pb.ModelInferRequest:
    """Returns one request. The same turn of a seed gives the same request."""
    z, class_id = make_inputs(spec, kind, seed, turn)
    tensor = pb.ModelInferRequest.InferInputTensor
    return pb.ModelInferRequest(
        model_name=model if kind.format == "raw" else model + PNG_SUFFIX,
        inputs=[
            tensor(name="z", datatype="FP32", shape=z.shape),
            tensor(name="class_id", datatype="INT64", shape=class_id.shape),
        ],
        raw_input_contents=[z.tobytes(), class_id.tobytes()],
    )


def read_content(response: pb.ModelInferResponse) -> Content:
    """Returns the pictures of an answer.

    Raises:
        CallFailed: the answer does not have exactly one tensor in raw contents.
    """
    if len(response.raw_output_contents) != 1 or len(response.outputs) != 1:
        raise CallFailed("NO_RAW_CONTENTS", f"{len(response.outputs)} tensors")
    return Content(response.raw_output_contents[0], response.outputs[0].datatype == "BYTES")

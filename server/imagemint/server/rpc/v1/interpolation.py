"""GenerationService: Interpolate."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import grpc
import numpy as np
import numpy.typing as npt

from imagemint.pictures import encode_animation
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.v1.generation import GenerationServicer
from imagemint.server.rpc.v1.paths import (
    AnimationOptions,
    make_image_spec,
    read_animation,
    read_serials,
)
from imagemint.v1 import generation_service_pb2 as messages
from imagemint.v1 import image_pb2


class _FrameContext:
    """The context of a call whose chunks are sent as frames."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline; None without a deadline."""
        return self._context.time_remaining()

    async def write(self, chunk: messages.StreamGenerateResponse) -> None:
        """Sends a chunk as frames."""
        await self._context.write(
            messages.InterpolateResponse(batch=chunk.batch, timing=chunk.timing)
        )


class PathServicer(GenerationServicer):
    """Generates images, and walks between them.

    A path is a request for explicit latents. The frames are therefore computed, limited and sent
    by the code of StreamGenerate, and those of an animation by the code of Generate.
    """

    async def Interpolate(  # type: ignore[override] # noqa: N802 - named by the schema; the stub has only the generator form
        self,
        request: messages.InterpolateRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Sends the frames in chunks, or one animated picture."""
        serials = read_serials(request.serials)
        animation = read_animation(request)
        first = serials[0]
        with self._submission.hold_version(first.model, str(first.version)) as version:
            images = make_image_spec(serials, request.frames, version)
            if animation is None:
                stream = messages.StreamGenerateRequest(
                    images=images, output=request.output, priority=request.priority
                )
                await self.StreamGenerate(stream, cast("Any", _FrameContext(context)))
                return
            response = await self.Generate(
                messages.GenerateRequest(images=images, priority=request.priority), context
            )
        await self._send_animation(request.serials, response, animation, context)

    async def _send_animation(
        self,
        serials: Sequence[str],
        response: messages.GenerateResponse,
        options: AnimationOptions,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        encode = partial(
            encode_animation,
            _unpack(response.batch),
            list(serials),
            variant=response.batch.variant,
            **options._asdict(),
        )
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._encoders, encode)
        del response.batch.pictures[:]
        await current_call.get().send(
            context,
            messages.InterpolateResponse(
                batch=response.batch, timing=response.timing, animation=picture
            ),
        )


def _unpack(batch: image_pb2.ImageBatch) -> npt.NDArray[np.uint8]:
    """Returns raw pictures as pixels, uint8 [N, H, W, C]."""
    shape = batch.shape
    flat = np.frombuffer(b"".join(batch.pictures), np.uint8)
    return flat.reshape(-1, shape.height, shape.width, shape.channels)

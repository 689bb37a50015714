"""Actors that use the server in good and bad ways at the same time."""

import asyncio
import contextlib
import random
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
from ledger import Bundles, Ledger, draw_condition
from service import Service

from imagemint.client import AsyncClient, DeadlineExceeded, ImagemintError
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc
from imagemint.v1.image_pb2 import ImageSpec

CLASSES = 10
_SEEDS = 2**32
_PLAIN = [("grpc.enable_http_proxy", 0)]


@dataclass
class Stage:
    """What all actors share.

    Attributes:
        client: the public client, with its retries.
        service: the server.
        bundles: what it serves.
        ledger: where outcomes go.
        over: set when the actors should leave.
    """

    client: AsyncClient
    service: Service
    bundles: Bundles
    ledger: Ledger
    over: asyncio.Event

    async def pause(self, seconds: float) -> None:
        """Waits for some seconds, or until the end of the test."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()


Actor = Callable[[Stage, random.Random], Coroutine[Any, Any, None]]


async def send_requests(stage: Stage, dice: random.Random) -> None:
    """Sends small requests one after another, as a backend service does. All must be answered."""
    while not stage.over.is_set():
        count, first = dice.randint(1, 32), dice.randrange(2**40)
        truncation = dice.choice([None, None, 0.7])
        try:
            batch = await stage.client.generate(
                stage.bundles.model,
                count,
                seed=dice.randrange(_SEEDS),
                first_index=first,
                condition=draw_condition(dice, CLASSES),
                truncation=truncation,
            )
        except ImagemintError as error:
            stage.ledger.fail("asker", error)
        else:
            await stage.ledger.check("asker", batch, first, count)


async def read_streams(stage: Stage, dice: random.Random) -> None:
    """Reads long streams of one version, as an augmentation pipeline does: each index once."""
    while not stage.over.is_set():
        seed, following, version = dice.randrange(_SEEDS), 0, ""
        try:
            version = (await stage.client.model(stage.bundles.model)).default_version
            chunks = stage.client.stream(
                stage.bundles.model, 2_000, seed=seed, chunk_size=dice.choice([16, 64, 200])
            )
            async for batch in chunks:
                await stage.ledger.check("streamer", batch, following, len(batch))
                following += len(batch)
            stage.ledger.outcomes["streamer: streams whole"] += 1
        except ImagemintError as error:
            # A stream keeps its version. If a worker dies after the version was unloaded, the
            # stream cannot resume, and the client raises an error.
            if version and int(version) < stage.bundles.newest and error.code in _GONE:
                stage.ledger.outcomes["streamer: version gone while resuming"] += 1
            else:
                stage.ledger.fail("streamer", error)


_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)


async def cancel_calls(stage: Stage, dice: random.Random) -> None:
    """Cancels calls before the answer."""
    while not stage.over.is_set():
        call = asyncio.create_task(
            stage.client.generate(stage.bundles.model, 200, seed=dice.randrange(_SEEDS))
        )
        await stage.pause(dice.uniform(0, 0.05))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, ImagemintError):
            await call
        stage.ledger.outcomes["canceller: left"] += 1


async def send_bursts(stage: Stage, dice: random.Random) -> None:
    """Sometimes sends a burst of calls with too short deadlines."""
    while not stage.over.is_set():
        await stage.pause(dice.uniform(3, 8))
        burst = [
            stage.client.generate(
                stage.bundles.model, 8, seed=each, timeout_s=dice.uniform(0.001, 0.1)
            )
            for each in range(100)
        ]
        for outcome in await asyncio.gather(*burst, return_exceptions=True):
            if isinstance(outcome, DeadlineExceeded):
                stage.ledger.outcomes["stormer: too late"] += 1
            elif isinstance(outcome, BaseException):
                stage.ledger.fail("stormer", outcome)
            else:
                await stage.ledger.check("stormer", outcome, 0, 8)


async def read_slowly(stage: Stage, dice: random.Random) -> None:
    """Requests a million images and reads very slowly."""
    while not stage.over.is_set():
        address = stage.service.grpc_address
        async with grpc.aio.insecure_channel(address, options=_PLAIN) as channel:
            stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
            images = ImageSpec(model=stage.bundles.model, count=10**6, seed=dice.randrange(_SEEDS))
            call = stub.StreamGenerate(pb.StreamGenerateRequest(images=images))
            with contextlib.suppress(grpc.aio.AioRpcError):  # its worker was killed
                for _ in range(20):
                    await call.read()
                    stage.ledger.outcomes["dawdler: chunks read"] += 1
                    await stage.pause(3)
            call.cancel()


async def publish_versions(stage: Stage, dice: random.Random) -> None:
    """Publishes a version every half minute, and sometimes a broken model."""
    while not stage.over.is_set():
        await stage.pause(dice.uniform(20, 40))
        stage.bundles.publish()
        stage.ledger.outcomes["publisher: versions"] += 1
        broken = stage.bundles.publish_broken("broken")
        await stage.pause(5)
        shutil.rmtree(broken)


async def kill_workers(stage: Stage, dice: random.Random) -> None:
    """Kills a worker with SIGKILL about once a minute."""
    while True:
        await stage.pause(dice.uniform(45, 75))
        if stage.over.is_set():
            return
        if stage.service.kill_worker() is not None:
            stage.ledger.outcomes["killer: workers killed"] += 1


CAST: dict[Actor, int] = {
    send_requests: 12,
    read_streams: 3,
    cancel_calls: 4,
    send_bursts: 1,
    read_slowly: 3,
    publish_versions: 1,
    kill_workers: 1,
}

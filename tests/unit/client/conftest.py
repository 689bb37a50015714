"""Fixtures: a small real server of imagemint.v1 whose pixels are computed from the serial."""

import asyncio
import contextlib
import io
import itertools
import queue
import threading
from collections import deque

import grpc
import numpy as np
import pytest
from forwarder import CUT
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagemint.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_pb2,
    manifest_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    translation_service_pb2,
    translation_service_pb2_grpc,
)

SHAPE = (4, 6, 1)
PICKED_SEED = 2**64 - 3
MAX_IMAGES = 16
LABELS = ("zero", "one", "two")


def compute_pixels(seed, index, class_id):
    """Returns the uint8 [4, 6, 1] image of a serial. Images in the tests are distinct."""
    first = (seed * 31 + index * 7 + (class_id or 0) * 3) % 256
    return ((np.arange(24) + first) % 256).astype(np.uint8).reshape(SHAPE)


def make_status(code, text="no", *details, retry_s=None):
    """Returns a status to abort with, with details packed as the server packs them."""
    if retry_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_s * 1e9))
        details = (*details, error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=text, details=packed)


class FakeMint(
    generation_service_pb2_grpc.GenerationServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
    translation_service_pb2_grpc.TranslationServiceServicer,
):
    """A servicer that records each request.

    It fails as `faults` and `breaks` say and otherwise answers.
    """

    def __init__(self):
        self.requests = []
        self.metadata = []
        # Those that are sent twice are there twice.
        self.metadata_names = []
        self.deadlines_s = []
        # Each call removes one at its start.
        self.faults = deque()
        # Number of chunks after which a stream fails, and the status; one for each stream.
        self.breaks = deque()
        # Taken before each break of a stream of translations: released by a test once it has the
        # answers, which gRPC may drop if the status follows them at once. None: breaks at once.
        self.may_break = None
        self.silent = False
        # Number of calls that send the head of a response, with CUT, and nothing else.
        self.cuts = 0
        # Number of images after which a stream waits until it is cancelled.
        self.hold_after = None
        self.labels = LABELS
        self.address = ""
        self.asked = threading.Event()
        self.held = threading.Event()
        self.cancelled = threading.Event()
        self.written = 0
        # First messages of the streams of translations, and the other messages.
        self.translated = []
        self.received = queue.SimpleQueue()
        self.ended = threading.Event()
        self.bundle_sha256 = "ab" * 32
        self.variant = "int8"
        # Model and version that answers name. None: those of the request.
        self.maker = None

    async def Generate(self, request, context):  # noqa: N802 - the name of the RPC
        """Returns all images at once, as pixels, pictures or a sheet."""
        await self._begin(request, context)
        batch = self._batch(request.images, request.output.format)
        if request.layout == image_pb2.IMAGE_LAYOUT_SHEET:
            sheet = Image.new("L", (60, 40))
            pictures = [encode(sheet, "sheet", image_pb2.ImageFormat.Name(batch.format)[13:])]
            batch.layout = image_pb2.IMAGE_LAYOUT_SHEET
            batch.shape.CopyFrom(manifest_pb2.ImageShape(height=40, width=60, channels=1))
            del batch.pictures[:]
            batch.pictures.extend(pictures)
        timing = image_pb2.Timing(inference=duration_pb2.Duration(nanos=5_000_000))
        return generation_service_pb2.GenerateResponse(batch=batch, timing=timing)

    async def StreamGenerate(self, request, context):  # noqa: N802 - the name of the RPC
        """Yields chunks of chunk_size (default 4) until the next break."""
        await self._begin(request, context)
        chunks, status = self.breaks.popleft() if self.breaks else (None, None)
        spec, size = request.images, request.chunk_size or 4
        try:
            for number, start in enumerate(range(0, spec.count, size)):
                if number == chunks:
                    await abort(context, status)
                if start == self.hold_after:
                    self.held.set()
                    await asyncio.Event().wait()
                part = image_pb2.ImageSpec()
                part.CopyFrom(spec)
                part.first_index += start
                part.count = min(size, spec.count - start)
                if spec.WhichOneof("condition") == "class_per_image":
                    del part.class_per_image.class_ids[:start]
                batch = self._batch(part, request.output.format)
                yield generation_service_pb2.StreamGenerateResponse(batch=batch)
                self.written += part.count
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def Interpolate(self, request, context):  # noqa: N802 - the name of the RPC
        """Yields an animation in two parts."""
        await self._begin(request, context)
        for part in (b"first", b"second"):
            yield generation_service_pb2.InterpolateResponse(animation=part)

    async def StreamTranslate(self, request_iterator, context):  # noqa: N802 - the name of the RPC
        """Answers with the negative of each source, until the next break."""
        first = await anext(request_iterator)
        await self._begin(first, context)
        self.translated.append(first)
        answers, status = self.breaks.popleft() if self.breaks else (None, None)
        index = first.images.first_index
        try:
            for number in itertools.count():
                if number == answers:
                    if self.may_break:
                        assert await asyncio.to_thread(self.may_break.acquire, timeout=30)
                    await abort(context, status)
                request = await anext(request_iterator, None)
                if request is None:
                    return
                self.received.put(request)
                yield await self._translate(first.images, request, index, context)
                index += len(request.sources)
        finally:
            self.ended.set()

    async def ListModels(self, request, context):  # noqa: N802 - the name of the RPC
        """Returns two models, one per page."""
        await self._begin(request, context)
        if not request.page_token:
            first = [describe_model(self.labels)]
            return model_service_pb2.ListModelsResponse(models=first, next_page_token="2")  # noqa: S106 - a page
        broken = model_service_pb2.ModelVersion(
            version="4", state=model_service_pb2.MODEL_STATE_FAILED, reason="checksum mismatch"
        )
        return model_service_pb2.ListModelsResponse(
            models=[model_service_pb2.Model(name="zebra", versions=[broken])]
        )

    async def GetModel(self, request, context):  # noqa: N802 - the name of the RPC
        """Returns the model `tiny` for any name. The model `plain` has no classes."""
        await self._begin(request, context)
        labels = () if request.model == "plain" else self.labels
        return model_service_pb2.GetModelResponse(model=describe_model(labels))

    async def _begin(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.metadata_names.append([name for name, _ in context.invocation_metadata()])
        self.deadlines_s.append(context.time_remaining())
        self.asked.set()
        if self.silent:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.cuts:
            self.cuts -= 1
            await context.send_initial_metadata(((CUT.decode(), "1"),))
            await asyncio.Event().wait()
        if self.faults:
            await abort(context, self.faults.popleft())

    async def _translate(self, spec, request, index, context):
        answer = translation_service_pb2.StreamTranslateResponse()
        batch = answer.batch
        batch.model, batch.version = self.maker or (spec.model, spec.version or "3")
        batch.seed = spec.seed
        batch.bundle_sha256, batch.variant = self.bundle_sha256, self.variant
        batch.format = image_pb2.IMAGE_FORMAT_RAW
        for number, source in enumerate(request.sources):
            pixels, shape = np.frombuffer(source.raw.pixels, np.uint8), source.raw.shape
            if shape.height > 8:
                fault = error_details_pb2.BadRequest.FieldViolation(
                    field=f"sources[{number}].raw", description="too large"
                )
                details = error_details_pb2.BadRequest(field_violations=[fault])
                text = f"{fault.field}: too large"
                await abort(context, make_status(grpc.StatusCode.INVALID_ARGUMENT, text, details))
            translation = batch.translations.add(picture=(255 - pixels).tobytes(), shape=shape)
            translation.image.index = index + number
        return answer

    def _batch(self, spec, picture_format):
        explicit = spec.WhichOneof("source") == "latents"
        seed = spec.seed if spec.HasField("seed") else PICKED_SEED
        model, version = self.maker or (spec.model, spec.version or "3")
        batch = image_pb2.ImageBatch(
            model=model,
            version=version,
            bundle_sha256=self.bundle_sha256,
            variant=self.variant,
            format=picture_format or image_pb2.IMAGE_FORMAT_RAW,
            layout=image_pb2.IMAGE_LAYOUT_INDIVIDUAL,
            shape=manifest_pb2.ImageShape(height=4, width=6, channels=1),
        )
        if not explicit:
            batch.seed = seed
        for position in range(spec.count):
            index = spec.first_index + position
            class_id = choose_class(spec, index, position)
            image = compute_pixels(0 if explicit else seed, index, class_id)
            minted = batch.images.add(index=index)
            terms = []
            if class_id is not None:
                minted.class_id = class_id
                terms.append(f"class={class_id}")
            if spec.HasField("truncation"):
                terms.append(f"truncation={spec.truncation!r}")
            if not explicit:
                query = f"?{'&'.join(terms)}" if terms else ""
                minted.serial = f"{model}@{version}/{seed}/{index}{query}"
            raw = batch.format == image_pb2.IMAGE_FORMAT_RAW
            batch.pictures.append(
                image.tobytes() if raw else encode(Image.fromarray(image[..., 0]), minted.serial)
            )
        return batch


def choose_class(spec, index, position):
    """Returns the class of one image. The model `plain` has none."""
    match spec.WhichOneof("condition"):
        case "class_id":
            return spec.class_id
        case "class_label":
            return LABELS.index(spec.class_label)
        case "class_per_image":
            return spec.class_per_image.class_ids[position]
        case "class_cycle":
            cycle = spec.class_cycle.class_ids or range(len(LABELS))
            return cycle[index % len(cycle)]
    return None if spec.model == "plain" else index % len(LABELS)


def encode(image, serial, name="PNG"):
    """Returns a PNG with the serial inside. Other formats have no serial."""
    info = PngInfo()
    info.add_text("serial", serial)
    file = io.BytesIO()
    image.save(file, name, **({"pnginfo": info} if name == "PNG" else {}))
    return file.getvalue()


def describe_model(labels=LABELS):
    """Returns the description of `tiny` with a READY and a LOADING version."""
    manifest = manifest_pb2.BundleManifest(
        format_version=1,
        name="tiny",
        title="Tiny",
        latent=manifest_pb2.LatentSpec(
            z_dim=2,
            distribution=manifest_pb2.LATENT_DISTRIBUTION_NORMAL,
            truncation=manifest_pb2.TruncationRange(
                kind=manifest_pb2.TRUNCATION_KIND_THRESHOLD, minimum=0.1, maximum=2.0
            ),
        ),
        class_labels=labels,
        image=manifest_pb2.ImageShape(height=4, width=6, channels=1),
        evaluations=[manifest_pb2.Evaluation(metric="class_accuracy", value=0.99, reference=1.0)],
    )
    ready = model_service_pb2.ModelVersion(
        version="3",
        state=model_service_pb2.MODEL_STATE_READY,
        bundle_sha256="ab" * 32,
        manifest=manifest,
        execution_provider="CPUExecutionProvider",
        variant="int8",
    )
    loading = model_service_pb2.ModelVersion(
        version="4", state=model_service_pb2.MODEL_STATE_LOADING
    )
    limits = model_service_pb2.ModelLimits(
        max_images_per_request=MAX_IMAGES, default_chunk_size=4, max_queue_images=64
    )
    return model_service_pb2.Model(
        name="tiny", default_version="3", versions=[ready, loading], limits=limits
    )


async def abort(context, status):
    """Ends the call with a google.rpc.Status."""
    trailer = (("grpc-status-details-bin", status.SerializeToString()),)
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    await context.abort(code, status.message, trailer)


@contextlib.contextmanager
def serve_on_thread(mint, credentials=None, *, has_health=True, serving=True):
    """Serves `mint` on a thread with its own event loop, and yields the address."""
    ready, bound, ends = threading.Event(), [], []

    async def live():
        server = aio.server()
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(mint, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(mint, server)
        translation_service_pb2_grpc.add_TranslationServiceServicer_to_server(mint, server)
        if has_health:
            servicer = health.aio.HealthServicer()
            status = health_pb2.HealthCheckResponse.ServingStatus.Value(
                "SERVING" if serving else "NOT_SERVING"
            )
            await servicer.set("imagemint.v1.ModelService", status)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        stop = asyncio.Event()
        ends.extend((asyncio.get_running_loop(), stop))
        if credentials:
            bound.append(server.add_secure_port("127.0.0.1:0", credentials))
        else:
            bound.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    ready.wait()
    try:
        yield f"127.0.0.1:{bound[0]}"
    finally:
        ends[0].call_soon_threadsafe(ends[1].set)
        thread.join()


@pytest.fixture
def fault():
    """A function that builds the status with which a servicer aborts. See make_status."""
    return make_status


@pytest.fixture
def serve():
    """A function that serves another servicer until the test ends and returns its address."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **named: stack.enter_context(serve_on_thread(*given, **named))


@pytest.fixture
def make_mint():
    """The class of the servicer."""
    return FakeMint


@pytest.fixture
def mint():
    """The servicer behind `address`."""
    return FakeMint()


@pytest.fixture
def address(mint):
    """The address of `mint`."""
    with serve_on_thread(mint) as found:
        mint.address = found
        yield found

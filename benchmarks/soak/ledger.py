"""Records outcomes, and checks every image against its serial number."""

import asyncio
import hashlib
import random
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from imagemint.client import ImageBatch
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import Run, draw_run_latents
from imagemint.engine.serial import Serial

VARIANTS = 3


class Bundles:
    """Bundles that differ in their pixels, in turn, as versions 1, 2, 3, ... of one model.

    Args:
        original: a bundle; the others are the same with weights a few per cent larger.
        workshop: an empty directory to prepare versions in.
        repository: where they are put, on the same file system.
    """

    def __init__(self, original: Path, workshop: Path, repository: Path) -> None:
        self.model = read_bundle(original).spec.name
        self._workshop = workshop
        self._home = repository / self.model
        self._home.mkdir(parents=True)
        self._contents = [_scale_weights(original, 1 + 0.03 * each) for each in range(VARIANTS)]
        self.newest = 0

    def get_content(self, version: int) -> bytes:
        """Returns the bytes of model.onnx of a version."""
        return self._contents[version % VARIANTS]

    def publish(self) -> int:
        """Publishes the next version with an atomic rename, and returns its number."""
        self.newest += 1
        self._put(self.get_content(self.newest), self.newest, self._home / str(self.newest))
        return self.newest

    def publish_broken(self, name: str) -> Path:
        """Publishes a model that does not parse but has a correct checksum."""
        home = self._home.parent / name
        home.mkdir(exist_ok=True)
        self._put(self._contents[0][:10_000], 0, home / "1")
        return home

    def _put(self, content: bytes, number: int, target: Path) -> None:
        prepared = self._workshop / str(number)
        prepared.mkdir()
        (prepared / "model.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (prepared / "SHA256SUMS").write_text(f"{digest}  model.onnx\n")
        prepared.rename(target)


def _scale_weights(original: Path, factor: float) -> bytes:
    model = onnx.load(original / "model.onnx")
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(values * values.dtype.type(factor), weights.name))
    return model.SerializeToString(deterministic=True)


class Ledger:
    """Counts outcomes, and compares images with those of its own engine.

    Args:
        bundles: what the server serves.
        workshop: an empty directory for copies of them.
    """

    def __init__(self, bundles: Bundles, workshop: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.images_checked = 0
        self.images_wrong = 0
        self.versions: Counter[int] = Counter()
        self._digests, self._engines = [], []
        for variant in range(VARIANTS):
            directory = workshop / bundles.model / str(variant + 1)
            directory.mkdir(parents=True)
            content = bundles.get_content(variant)
            digest = hashlib.sha256(content).hexdigest()
            (directory / "model.onnx").write_bytes(content)
            (directory / "SHA256SUMS").write_text(f"{digest}  model.onnx\n")
            bundle = read_bundle(directory)
            self._digests.append(digest)
            self._engines.append(OnnxBackend(bundle, device="cpu"))
            self._spec = bundle.spec

    def fail(self, actor: str, error: BaseException) -> None:
        """Records an unexpected failure: a lost request."""
        self.outcomes[f"{actor}: LOST"] += 1
        self.failures.append(f"{actor}: {type(error).__name__}: {error}")

    async def check(self, actor: str, batch: ImageBatch, first_index: int, count: int) -> None:
        """Compares every image with that of its serial, and the indices with the request."""
        self.outcomes[f"{actor}: answered"] += 1
        wrong_count = await asyncio.to_thread(self._count_wrong, batch)
        if batch.index.tolist() != list(range(first_index, first_index + count)):
            wrong_count = len(batch)
        self.images_checked += len(batch)
        self.images_wrong += wrong_count
        self.versions[int(batch.version)] += len(batch)
        if wrong_count:
            self.failures.append(
                f"{actor}: {wrong_count} of {len(batch)} wrong from {batch.serials[0]}"
            )

    def _count_wrong(self, batch: ImageBatch) -> int:
        """Returns the number of wrong images; all of them if they have several versions."""
        serials = [Serial.parse(text) for text in batch.serials]
        variant = int(batch.version) % VARIANTS
        if {str(serial.version) for serial in serials} != {batch.version}:
            return len(batch)
        if batch.bundle_sha256 != self._digests[variant]:
            return len(batch)
        runs = [Run(serial.seed, serial.index, 1, serial.truncation) for serial in serials]
        z = draw_run_latents(runs, self._spec.z_dim)
        class_id = np.array([serial.class_id for serial in serials], np.int64)
        expected = self._engines[variant].run(Batch(z, class_id))
        return int((expected != batch.image).any(axis=(1, 2, 3)).sum())


def draw_condition(dice: random.Random, classes: int) -> int | None:
    """Returns a random class or, sometimes, None."""
    class_id = dice.randrange(classes + 1)
    return class_id if class_id < classes else None

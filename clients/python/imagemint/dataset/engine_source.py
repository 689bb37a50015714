"""The engine in this process as a source of images for training, in place of a server."""

import copy
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from imagemint.client import forks
from imagemint.client.image_source import SourceIdentity, spell_cycle
from imagemint.client.images import ImageBatch, join_batches
from imagemint.client.requests import Filter
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.local import LocalSource, describe_bundle, find_bundle
from imagemint.dataset.plan import Plan
from imagemint.dataset.sources import LocalSpec, Offer

_MAX_IMAGES = 1024


class EngineSource:
    """Images of a model, computed by ONNX Runtime in this process; an ImageSource.

    The same seed and indices give the same bytes as a server with the same model, variant and
    execution provider. Each process opens an engine of its own when it first reads. It needs the
    extra `server`.

    Args:
        model: name of the model.
        repository: directory of the model repository; None for the models shipped with imagemint.
        seed: 0 to 2^64 - 1; None chooses one at random, see `identity.seed`.
        classes: classes in turn by index; empty for all classes in order; None for classes drawn
            at random. A model without classes takes None.
        truncation: within the range of the model; None for none.
        image_filter: which images to keep; None for all.
        version: empty for the newest.
        variant: variant of the model; empty for the reference.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        DatasetError: there is no such model or version, or the model takes no such condition, or
            has no such scores.
        BundleRefused: the bundle cannot be used.
    """

    max_images = _MAX_IMAGES

    def __init__(
        self,
        model: str,
        *,
        repository: Path | str | None = None,
        seed: int | None = None,
        classes: Sequence[int] | None = None,
        truncation: float | None = None,
        image_filter: Filter | None = None,
        version: str = "",
        variant: str = "",
        device: str = "auto",
    ) -> None:
        spec = find_bundle("" if repository is None else str(repository), model, version, device)
        self._spec, offer = describe_bundle(spec, variant)
        offer.check_truncation(truncation)
        offer.check_filter(image_filter)
        plan = _make_plan(
            offer, secrets.randbits(64) if seed is None else seed, classes, truncation
        )
        self._plan = replace(plan, image_filter=image_filter)
        # By process and fork; one of each is ours.
        self._engines: dict[tuple[int, int], _Engine] = {}
        self._opening: dict[tuple[int, int], threading.Lock] = {}

    @property
    def identity(self) -> SourceIdentity:
        """Properties that all images share."""
        plan = self._plan
        return SourceIdentity(
            model=plan.model,
            version=plan.version,
            variant=plan.variant,
            bundle_sha256=plan.bundle_sha256,
            seed=plan.seed,
            class_labels=plan.class_labels,
            image_shape=(plan.height, plan.width, plan.channels),
            image_filter=plan.image_filter,
            truncation=plan.truncation,
            condition=spell_cycle(plan.classes) if isinstance(plan.classes, tuple) else "",
        )

    def read(
        self, first_index: int, count: int, class_ids: Sequence[int] | None = None
    ) -> ImageBatch:
        """Returns `count` images from `first_index` on.

        Raises:
            SourceChanged: the bundle is no longer the one that the constructor found.
            DatasetError: with a filter, an index is 2^48 or more.
            ValueError: the model has no such class.
        """
        num_classes = len(self._plan.class_labels)
        invalid = sorted(
            {class_id for class_id in class_ids or () if not 0 <= class_id < num_classes}
        )
        if invalid:
            raise ValueError(f"{self._plan.model} has {num_classes} classes, not {invalid}")
        engine = self._open()
        with engine.turn:
            source = (
                engine.source if class_ids is None else engine.source.choose(first_index, class_ids)
            )
            batches = list(source.read(first_index, count))
        return batches[0] if len(batches) == 1 else join_batches(batches, range(count))

    def close(self) -> None:
        """Closes the engine of this process. The next read opens a new one."""
        engine = self._engines.pop(_identify_process(), None)
        if engine is not None:
            engine.source.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engines": {}, "_opening": {}}

    def _open(self) -> "_Engine":
        """Returns the engine of this process; a fork must not inherit one, nor its lock."""
        process = _identify_process()
        # Reads begin on several threads, and an engine takes time and memory to open.
        with self._opening.setdefault(process, threading.Lock()):
            engine = self._engines.get(process)
            if engine is None:
                engine = self._engines[process] = _Engine(self._spec, self._plan)
            return engine


class _Engine:
    """The engine of one process."""

    def __init__(self, spec: LocalSpec, plan: Plan) -> None:
        self.source = _ChoosingSource(spec, plan, 0)
        self.turn = threading.Lock()  # one read uses all cores


class _ChoosingSource(LocalSource):
    def choose(self, first_index: int, class_ids: Sequence[int]) -> LocalSource:
        """Returns a source with the same engine that gives each image of a read its class."""
        shift = first_index % len(class_ids)
        # The image at index i of a cycle of n classes gets number i % n.
        cycle = tuple(int(each) for each in [*class_ids[-shift:], *class_ids[:-shift]])
        other = copy.copy(self)
        other._plan = replace(self._plan, classes=cycle)  # noqa: SLF001 - of this class
        return other


def _make_plan(
    offer: Offer, seed: int, classes: Sequence[int] | None, truncation: float | None
) -> Plan:
    """Returns a plan of the pixels; its fields for files are not used."""
    num_classes = len(offer.class_labels)
    if classes is not None and not all(0 <= class_id < num_classes for class_id in classes or (0,)):
        raise DatasetError(f"{offer.model} has {num_classes} classes, not {list(classes)}")
    drawn: Literal["random"] | None = "random" if num_classes else None
    return Plan(
        model=offer.model,
        version=offer.version,
        variant=offer.variant,
        bundle_sha256=offer.bundle_sha256,
        execution_provider=offer.execution_provider,
        seed=seed,
        first_index=0,
        count=1,
        classes=drawn if classes is None else tuple(classes) or tuple(range(num_classes)),
        captions="examples" if offer.has_captions else None,
        truncation=truncation,
        class_labels=offer.class_labels,
        height=offer.height,
        width=offer.width,
        channels=offer.channels,
        title=offer.title,
        license=offer.license,
        format="npz",
        image_format="png",
        quality=100,
        shard_size=1,
        software={},
    )


def _identify_process() -> tuple[int, int]:
    return os.getpid(), forks.count_forks()

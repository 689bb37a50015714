"""The engine in this process as a source of images. Only this module uses the engine."""

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemint.client.extras import DISTRIBUTION
from imagemint.client.images import ImageBatch, Scores, Timing
from imagemint.client.requests import FILTERED_END, Filter
from imagemint.dataset.errors import DatasetError, refuse_translator
from imagemint.dataset.plan import Plan
from imagemint.dataset.sources import LocalSpec, Offer
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import Bundle, read_bundle
from imagemint.engine.bundle.shipped import find_shipped_models
from imagemint.engine.filtering import DEFAULT_TRIES, ImageFilter, Selection
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.critic import OnnxCritic
from imagemint.engine.onnx.session import RUNTIME_VERSION
from imagemint.engine.sampling import draw_classes, draw_run_latents, group_runs
from imagemint.engine.serial import spell_prefix, spell_terms
from imagemint.engine.spec import ModelSpec

# A batch for the backend, which splits it further. More images would only take memory.
_MOST_ROWS = 256
_MOST_BYTES = 2**24
_NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)


def find_bundle(repository: str, model: str, version: str, device: str) -> LocalSpec:
    """Returns the specification of a bundle in a model repository.

    Args:
        repository: directory of the repository; empty for the models shipped with imagemint.
        model: name of the model.
        version: version; empty for the newest.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        DatasetError: there is no such model or version.
    """
    root = Path(repository) if repository else find_shipped_models()
    folder = root / model
    versions = sorted((path.name for path in folder.glob("*") if path.name.isdecimal()), key=int)
    if not versions:
        names = ", ".join(sorted(path.name for path in root.glob("*") if path.is_dir())) or "none"
        raise DatasetError(f"{root} has no model {model!r}; there is: {names}")
    if version and version not in versions:
        raise DatasetError(f"{folder} has no version {version}; there is: {', '.join(versions)}")
    return LocalSpec((folder / (version or versions[-1])).absolute(), device)


def describe_bundle(spec: LocalSpec, variant: str) -> tuple[LocalSpec, Offer]:
    """Returns the offer of the engine for a bundle on its device, and the spec with its findings.

    Raises:
        BundleRefused: the bundle cannot be used, or has no such variant.
    """
    bundle = read_bundle(spec.directory)
    backend = _open_backend(bundle, spec, variant or "reference")
    try:
        found = None if backend.buckets else backend.findings
        return replace(spec, findings=found), _describe(bundle, backend)
    finally:
        backend.close()


class LocalSource:
    """Computes images with the engine in this process.

    Args:
        spec: the bundle and the device.
        plan: the plan.
        worker: number of the worker; workers share the GPUs of the machine in turn.

    Raises:
        SourceChanged: the bundle or the device is not the one of the plan.
        BundleRefused: the bundle cannot be used.
    """

    def __init__(self, spec: LocalSpec, plan: Plan, worker: int) -> None:
        _choose_gpu(worker)
        bundle = replace(read_bundle(spec.directory), findings=spec.findings)
        self._plan = plan
        self.spec: ModelSpec = bundle.spec
        self.backend = _open_backend(bundle, spec, plan.variant)
        self._critic: OnnxCritic | None = None
        try:
            if plan.image_filter is not None and bundle.critic is not None:
                self._critic = OnnxCritic(bundle, bundle.critic)
            _describe(bundle, self.backend).check(plan, str(spec.directory))
        except BaseException:
            self.backend.close()
            raise
        self._rows = max(1, min(_MOST_ROWS, _MOST_BYTES // plan.image_bytes))

    def read(self, first_index: int, count: int) -> Iterator[ImageBatch]:
        """Yields the images in order of index.

        Raises:
            DatasetError: with a filter, an index is 2^48 or more.
        """
        if self._critic is not None and first_index + count > FILTERED_END:
            raise DatasetError("with a filter, indices are below 2^48")
        for start in range(first_index, first_index + count, self._rows):
            yield self._compute(start, min(self._rows, first_index + count - start))

    def close(self) -> None:
        """Releases the model."""
        self.backend.close()
        if self._critic is not None:
            self._critic.close()

    def _compute(self, first: int, count: int) -> ImageBatch:
        plan = self._plan
        conditions = _Conditions(
            list_classes(plan, first, count), self._draw_captions(first, count)
        )
        indices = np.arange(count, dtype=np.uint64) + np.uint64(first)
        image, scores, chosen = self._draw(indices, conditions), None, indices
        if self._critic is not None:
            image, scores, chosen = self._filter(self._critic, image, first, conditions)
        return ImageBatch(
            model=plan.model,
            version=plan.version,
            seed=plan.seed,
            bundle_sha256=plan.bundle_sha256,
            variant=plan.variant,
            index=indices,
            class_id=conditions.classes,
            captions=tuple(conditions.captions or ()),
            serials=self._spell_serials(chosen, conditions),
            scores=scores,
            timing=_NO_TIME,
            image=image,
        )

    def _draw(self, indices: NDArray[np.uint64], conditions: "_Conditions") -> NDArray[np.uint8]:
        """Returns the images at some indices."""
        plan, spec, count = self._plan, self.spec, len(indices)
        threshold, psi = plan.truncation, None
        if spec.takes_psi:  # the graph always takes it; 1 leaves w unchanged
            threshold = None
            psi = np.full(count, 1.0 if plan.truncation is None else plan.truncation, np.float32)
        runs = group_runs(np.full(count, plan.seed, np.uint64), indices)
        runs = [run._replace(threshold=threshold) for run in runs]
        captions = conditions.captions
        batch = Batch(
            z=draw_run_latents(runs, spec.z_dim, distribution=spec.distribution),
            class_id=conditions.classes,
            tokens=spec.captions.encode(captions) if spec.captions and captions else None,
            truncation=psi,
        )
        return self.backend.run(batch)

    def _filter(
        self,
        critic: OnnxCritic,
        image: NDArray[np.uint8],
        first: int,
        conditions: "_Conditions",
    ) -> tuple[NDArray[np.uint8], Scores, NDArray[np.uint64]]:
        """Returns the images that the filter of the plan chooses, their scores and own indices.

        Args:
            critic: computes the scores.
            image: the first candidate of each index; those that fail are replaced.
            first: the first index.
            conditions: the conditions of the indices.
        """
        image_filter = _to_engine(self._plan.image_filter or Filter())
        selection = Selection(image_filter, critic.spec, self._plan.seed, first, len(image))
        found = critic.score(image, conditions.classes)
        selection.settle(found)
        kept = found.by_name()
        while len(positions := selection.pending):
            own = conditions.select(positions)
            candidates = self._draw(selection.next_indices, own)
            found = critic.score(candidates, own.classes)
            passes = selection.settle(found)
            image[positions[passes]] = candidates[passes]
            for name, values in found.by_name().items():
                kept[name][positions[passes]] = values[passes]
        return image, Scores(**kept, rejected=selection.rejected), selection.indices

    def _draw_captions(self, first: int, count: int) -> list[str] | None:
        """Returns example captions, as a server draws them; None for a model without captions."""
        captions = self.spec.captions
        if captions is None:
            return None
        drawn = draw_classes(self._plan.seed, first, count, len(captions.examples))
        return [captions.examples[at] for at in drawn.tolist()]

    def _spell_serials(
        self, indices: NDArray[np.uint64], conditions: "_Conditions"
    ) -> tuple[str, ...]:
        plan, variant, count = self._plan, self.backend.variant.name_in_serials, len(indices)
        prefix = spell_prefix(plan.model, int(plan.version), variant, plan.seed)
        classes, captions = conditions.classes, conditions.captions
        class_ids: list[int | None] = [None] * count if classes is None else classes.tolist()
        texts: list[str | None] = [None] * count if captions is None else [*captions]
        return tuple(
            f"{prefix}{index}{spell_terms(class_id, text, plan.truncation)}"
            for index, class_id, text in zip(indices.tolist(), class_ids, texts, strict=True)
        )


class _Conditions(NamedTuple):
    """Conditions of several images; None for an input that the model does not take."""

    classes: NDArray[np.int64] | None
    captions: list[str] | None

    def select(self, positions: NDArray[np.int64]) -> "_Conditions":
        """Returns the conditions of the images at some positions."""
        return _Conditions(
            None if self.classes is None else self.classes[positions],
            None if self.captions is None else [self.captions[at] for at in positions.tolist()],
        )


def _to_engine(image_filter: Filter) -> ImageFilter:
    return ImageFilter(
        image_filter.min_class_confidence,
        image_filter.rejection_sampling,
        image_filter.min_training_distance,
        image_filter.max_tries or DEFAULT_TRIES,
    )


def list_classes(plan: Plan, first: int, count: int) -> NDArray[np.int64] | None:
    """Returns the classes of consecutive images, int64 [count], as a server determines them."""
    if plan.classes is None:
        return None
    if plan.classes == "random":
        return draw_classes(plan.seed, first, count, len(plan.class_labels))
    cycle = np.array(plan.classes, np.int64)
    start = first % len(cycle)
    return cycle[np.arange(start, start + count) % len(cycle)]


def _open_backend(bundle: Bundle, spec: LocalSpec, variant: str) -> OnnxBackend:
    # The other workers use the other cores.
    return OnnxBackend(bundle, device=spec.device, variant=variant)


def _describe(bundle: Bundle, backend: OnnxBackend) -> Offer:
    spec = bundle.spec
    if spec.source is not None:
        raise refuse_translator(spec.name)
    accepted = spec.truncation
    return Offer(
        model=spec.name,
        version=str(bundle.version),
        variant=backend.variant.name,
        bundle_sha256=bundle.sha256,
        execution_provider=backend.provider,
        class_labels=spec.class_labels,
        has_captions=spec.captions is not None,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
        title=bundle.manifest.title,
        license=bundle.manifest.license,
        truncation=(accepted.minimum, accepted.maximum) if accepted else None,
        scores=() if bundle.critic is None else bundle.critic.scores.names,
        software=(
            ("onnxruntime", RUNTIME_VERSION),
            (DISTRIBUTION, metadata.version(DISTRIBUTION)),
        ),
    )


def _choose_gpu(worker: int) -> None:
    """Shows this process one GPU, if the environment lists several."""
    listed = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    if len(listed) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = listed[worker % len(listed)]

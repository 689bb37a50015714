"""The settings of the command `imagemint export`.

This module imports little: torch is imported when the command runs, not when its options are
listed.
"""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from pydantic_settings import CliPositionalArg

from imagemint.training.data_options import DataOptions

if TYPE_CHECKING:
    from imagemint.engine.bundle import Bundle
    from imagemint.engine.bundle.signatures import SigningKey
    from imagemint.exporter.critic import CriticParts
    from imagemint.exporter.draft import GraphOptions
    from imagemint.exporter.variants import Compare
    from imagemint.training.datasets import LabelledImages
    from imagemint.training.evaluation import RunSource

_DEVICES = {"int8": "cpu", "fp16": "cuda"}
_ONLY_FROM_ONNX = (
    *("value_range", "check_value_range", "layout", "image_shape", "labels", "labels_file"),
    *("latent_input", "class_input", "truncation_input", "fix_input", "ignore_input"),
    *("image_output", "distribution", "dataset"),
)
_THRESHOLDS = ("threshold_minimum", "threshold_maximum")
_ONLY_FOR_GENERATORS = (*_THRESHOLDS, "critic")
_ONLY_FOR_VARIANTS = ("judged_images", "judged_seeds")


class Export(BaseModel):
    """Exports a training run, or an ONNX file of another program, to a bundle that it verifies."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    source: CliPositionalArg[Path | None] = None
    """Directory of the training run. Its newest checkpoint is exported."""
    from_onnx: Path | None = None
    """ONNX file of a generator that another program exported, in place of a run. Weights in a
    second file must lie beside it."""
    name: str
    """Name of the model: lower-case letters, digits, '-', '_' and '.'."""
    repository: Path = Path("models")
    """Model repository to write to. The default is ./models, made if missing."""
    version: int | None = Field(default=None, ge=1, lt=10**18)
    """Version to write, refused if it exists. Default: one more than the last."""
    title: str | None = None
    """Title, one line. Default: the data set, image size and number of classes."""
    license: str | None = None
    """Licence of weights and samples. Default: that of the data set. Required with --from-onnx."""

    sign: Path | None = None
    """PEM file with the private key that signs the bundle, as `imagemint sign key` writes it."""
    triton: bool = False
    """Write config.pbtxt beside the version, with which a stock Triton serves the repository."""

    precision: list[Literal["fp32", "fp16", "int8"]] = ["fp32"]
    """Precisions. model.onnx is always fp32. fp16, for GPUs, and int8, for CPUs, are variants
    beside
    it, which are written if their quality matches that of model.onnx."""
    target: Literal["cpu", "cuda"] | None = None
    """Device of the bundle: cuda keeps transposed convolutions in model.onnx and has no int8; cpu
    has
    no fp16. Default: model.onnx as for cpu, with either variant."""
    critic: list[Literal["class", "discriminator", "copies"]] = []
    """Scores of images, in a second file, by which callers can filter. class: the probability that
    --classifier gives the class; discriminator: the calibrated logit of the run's discriminator;
    copies: the distance to the nearest training image in the features of --classifier. The last
    two need the data set."""
    accepted_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of images that rejection sampling by the discriminator accepts."""
    classifier: Path | None = None
    """Directory of the classifier that compares variants with model.onnx, and of the critic."""
    inception: Path | None = None
    """Weights of the standard Inception network, in place of a classifier."""
    data: Path | None = None
    """Folder that holds the data sets. Default: the user's cache, filled by download."""
    judged_images: int = Field(default=10_000, ge=100, le=10**9)
    """Images of each seed in the comparison of variants."""
    judged_seeds: int = Field(default=5, ge=2, le=100)
    """Seeds in the comparison of variants. The deviation of model.onnx over them is the noise."""

    direction: Literal["there", "back"] = "there"
    """Direction to export, for a translator that learnt both, such as cyclegan."""
    threshold_minimum: float = Field(default=0.1, gt=0)
    """Smallest truncation threshold that callers may request."""
    threshold_maximum: float = Field(default=4.0, gt=0)
    """Largest truncation threshold that callers may request."""
    tolerance_levels: int = Field(default=1, ge=0, le=255)
    """Largest accepted difference from the original, in levels of 255."""
    tolerance_share: float = Field(default=0.001, ge=0, le=1)
    """Largest accepted share of differing pixel values."""

    value_range: tuple[float, float] | None = None
    """With --from-onnx, required: output values of black and white, such as --value-range=-1,1."""
    check_value_range: bool = True
    """With --from-onnx: refuse a value range that most output values contradict."""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """With --from-onnx: order of the axes of its output. auto finds the axis of 1 or 3 channels."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """With --from-onnx: height, width and channels, such as 28,28,1, of an output [N, values]."""
    labels: list[str] = []
    """With --from-onnx: label texts of its classes, by index."""
    labels_file: Path | None = None
    """With --from-onnx: text file of labels in UTF-8, one a line, by index."""
    latent_input: str | None = None
    """With --from-onnx: its input for latents. Default: the only candidate."""
    class_input: str | None = None
    """With --from-onnx: its input for classes, as numbers or one-hot. Default: the only
    candidate."""
    truncation_input: str | None = None
    """With --from-onnx: its input for psi, one for each image. Default: one named truncation_psi,
    psi or truncation."""
    fix_input: dict[str, float] = {}
    """With --from-onnx: inputs that always get one number, such as --fix-input
    truncation_psi=0.7."""
    ignore_input: list[str] = []
    """With --from-onnx: inputs that are always filled with zeros."""
    image_output: str | None = None
    """With --from-onnx: its output of images. Default: the only output."""
    distribution: Literal["normal", "uniform"] = "normal"
    """With --from-onnx: distribution of its latents in training; uniform is from -1 to 1."""
    dataset: str = ""
    """With --from-onnx: data set and split that it learnt, such as mnist/train."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.source is None) == (self.from_onnx is None):
            raise ValueError("name a training run or --from-onnx, and not both")
        if self.source is not None and self.source.is_file():
            raise ValueError(
                f"{self.source} is a file, and a run is a directory. For an ONNX file, use"
                " --from-onnx"
            )
        extra = self._list_given(_ONLY_FROM_ONNX)
        if self.from_onnx is None and extra:
            raise ValueError(f"{extra[0]} needs --from-onnx: a run records it")
        if self.from_onnx is not None and (self.license is None or self.value_range is None):
            raise ValueError(
                "--from-onnx needs --license and --value-range: an ONNX file contains neither"
            )
        if self.distribution != "normal" and (extra := self._list_given(_THRESHOLDS)):
            raise ValueError(f"{extra[0]} needs --distribution normal")
        if self.from_onnx is not None and "direction" in self.model_fields_set:
            raise ValueError("--direction needs a training run of a translator")
        return self

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        if self.labels and self.labels_file is not None:
            raise ValueError("use --labels or --labels-file, and not both")
        if both := sorted({*self.fix_input} & {*self.ignore_input}):
            raise ValueError(f"input {both[0]!r}: use --fix-input or --ignore-input, and not both")
        return self

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        variants = self._variants
        for variant in variants:
            if self.target not in (None, _DEVICES[variant]):
                raise ValueError(
                    f"{variant} is for {_DEVICES[variant]}: it is not faster on others"
                )
        if variants and self.classifier is None and self.inception is None:
            raise ValueError(
                f"{' and '.join(variants)} must be compared before they are written: name a"
                " --classifier"
            )
        judging = self._list_given(_ONLY_FOR_VARIANTS)
        if judging and not variants:
            raise ValueError(f"{judging[0]} needs --precision int8 or fp16: it compares variants")
        return self

    @model_validator(mode="after")
    def _check_critic(self) -> Self:
        if {"class", "copies"} & {*self.critic} and self.classifier is None:
            raise ValueError("--critic class and --critic copies need a --classifier")
        if "discriminator" in self.critic and self.source is None:
            raise ValueError("--critic discriminator needs a training run")
        if "accepted_share" in self.model_fields_set and "discriminator" not in self.critic:
            raise ValueError("--accepted-share needs --critic discriminator")
        return self

    def _list_given(self, names: Sequence[str]) -> list[str]:
        """Returns the flags of those options that were given."""
        given = [name for name in names if name in self.model_fields_set]
        return [f"--{name.replace('_', '-')}" for name in given]

    @property
    def _variants(self) -> list[str]:
        return [name for name in dict.fromkeys(self.precision) if name != "fp32"]

    def run(self) -> int:
        """Exports; prints where the bundle is, how faithful it is, and how to serve it."""
        bundle, original = self._export_run() if self.from_onnx is None else self._adopt_file()
        parity = bundle.manifest.parity
        print(  # noqa: T201 - the command's answer
            f"{bundle.directory}: {self.name}@{bundle.version}, {bundle.model_bytes / 1e6:.1f} MB; "
            f"{original} against {parity.backend} on {parity.samples:,} inputs: at most "
            f"{parity.max_difference} levels apart, {parity.differing_share:.4%} of the values"
        )
        for variant, file in zip(bundle.manifest.variants, bundle.others, strict=True):
            difference = variant.difference
            quality = ", ".join(
                f"{q.metric} {q.value:.4f} ({q.model:.4f})" for q in variant.quality
            )
            print(  # noqa: T201 - likewise
                f"{variant.name}: {file.size / 1e6:.1f} MB; against model.onnx on"
                f" {difference.images:,} images: {difference.mean:.3f} levels on average, at most"
                f" {difference.maximum}, {difference.over_one_share:.3%} of the values over one;"
                f" {quality}"
            )
        if bundle.critic is not None:
            print(f"{bundle.critic.path.name}: {bundle.critic.size / 1e6:.1f} MB")  # noqa: T201 - likewise
            for kind, score in bundle.manifest.critic.ListFields():
                if kind.message_type is not None:
                    print(f"  {kind.name}: {score.protocol}")  # noqa: T201 - likewise
        if not bundle.manifest.evaluations:
            print("no measured quality in the card: run `imagemint evaluate` first")  # noqa: T201 - likewise
        if self.triton:
            from imagemint.exporter.triton import write_triton_config  # noqa: PLC0415 - ONNX

            print(f"for Triton: {write_triton_config(bundle)}")  # noqa: T201 - likewise
        repository = shlex.quote(str(self.repository.absolute()))
        print(f"serve it: imagemint serve --repository {repository}")  # noqa: T201 - likewise
        return 0

    def _export_run(self) -> "tuple[Bundle, str]":
        from imagemint.exporter.errors import ExportError  # noqa: PLC0415 - onnxruntime
        from imagemint.exporter.export import export_generator  # noqa: PLC0415 - torch
        from imagemint.exporter.parity import Tolerance  # noqa: PLC0415 - torch
        from imagemint.training.trained import read_generator  # noqa: PLC0415 - torch
        from imagemint.training.translators import is_translator  # noqa: PLC0415 - torch

        assert self.source is not None  # noqa: S101 - for the type checker; _check made sure
        if is_translator(self.source):
            if extra := self._list_given(_ONLY_FOR_GENERATORS):
                raise ExportError(
                    f"{extra[0]} needs a generator, and {self.source} is a translator"
                )
            return self._export_translator(self.source), "PyTorch"
        if "direction" in self.model_fields_set:
            raise ExportError(f"--direction needs a translator, and {self.source} is a generator")
        trained = read_generator(self.source)
        extra = self._list_given(_THRESHOLDS)
        if extra and (trained.truncation == "psi" or trained.distribution.value != "normal"):
            raise ExportError(
                f"{extra[0]} needs normal latents and truncation by threshold: {self.source} has"
                f" {trained.distribution.value} latents"
                + (" and truncation by psi" if trained.truncation == "psi" else "")
            )
        bundle = export_generator(
            trained,
            name=self.name,
            repository=self.repository,
            title=self.title,
            license=self.license,
            version=self.version,
            thresholds=(self.threshold_minimum, self.threshold_maximum),
            tolerance=Tolerance(self.tolerance_levels, self.tolerance_share),
            graph_options=self._make_graph_options(),
            signing_key=self._read_signing_key(),
        )
        return bundle, "PyTorch"

    def _export_translator(self, run: Path) -> "Bundle":
        from imagemint.exporter.parity import Tolerance  # noqa: PLC0415 - torch
        from imagemint.exporter.translation import export_translator  # noqa: PLC0415 - torch
        from imagemint.training.translators import read_translator  # noqa: PLC0415 - torch

        return export_translator(
            read_translator(run, self.direction),
            name=self.name,
            repository=self.repository,
            title=self.title,
            license=self.license,
            version=self.version,
            tolerance=Tolerance(self.tolerance_levels, self.tolerance_share),
            graph_options=self._make_graph_options(),
            signing_key=self._read_signing_key(),
        )

    def _adopt_file(self) -> "tuple[Bundle, str]":
        from imagemint.engine import Distribution  # noqa: PLC0415 - SciPy
        from imagemint.exporter.adoption import ForeignModel  # noqa: PLC0415 - torch
        from imagemint.exporter.export import adopt_generator  # noqa: PLC0415 - torch
        from imagemint.exporter.parity import Tolerance  # noqa: PLC0415 - torch

        assert self.from_onnx is not None  # noqa: S101 - for the type checker; _check made sure
        assert self.value_range is not None  # noqa: S101 - likewise
        assert self.license is not None  # noqa: S101 - likewise
        foreign = ForeignModel(
            path=self.from_onnx,
            value_range=self.value_range,
            layout=self.layout,
            image_shape=self.image_shape,
            class_labels=self._read_label_texts(),
            distribution=Distribution(self.distribution),
            latent_input=self.latent_input,
            class_input=self.class_input,
            truncation_input=self.truncation_input,
            fixed_inputs=dict.fromkeys(self.ignore_input, 0.0) | self.fix_input,
            output=self.image_output,
            check_value_range=self.check_value_range,
            dataset=self.dataset,
        )
        bundle = adopt_generator(
            foreign,
            name=self.name,
            repository=self.repository,
            license=self.license,
            title=self.title,
            version=self.version,
            thresholds=(self.threshold_minimum, self.threshold_maximum),
            tolerance=Tolerance(self.tolerance_levels, self.tolerance_share),
            graph_options=self._make_graph_options(),
            signing_key=self._read_signing_key(),
        )
        return bundle, self.from_onnx.name

    def _read_signing_key(self) -> "SigningKey | None":
        if self.sign is None:
            return None
        from imagemint.engine.bundle.signatures import SigningKey  # noqa: PLC0415 - an extra

        return SigningKey.read(self.sign)

    def _read_label_texts(self) -> tuple[str, ...]:
        if self.labels_file is None:
            return tuple(self.labels)
        from imagemint.exporter.errors import ExportError  # noqa: PLC0415 - onnxruntime

        try:
            # utf-8-sig, because editors on Windows write a byte order mark.
            texts = self.labels_file.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ExportError(f"{self.labels_file} is not UTF-8: {error}") from error
        while texts and not texts[-1].strip():
            texts.pop()
        empty = [number for number, text in enumerate(texts, 1) if not text.strip()]
        if not texts or empty:
            problem = f"line {empty[0]} is empty" if empty else "it is empty"
            raise ExportError(f"{self.labels_file} must contain one label per line: {problem}")
        return tuple(text.strip() for text in texts)

    def _make_graph_options(self) -> "GraphOptions":
        from imagemint.exporter.draft import GraphOptions  # noqa: PLC0415 - torch

        compare = self._compare() if self._variants else None
        critic = self._load_critic_parts() if self.critic else None
        return GraphOptions(self.target or "cpu", self._variants, compare, critic)

    def _load_critic_parts(self) -> "CriticParts":
        import torch  # noqa: PLC0415 - torch

        from imagemint.exporter.critic import CriticParts  # noqa: PLC0415 - torch
        from imagemint.training.classifier.trained import load_classifier  # noqa: PLC0415 - torch
        from imagemint.training.trained import read_discriminator  # noqa: PLC0415 - torch

        classifier, metadata, discriminator = None, None, None
        if self.classifier is not None:
            classifier, metadata = load_classifier(self.classifier, torch.device("cpu"))
        needs_data = {"discriminator", "copies"} & {*self.critic}
        train, test = self._load_data() if needs_data else (None, None)
        if "discriminator" in self.critic and self.source is not None and train is not None:
            discriminator = read_discriminator(self.source, len(train.class_labels))
        return CriticParts(
            self.critic, classifier, metadata, discriminator, train, test, self.accepted_share
        )

    def _load_data(self) -> "tuple[LabelledImages, LabelledImages]":
        """Returns the training images, those of the run as the run read them, and test images."""
        from imagemint.exporter.errors import ExportError  # noqa: PLC0415 - onnxruntime
        from imagemint.training.datasets import load_dataset, select_per_class  # noqa: PLC0415 - import-light

        if self.source is None:
            name = self.dataset.partition("/")[0]
            if not name:
                raise ExportError("--critic copies needs the --dataset")
            return load_dataset(name, "train", self.data), load_dataset(name, "test", self.data)
        from imagemint.training.evaluation import load_real_images  # noqa: PLC0415 - torch

        run = self._open_run(self.source)
        train, test = (
            load_real_images(split, run.dataset or "", run, self.data)
            for split in ("train", "test")
        )
        count = run.settings.get("per_class")
        return train if count is None else select_per_class(train, count), test

    @staticmethod
    def _open_run(run: Path) -> "RunSource":
        import torch  # noqa: PLC0415 - torch

        from imagemint.training.evaluation import RunSource  # noqa: PLC0415 - torch

        return RunSource(run, torch.device("cpu"))

    def _compare(self) -> "Compare":
        import torch  # noqa: PLC0415 - torch

        from imagemint.training import evaluation  # noqa: PLC0415 - torch
        from imagemint.training.translators import is_translator  # noqa: PLC0415 - torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        extractor, judge = evaluation.open_extractor(self.classifier, self.inception, device)
        of_generator = self.source is not None and not is_translator(self.source)
        run = self._open_run(self.source) if self.source and of_generator else None
        return partial(
            evaluation.compare,
            extractor=extractor,
            judge=judge,
            data=self.data,
            samples=self.judged_images,
            seeds=self.judged_seeds,
            dataset=run.dataset if run else None,
            reading=DataOptions.of_settings(run.settings) if run else None,
        )

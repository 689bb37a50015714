"""The settings of the commands ``imagemint train`` and ``imagemint evaluate``.

This module imports little: torch is imported when a command runs, not when its options are listed.
"""

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_settings import CliPositionalArg

from imagemint.training.data_options import DataOptions
from imagemint.training.errors import TrainingError
from imagemint.training.generator_command import TrainGenerator
from imagemint.training.recipes import CLASSIFIER_TABLE, TABLE, TRANSLATION_TABLE, Entry
from imagemint.training.run_command import RunSettings, choose_device
from imagemint.training.translation_command import TrainTranslator

if TYPE_CHECKING:
    import torch

    from imagemint.training.classifier.recipes import ClassifierRecipe
    from imagemint.training.evaluation.translation import Translator
    from imagemint.training.evaluation_report import EvaluationFigure

_log = logging.getLogger(__name__)


class TrainClassifier(RunSettings, DataOptions):
    """Settings of a classifier's training, besides the options of its recipe."""

    recipe_type: ClassVar[type["ClassifierRecipe"]]

    def run(self) -> int:
        """Trains a classifier, writes weights and ``classifier.json``, and prints the latter."""
        from imagemint.training.classifier.training import (  # noqa: PLC0415 - torch
            preview,
            train_classifier,
        )
        from imagemint.training.loop.machine import find_machine_warnings  # noqa: PLC0415 - torch

        recipe = self.recipe_type(
            **{name: getattr(self, name) for name in self.recipe_type.model_fields}
        )
        train, test = (
            self.load(recipe.dataset, split, self.data, size=recipe.size)
            for split in ("train", "test")
        )
        device = choose_device(self.device)
        warnings = find_machine_warnings(device, recipe.precision)
        if self.dry_run:
            result = recipe.model_dump(mode="json") | preview(recipe, train, test)
            result |= {"device": str(device), "warnings": warnings}
        else:
            for warning in warnings:
                _log.warning("%s", warning)
            result = train_classifier(
                recipe, train, test, self.out, device=device, quiet=self.quiet
            )
        print(json.dumps(result, indent=2))  # noqa: T201 - the command's answer
        return 0


class ListRecipes(BaseModel):
    """Shows every recipe: data set, expected time and recorded quality."""

    def run(self) -> int:
        """Prints a table of the recorded results; recipes without a record are marked."""
        from imagemint.training.recipes.results import format_table  # noqa: PLC0415 - rarely asked for

        print(format_table())  # noqa: T201 - the command's answer
        return 0


class Train(BaseModel):
    """Trains a network by recipe: imagemint train RECIPE --out RUN."""

    @classmethod
    def list_variants(cls) -> dict[str, str]:
        """Returns the recipes by name, each with one line of help, without importing them."""
        table = TABLE | TRANSLATION_TABLE | CLASSIFIER_TABLE
        lines = {name: f"Trains {each.summary} ({each.dataset})." for name, each in table.items()}
        return lines | {"--list": (ListRecipes.__doc__ or "").partition("\n")[0]}

    @classmethod
    def load_variant(cls, name: str) -> type[BaseModel]:
        """Returns the command that trains with a recipe. It has the options of the recipe."""
        if name == "--list":
            return ListRecipes
        tables: dict[type[BaseModel], dict[str, Entry]] = {
            TrainGenerator: TABLE,
            TrainTranslator: TRANSLATION_TABLE,
            TrainClassifier: CLASSIFIER_TABLE,
        }
        base, table = next((kind, table) for kind, table in tables.items() if name in table)
        recipe = table[name].load()
        command = create_model(
            f"Train{recipe.__name__}",
            __base__=(base, recipe),
            __doc__=cls.list_variants()[name],
            __module__=__name__,
        )
        # Set afterwards, because create_model takes no ClassVar.
        setattr(command, "recipe_type", recipe)  # noqa: B010 - its type has no such attribute
        return command


class Evaluate(DataOptions):
    """Measures a trained run, a bundle, a server or a set of images against the real test set."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    source: CliPositionalArg[str]
    """Run, checkpoint, bundle, folder of pictures or .npz of `imagemint generate`, or
    grpc://HOST:PORT/MODEL[@VERSION]. The classes of pictures in a folder come from a table (CSV,
    TSV or JSON lines) there, from their serial numbers or names, or from folders."""
    classifier: list[Path] = Field(default_factory=list)
    """Directory of a classifier that `imagemint train mnist-classifier` or another wrote. With
    several, images are judged by each; figures of the second and further ones have the name of its
    directory behind an @."""
    inception: Path | None = None
    """Weights of the standard Inception network. Its features are compared instead."""
    dataset: str | None = None
    """Data set to compare with. Default: that of the source, else that of the classifier."""
    data: Path | None = None
    """Folder of the data sets. Default: the user's cache, filled by download."""
    samples: int | None = Field(default=None, ge=100)
    """Images of each seed, with the classes in turn. Default: 10,000, or 26,000 of Stacked MNIST.
    All images of a file are used."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """First seed whose images are drawn. A file or a translator has none."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Number of seeds. Figures are their mean, with the standard deviation."""
    out: Path | None = None
    """Folder for table and pictures. Default: `evaluation/` of a run, or `evaluation-NAME/` against
    another data set; none for other sources."""
    variant: str = "reference"
    """Graph of a bundle that is measured: reference, auto (as a server chooses), or its name."""
    cache: bool = True
    """Return the result of an earlier evaluation of the same weights by the same protocol."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""

    @field_validator("classifier", mode="before")
    @classmethod
    def _accept_one(cls, given: object) -> object:
        """Returns a list; a file of settings may have a single classifier as text."""
        return [given] if isinstance(given, str | Path) else given

    def run(self) -> int:
        """Prints the figures; `evaluate` says which are also written to ``evaluation.json``."""
        from imagemint.training import evaluation  # noqa: PLC0415 - torch

        if "://" not in self.source and not Path(self.source).exists():
            raise TrainingError(f"{self.source} does not exist")
        device = choose_device(self.device)
        translator = evaluation.open_translator(self.source, device, variant=self.variant)
        if translator is not None:
            return self._evaluate_translator(translator, device)
        classifiers: list[Path | None] = [*self.classifier] or [None]
        judgings = [
            evaluation.Judging(
                classifier.resolve().name if classifier else "",
                *evaluation.open_extractor(classifier, self.inception, device),
            )
            for classifier in classifiers
        ]
        source = evaluation.open_source(self.source, device, variant=self.variant)
        out = self._choose_out(getattr(source, "run", None), source.dataset)
        try:
            figures = evaluation.evaluate_under_all(
                source,
                judgings,
                evaluation.Protocol(self.samples, self.seed, self.seeds, self.dataset),
                self.data,
                out=out,
                cache=self.cache,
                reading=self if DataOptions.model_fields.keys() & self.model_fields_set else None,
            )
        finally:
            source.close()
        _print_figures(figures, out)
        return 0

    def _choose_out(self, run: Path | None, own: str | None) -> Path | None:
        """Returns the folder for table and pictures of a source that is this run, if it is one."""
        from imagemint.training.evaluation_report import choose_folder  # noqa: PLC0415 - NumPy

        return self.out or (choose_folder(run, self.dataset, own) if run else None)

    def _evaluate_translator(self, translator: "Translator", device: "torch.device") -> int:
        from imagemint.training import evaluation  # noqa: PLC0415 - torch

        out = self._choose_out(translator.run, translator.dataset)
        try:
            if self.inception is not None:
                raise TrainingError(
                    "a translator is measured with a --classifier, not with --inception"
                )
            if self.model_fields_set & {"seed", "seeds"}:
                raise TrainingError(
                    "--seed and --seeds have no effect on a translator: each source of the test "
                    "set is translated once"
                )
            figures = evaluation.evaluate_translator(
                translator,
                evaluation.open_judge(self.classifier, device),
                self.data,
                dataset=self.dataset,
                samples=self.samples,
                out=out,
            )
        finally:
            translator.close()
        _print_figures(figures, out)
        return 0


def _print_figures(figures: "Iterable[EvaluationFigure]", out: Path | None) -> None:
    for figure in figures:
        spread = "" if figure.deviation is None else f" ± {figure.deviation:.4f}"
        reference = "" if figure.reference is None else f"  (real data {figure.reference:.4f})"
        print(f"{figure.metric:28} {figure.value:9.4f}{spread}{reference}")  # noqa: T201 - the command's answer
    if out is not None:
        print(f"{out} has the table and the pictures", file=sys.stderr)  # noqa: T201 - see above

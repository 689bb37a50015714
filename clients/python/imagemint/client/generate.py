"""The command `imagemint generate`."""

# ruff: noqa: T201 - a command prints

import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode
from tqdm import tqdm

from imagemint.client import outputs
from imagemint.client.api import Selection, run_selection
from imagemint.client.arguments import INT32_MAX, UINT64_MAX
from imagemint.client.blocking import Client
from imagemint.client.classes import BALANCED, parse_classes
from imagemint.client.commands import FilteredConnection
from imagemint.client.errors import ImagemintError, NotFound
from imagemint.client.images import EncodedPicture, ImageBatch
from imagemint.client.interrupts import INTERRUPTED, ignore_unstarted_calls
from imagemint.client.outputs import Kind
from imagemint.client.requests import Caption, Condition, Priority
from imagemint.client.serials import Serial, cut_into_runs

ChunkT = TypeVar("ChunkT", ImageBatch, list[EncodedPicture])

_SERIALS_AT_ONCE = 1024


def _to_list(value: object) -> object:
    """Returns the value of a flag, variable or key as a list of texts; TOML may have numbers."""
    values = value if isinstance(value, list) else [value]
    return [str(each) if isinstance(each, int) else each for each in values]


def _check_output(value: str) -> str:
    outputs.parse_kind(value)
    return value


# Without NoDecode, a comma would split a label.
Texts = Annotated[list[str], NoDecode, BeforeValidator(_to_list)]


class Generate(FilteredConnection):
    """Generates images into a folder of PNG files, one sheet, or an npz file."""

    model: str | None = None
    """Name of the model. Required without --serial and --interpolate."""
    class_: Texts = Field([], alias="class")
    """Class by label or index: CLASS, label:TEXT or index:NUMBER. Several, comma-separated or as
    repeated flags, are taken in turn, and a repeated one gets more images; `balanced` takes all in
    turn. Default: a conditional model draws classes at random."""
    caption: str | None = None
    """Caption for a text-to-image model, such as "a person with red hair"; `imagemint models` lists
    the known words. Default: one of the model's examples for each image."""
    count: int = Field(1, ge=1, le=UINT64_MAX)
    """Number of images."""
    seed: int | None = Field(None, ge=0, le=UINT64_MAX)
    """Seed. Default: the server picks one."""
    first_index: int = Field(0, ge=0, le=UINT64_MAX)
    """Index of the first image."""
    truncation: float | None = None
    """Truncation within the range of the model."""
    version: str = ""
    """Version of the model. Default: the server's default version."""
    variant: str = ""
    """Variant of the model, such as int8, or reference for model.onnx; a server that runs another
    one refuses. Default: whichever the server runs."""
    serial: Texts = Field([])
    """Serial number of an image to generate again. Separate several by commas or repeat the flag.
    Excludes the settings that a serial number contains."""
    interpolate: Texts = Field([])
    """Serial numbers of a walk: the images on the path between them, as one animation. Separate
    them by commas or repeat the flag. Needs --out NAME.webp, .gif or .apng."""
    frames: int = Field(60, ge=2, le=INT32_MAX)
    """Images of the walk, both ends included."""
    frame_ms: int = Field(50, ge=10, le=10_000)
    """Time of one image of the walk in milliseconds."""
    bounce: bool = False
    """Show the walk forwards and then backwards."""
    out: Annotated[str, AfterValidator(_check_output)]
    """NAME.npz: an npz; NAME.png, .jpg, .jpeg or .webp: one sheet; NAME without a suffix, or NAME/:
    a folder of PNG files; with --interpolate, NAME.webp, .gif or .apng: an animation."""
    overwrite: bool = False
    """Replace a file that exists, or the pictures that an earlier run wrote to the folder."""
    append: bool = False
    """Add to the pictures in the folder, and replace those of the same index."""
    columns: int | None = Field(None, ge=1, le=INT32_MAX)
    """Images per row of the sheet. Default: the square root of the count, rounded up."""
    chunk_size: int | None = Field(None, ge=1, le=INT32_MAX)
    """Images per chunk of the stream. Default: the server's choice."""
    priority: Priority = "normal"
    """Order in which waiting requests are served: high goes before normal."""
    progress: bool | None = None
    """Show a progress bar. Default: only on a terminal."""
    quiet: bool = False
    """Print only errors."""

    @model_validator(mode="after")
    def _check_exclusions(self) -> Self:
        for first, second in (("class_", "caption"), ("overwrite", "append")):
            if getattr(self, first) and getattr(self, second):
                raise ValueError(f"{_to_flag(first)} and {_to_flag(second)} exclude each other")
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        in_serials = {
            *("model", "version", "variant"),
            *("class_", "caption", "count", "seed", "first_index", "truncation"),
            *("min_class_confidence", "rejection_sampling", "min_training_distance"),
            *("max_tries", "scores"),
        }
        if self.interpolate:
            outputs.choose_animation_format(Path(self.out))
            if self.serial:
                raise ValueError("--interpolate and --serial exclude each other")
        elif self._kind is Kind.ANIMATION:
            raise ValueError(f"{self.out} is an animation, which needs --interpolate")
        elif given := sorted({"frames", "frame_ms", "bounce"} & self.model_fields_set):
            raise ValueError(f"{_to_flag(given[0])} needs --interpolate")
        if not self.serial and not self.interpolate:
            if not self.model:
                raise ValueError("--model is required (or IMAGEMINT_MODEL), or else --serial")
        elif given := sorted(in_serials & self.model_fields_set):
            flags = ", ".join(map(_to_flag, given))
            flag = "--interpolate" if self.interpolate else "--serial"
            raise ValueError(f"{flag} determines the image and excludes {flags}")
        if self.append and self._kind is not Kind.FOLDER:
            raise ValueError("--append needs a folder as --out")
        return self

    @property
    def _kind(self) -> Kind:
        return outputs.parse_kind(self.out)

    def run(self) -> int:
        """Generates the images, writes them and prints a summary."""
        path, kind = Path(self.out), self._kind
        if not (self.overwrite or self.append):
            outputs.check_free(path, kind)
        if self.interpolate:
            return self._write_walk(path)
        serials = [Serial.parse(text) for each in self.serial for text in each.split(",")]
        report = _Report(len(serials) or self.count, show=False if self.quiet else self.progress)
        try:
            with self._report_failures(report), self.open_client() as client:
                self._write(client, serials, report)
        except KeyboardInterrupt:
            ignore_unstarted_calls()
            self._print_how_to_continue("interrupted", report)
            return INTERRUPTED
        if not self.quiet:
            print(f"{report} to {self.out}")
        return 0

    def _write_walk(self, path: Path) -> int:
        """Writes the animation of a walk, and prints a summary."""
        began = time.perf_counter()
        with self.open_client() as client:
            picture = client.animate(
                [text for each in self.interpolate for text in each.split(",")],
                self.frames,
                format=outputs.choose_animation_format(path),
                frame_ms=self.frame_ms,
                bounces=self.bounce,
                priority=self.priority,
            )
        with outputs.write_atomically(path) as file:
            file.write(picture)
        if not self.quiet:
            print(f"{self.frames} frames in {time.perf_counter() - began:.2f} s to {self.out}")
        return 0

    def _write(self, client: Client, serials: Sequence[Serial], report: "_Report") -> None:
        path = Path(self.out)
        jobs = self._plan_jobs(client, serials)
        match self._kind:
            case Kind.FOLDER:
                pictures = self._clear_before_first(
                    path, report.watch(self._request_pictures(client, jobs))
                )
                sequences = {(serial.maker, serial.seed, serial.truncation) for serial in serials}
                outputs.write_folder(path, pictures, full_names=len(sequences) > 1)
            case Kind.SHEET if self._fits_one_call(client, jobs):
                (job,) = jobs
                sheet = client.sheet(
                    job.model,
                    job.images,
                    columns=self.columns,
                    format=outputs.choose_sheet_format(path),
                    priority=self.priority,
                    **job.selection,
                )
                for (picture,) in report.watch([[sheet]]):
                    with outputs.write_atomically(path) as file:
                        file.write(picture.data)
            case Kind.SHEET:
                batches = report.watch(self._request_batches(client, jobs, serials))
                outputs.write_sheet(path, report.count, self.columns, batches)
            case Kind.NPZ:
                batches = report.watch(self._request_batches(client, jobs, serials))
                outputs.write_npz(
                    path,
                    report.count,
                    batches,
                    truncation=jobs[0].selection.get("truncation"),
                    class_labels=lambda batch: _fetch_labels(client, batch.model, batch.version),
                )

    def _plan_jobs(self, client: Client, serials: Sequence[Serial]) -> list["_Job"]:
        """Returns the requests to make, as few as possible."""
        if serials:
            runs = cut_into_runs(serials, _Limits(client).__getitem__)
            return [_Job(run.first.model, len(run), run_selection(run)) for run in runs]
        model = self.model or ""
        selection = Selection(
            seed=self.seed,
            first_index=self.first_index,
            condition=self._parse_condition(client, model),
            truncation=self.truncation,
            version=self.version,
            variant=self.variant,
            image_filter=self.image_filter,
        )
        return [_Job(model, self.count, selection)]

    def _parse_condition(self, client: Client, model: str) -> Condition:
        if self.caption is not None:
            return Caption(self.caption)
        if not self.class_:
            return None
        text = ",".join(self.class_)
        labels = () if text == BALANCED else _fetch_labels(client, model, self.version)
        return parse_classes(text, labels)

    def _request_pictures(
        self, client: Client, jobs: Iterable["_Job"]
    ) -> Iterator[list[EncodedPicture]]:
        for job in jobs:
            yield from client.stream_encoded(
                job.model,
                job.images,
                chunk_size=self.chunk_size,
                priority=self.priority,
                **job.selection,
            )

    def _request_batches(
        self, client: Client, jobs: Iterable["_Job"], serials: Sequence[Serial]
    ) -> Iterator[ImageBatch]:
        """Yields the images in the requested order."""
        if serials:
            texts = [text for each in self.serial for text in each.split(",")]
            for start in range(0, len(texts), _SERIALS_AT_ONCE):
                yield client.mint(texts[start : start + _SERIALS_AT_ONCE])
            return
        for job in jobs:
            yield from client.stream(
                job.model,
                job.images,
                chunk_size=self.chunk_size,
                priority=self.priority,
                **job.selection,
            )

    def _fits_one_call(self, client: Client, jobs: Sequence["_Job"]) -> bool:
        limits = _Limits(client)
        return len(jobs) == 1 and jobs[0].images <= limits[jobs[0].model]

    def _clear_before_first(self, path: Path, chunks: Iterable[ChunkT]) -> Iterator[ChunkT]:
        """Yields `chunks`; with --overwrite, clears the folder when the first chunk has arrived."""
        clear = self.overwrite
        for chunk in chunks:
            if clear:
                outputs.clear_folder(path)
                clear = False
            yield chunk

    @contextmanager
    def _report_failures(self, report: "_Report") -> Iterator[None]:
        """After a failure, prints what was written and how to continue; then raises the error."""
        try:
            yield
        except (ImagemintError, OSError):
            if report.done:
                self._print_how_to_continue("stopped", report)
            raise

    def _print_how_to_continue(self, event: str, report: "_Report") -> None:
        """Prints what was written, and the command that generates the rest."""
        first, done = report.first, report.done
        lines = [f"imagemint generate: {event} after {done} of {report.count} images; "]
        words = self._build_command(report)
        if self._kind is not Kind.FOLDER or first is None:
            lines[0] += f"nothing was written to {self.out}"
            verb = "the same images"
        else:
            lines[0] += f"they are in {self.out}"
            verb = "the rest"
            words.append("--append")
            if not self.serial:
                begin = self.first_index + done
                words += ["--first-index", str(begin), "--count", str(self.count - done)]
        lines.append(f"to generate {verb}: {shlex.join([*words, '--out', self.out])}")
        print("\n".join(lines), file=sys.stderr)

    def _build_command(self, report: "_Report") -> list[str]:
        """Returns the command for the same images, without --out and without secrets."""
        words = ["imagemint", "generate"]
        appends = self._kind is Kind.FOLDER and report.first is not None
        skipped = {"out", "append", "api_key"}
        if appends:
            skipped |= {"overwrite"} if self.serial else {"overwrite", "first_index", "count"}
        pinned: dict[str, object] = {}
        if report.first is not None and not self.serial:
            pinned = {"version": report.first.version, "seed": report.first.seed}
            if report.first.variant:  # a server without variants reports none
                pinned["variant"] = report.first.variant
        for name, value in self.model_dump(include=self.model_fields_set - skipped).items():
            if name in pinned or value is None:
                continue
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bool):
                    words.append(
                        _to_flag(name) if item else _to_flag(name).replace("--", "--no-", 1)
                    )
                else:
                    words += [_to_flag(name), str(item)]
        for name, value in pinned.items():
            words += [_to_flag(name), str(value)]
        return words


class _Job(NamedTuple):
    """Images of one seed."""

    model: str
    images: int
    selection: Selection


class _Limits(dict[str, int]):
    """Largest number of images per call by model, requested from the server when needed."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def __missing__(self, model: str) -> int:
        self[model] = limit = self._client.model(model).limits.max_images_per_request
        return limit


class _Report:
    """Counts the written images, shows the progress, and formats a summary."""

    def __init__(self, count: int, *, show: bool | None) -> None:
        self.count = count
        self.done = 0
        self.first: ImageBatch | EncodedPicture | None = None
        self._show = show
        self._started = time.perf_counter()
        self._elapsed_s = 0.0

    def watch(self, chunks: Iterable[ChunkT]) -> Iterator[ChunkT]:
        """Yields `chunks` unchanged."""
        # None lets tqdm decide: it shows nothing if stderr is not a terminal.
        hidden = None if self._show is None else not self._show
        with tqdm(total=self.count, unit=" images", file=sys.stderr, disable=hidden) as bar:
            for chunk in chunks:
                self.first = self.first or (chunk[0] if isinstance(chunk, list) else chunk)
                yield chunk
                arrived = chunk if isinstance(chunk, list) else [chunk]
                self.done += sum(len(each.index) for each in arrived)
                bar.update(self.done - bar.n)
        self._elapsed_s = time.perf_counter() - self._started

    def __str__(self) -> str:
        first = self.first
        if first is None:
            return "nothing"
        images = "1 image" if self.count == 1 else f"{self.count} images"
        rate = self.count / max(self._elapsed_s, 1e-9)
        seed = "" if first.seed is None else f" seed {first.seed}"
        return (
            f"{first.model}@{first.version}{seed}: {images} in "
            f"{self._elapsed_s:.2f} s ({rate:.0f} images/s), first serial {first.serials[0]},"
        )


def _fetch_labels(client: Client, model: str, version: str) -> Sequence[str]:
    """Returns the label texts of a model."""
    manifest = client.model(model).manifest(version)
    if manifest is None:
        missing = f"version {version}" if version else "default version"
        raise NotFound(f"{model} has no {missing} that is ready")
    return manifest.class_labels


def _to_flag(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")

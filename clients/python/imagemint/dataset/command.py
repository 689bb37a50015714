"""The command `imagemint dataset`."""

# ruff: noqa: T201 - a command prints

import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from imagemint.client.arguments import UINT64_MAX
from imagemint.client.classes import parse_classes
from imagemint.client.commands import FilteredConnection
from imagemint.client.errors import ImagemintError
from imagemint.client.extras import MissingExtra, install_command
from imagemint.client.interrupts import find_interruption, ignore_unstarted_calls
from imagemint.client.requests import FILTERED_END, Cycle
from imagemint.dataset.errors import DatasetError, TemporaryFailure
from imagemint.dataset.folder import Folder, Journal, LocalFolder, translate_os_error
from imagemint.dataset.interrupts import TERMINATED, Terminated, raise_on_sigterm
from imagemint.dataset.making import (
    check_folder,
    claim_folder,
    finish,
    finish_repair,
    is_complete,
    list_damaged,
    list_missing,
    make_here,
    read_plan,
)
from imagemint.dataset.pictures import CAPTION, REJECTED
from imagemint.dataset.places import open_folder
from imagemint.dataset.plan import (
    FormatName,
    ImageFormat,
    Plan,
    Shard,
    describe_software,
    uses_quality,
)
from imagemint.dataset.progress import Progress
from imagemint.dataset.scratch import delete_abandoned
from imagemint.dataset.shards import Task
from imagemint.dataset.sources import LocalSpec, Offer, ServerSpec, Spec
from imagemint.dataset.sums import read_sums
from imagemint.dataset.trial import estimate
from imagemint.dataset.verification import choose_shards, verify
from imagemint.dataset.workers import make_in_processes

RANDOM: Literal["random"] = "random"
# Settings that the plan of an existing data set decides.
_PLANNED = {
    *("model", "count", "classes", "captions", "seed", "first_index", "truncation", "version"),
    *("variant", "format", "image_format", "quality", "shard_size", "min_class_confidence"),
    *("rejection_sampling", "min_training_distance", "max_tries", "scores"),
}
_DRAWN_SEED_BITS = 63
_TEMPORARY = os.EX_TEMPFAIL
_SAMPLE_SEED_BITS = 32  # short enough to type


class Dataset(FilteredConnection):
    """Makes a data set of labelled images. Run the same command again to continue it."""

    model: str | None = None
    """Name of the model."""
    count: int | None = Field(None, ge=1, le=UINT64_MAX)
    """Number of images."""
    classes: str = RANDOM
    """Classes of the images: `balanced` takes all classes in turn; labels or indices, separated by
    commas, are taken in turn, and a repeated one gets more images; `random` draws them by seed and
    index. Data sets of the same seed and indices share latents, and can share images, whatever
    their classes: give each another seed or range of indices."""
    captions: Literal["examples"] | None = None
    """Captions of the images: `examples` draws example captions of the model by seed and index.
    This is the default for a model with captions."""
    seed: int | None = Field(None, ge=0, le=UINT64_MAX)
    """Seed. Default: that of the data set in --out, or a new one."""
    first_index: int = Field(0, ge=0, le=UINT64_MAX)
    """Index of the first image."""
    truncation: float | None = None
    """Truncation within the range of the model."""
    version: str = ""
    """Version of the model. Default: that of the data set in --out, or the default version."""
    variant: str = ""
    """Variant of the model, such as int8. Default: that of the data set in --out, or the one that
    the server runs; with --local, the reference."""
    format: FormatName = "webdataset"
    """webdataset: tar shards; parquet: Hugging Face image layout; imagefolder: a folder for each
    class; npz: pixels as arrays."""
    image_format: ImageFormat = "png"
    """Encoding of the images. An npz does not use it."""
    quality: int = Field(90, ge=1, le=100)
    """Quality of jpeg and webp; webp is lossless at 100. PNG and npz do not use it."""
    shard_size: int = Field(10_000, ge=1, le=10**7)
    """Images in a shard, which is the unit of work."""
    out: str | None = None
    """Folder of the data set, or an address that fsspec knows, such as s3://BUCKET/NAME."""
    local: bool = False
    """Make the images in this process with the engine. --server is not used then."""
    repository: str = ""
    """Model repository for --local. Default: the models that are shipped with imagemint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for --local. `auto` is CUDA if it works, otherwise the CPU."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Processes that make shards. Default: one per CPU core."""
    engine: Literal["processes", "ray"] = "processes"
    """What makes the shards: processes of this machine, or the tasks of a Ray cluster."""
    ray_address: str | None = None
    """Address of the Ray cluster. Default: RAY_ADDRESS, the cluster on this machine, or a new
    one."""
    repair: bool = False
    """Make missing and changed shards of a complete data set again, and check them against its
    SHA256SUMS. Intact shards are kept."""
    dry_run: bool = False
    """Make a few images in memory; print size, number of shards and time; write nothing."""
    verify: str | None = None
    """Folder of a complete data set: check its checksums, make some of its images again, and
    compare their bytes."""
    sample: int | None = Field(10_000, ge=1)
    """Smallest number of images that --verify makes again, in whole shards."""
    sample_seed: int | None = Field(None, ge=0, le=UINT64_MAX)
    """Seed of the choice of these shards. Default: a new one, which is printed."""
    all_: bool = Field(default=False, alias="all")
    """--verify makes all images again."""
    progress: bool = True
    """Show a progress bar; without a terminal, print a line every 30 s."""
    quiet: bool = False
    """Print only errors."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.verify is None:
            if missing := [name for name in ("model", "count", "out") if not getattr(self, name)]:
                flags = ", ".join(f"--{name}" for name in missing)
                raise ValueError(f"{flags} is required, or else --verify")
            if self.first_index + (self.count or 0) > UINT64_MAX + 1:
                raise ValueError("--first-index plus --count is above 2^64")
            if (
                self.image_filter is not None
                and self.first_index + (self.count or 0) > FILTERED_END
            ):
                raise ValueError("with a filter, --first-index plus --count is at most 2^48")
        elif self.out is not None or self.dry_run or self.repair:
            raise ValueError("--verify excludes --out, --dry-run and --repair")
        elif given := sorted(self.model_fields_set & _PLANNED):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"--verify takes {flags} from the plan of the data set")
        if self.repair and self.dry_run:
            raise ValueError("--repair excludes --dry-run")
        return self

    def run(self) -> int:
        """Makes, estimates or verifies the data set.

        Returns:
            0, 75 (EX_TEMPFAIL of sysexits.h) after a failure that passes, or 143 after SIGTERM.
        """
        place = self.verify or self.out or ""
        try:
            with raise_on_sigterm():
                self._run(place)
        except TemporaryFailure as error:
            self._note(str(error))
            return _TEMPORARY
        except Terminated:
            ignore_unstarted_calls()
            return TERMINATED
        return 0

    def _run(self, place: str) -> None:
        delete_abandoned(self._note)
        try:
            folder = open_folder(place)
            if self.verify is not None:
                self._verify(folder)
            elif self.dry_run:
                self._estimate(folder)
            else:
                self._make(folder, place)
        except OSError as error:
            raise translate_os_error(error, place) from error

    def _make(self, folder: Folder, place: str) -> None:
        if self.engine == "ray":  # without the extra, fail before anything is written
            import imagemint.dataset.ray_engine  # noqa: F401, PLC0415 - needs the extra
        with contextlib.ExitStack() as held:
            plan, spec = self.make_plan(read_plan(folder))
            check_folder(folder, plan)  # before anything is written
            if self._ends_complete(folder, plan):
                return
            if isinstance(folder, LocalFolder):
                held.enter_context(folder.lock())
                if self._ends_complete(folder, plan):  # another run has just ended
                    return
            sums = read_sums(folder, plan)
            claim_folder(folder, plan)
            began = time.perf_counter()
            held.push(partial(self._tell_interruption, folder, plan))
            progress = held.enter_context(Progress(plan.count, show=self._shows))

            def skip(shard: Shard) -> None:
                progress.skip(shard.count)

            task = Task(plan, spec, place, self.repair)
            if sums is None:
                missing = list_missing(folder, plan, skip, repair=self.repair)
                self._make_shards(task, folder, missing, progress)
                num_bytes = finish(folder, plan, repair=self.repair)
            else:
                damaged = list_damaged(folder, sums, skip)
                self._make_shards(task, folder, damaged, progress)
                num_bytes = finish_repair(folder, plan, sums)
            folder.finish()
        took_s = time.perf_counter() - began
        self._say(
            f"{place}: {_describe(plan)}, {num_bytes:,} bytes; {progress.images:,} images made in "
            f"{took_s:.1f} s ({progress.images / took_s:,.0f} images/s)"
        )

    def _ends_complete(self, folder: Folder, plan: Plan) -> bool:
        """Returns whether a data set is complete and nothing needs to be done. It says so."""
        if self.repair or not is_complete(folder, plan):
            return False
        folder.finish()  # if an earlier run was interrupted in it
        self._say(_spell_complete(folder, plan))
        return True

    def _tell_interruption(
        self, folder: Folder, plan: Plan, _: object, error: BaseException | None, __: object
    ) -> None:
        """Says what is finished when Ctrl-C or SIGTERM ends the run. It is called by a stack."""
        if find_interruption(error) is None:
            return
        finished = "Finished shards are kept"
        with contextlib.suppress(OSError, DatasetError):  # the interruption matters more
            if not self.repair:
                count = Journal(folder).count()
                finished = f"{count:,} of {plan.num_shards:,} shards are finished and kept"
        self._note(f"interrupted. {finished}. Run the same command again to continue")

    def _make_shards(
        self, task: Task, folder: Folder, missing: Iterator[Shard], progress: Progress
    ) -> None:
        workers = self._count_workers(task.plan)
        if self.engine == "processes":
            self._tell_idle_workers(task.plan)
        if self.engine == "ray":
            from imagemint.dataset.ray_engine import make_on_ray  # noqa: PLC0415 - needs the ray extra

            make_on_ray(task, missing, progress, self.ray_address)
        elif workers == 1:
            make_here(task, folder, missing, progress)
        else:
            make_in_processes(task, missing, workers, progress)

    def _estimate(self, folder: Folder) -> None:
        plan, spec = self.make_plan(read_plan(folder))
        check_folder(folder, plan)
        if is_complete(folder, plan):
            print(_spell_complete(folder, plan))
            return
        missing = sum(shard.count for shard in list_missing(folder, plan, lambda _: None))
        workers = self._count_workers(plan)
        found = estimate(plan, spec)
        self._tell_idle_workers(plan)
        print(
            f"{_describe(plan)}\n"
            f"size: about {found.num_bytes:,} bytes in {_spell_count(plan.num_shards, 'shard')} of "
            f"{plan.shard_size:,} images; {plan.count - missing:,} images are finished\n"
            f"time: about {found.seconds * missing / plan.count / workers:,.0f} s in "
            f"{_spell_count(workers, 'process', 'es')}, from {found.sample} images made in one "
            "process"
        )

    def _verify(self, folder: Folder) -> None:
        plan = read_plan(folder)
        if plan is None:
            raise DatasetError(f"{folder.place} holds no data set: it has no imagemint.json")
        spec, offer = self._open_spec(plan)
        software = describe_software(plan.format) | dict(offer.software)
        seed = secrets.randbits(_SAMPLE_SEED_BITS) if self.sample_seed is None else self.sample_seed
        shards = choose_shards(plan, None if self.all_ else self.sample, seed)
        images = sum(shard.count for shard in shards)
        drawn = f" (--sample-seed {seed})" if len(shards) < plan.num_shards else ""
        self._say(
            f"{folder.place}: makes {images:,} images of {len(shards):,} of {plan.num_shards:,} "
            f"shards again{drawn}"
        )
        with Progress(images, show=self._shows) as progress:
            verify(plan, spec, software, folder, shards, progress)
        self._say(
            f"{folder.place}: {_describe(plan)}; every checksum is right, and {images:,} images of "
            f"{len(shards)} of {plan.num_shards} shards were made again with the same bytes"
        )

    def make_plan(self, existing: Plan | None) -> tuple[Plan, Spec]:
        """Returns the plan; what the settings leave open is taken from an existing plan."""
        spec, offer = self._open_spec(existing)
        offer.check_truncation(self.truncation)
        offer.check_filter(self.image_filter)
        seed = self.seed
        if seed is None:
            seed = existing.seed if existing else _draw_seed()
        plan = Plan(
            model=offer.model,
            version=offer.version,
            variant=offer.variant,
            bundle_sha256=offer.bundle_sha256,
            execution_provider=offer.execution_provider,
            seed=seed,
            first_index=self.first_index,
            count=self.count or 0,
            classes=_parse_rule(self.classes, offer.class_labels),
            captions=self._parse_captions(offer),
            truncation=self.truncation,
            class_labels=offer.class_labels,
            height=offer.height,
            width=offer.width,
            channels=offer.channels,
            title=offer.title,
            license=offer.license,
            format=self.format,
            image_format="png" if self.format == "npz" else self.image_format,
            quality=self.quality if uses_quality(self.format, self.image_format) else None,
            shard_size=self.shard_size,
            software=describe_software(self.format) | dict(offer.software),
            image_filter=self.image_filter,
            columns=self._list_columns(offer),
        )
        return plan if existing is None else plan.follow(existing), spec

    def _list_columns(self, offer: Offer) -> tuple[str, ...] | None:
        captions = (CAPTION,) if offer.has_captions else ()
        scores = () if self.image_filter is None else (*offer.scores, REJECTED)
        return captions + scores or None

    def _parse_captions(self, offer: Offer) -> Literal["examples"] | None:
        if self.captions is not None and not offer.has_captions:
            raise DatasetError("this model has no captions: leave --captions out")
        return "examples" if offer.has_captions else None

    def _open_spec(self, existing: Plan | None) -> tuple[Spec, Offer]:
        """Returns the source, and what it makes of the model, version and variant."""
        model, version, variant = self.model or "", self.version, self.variant
        if existing is not None and existing.model == (self.model or existing.model):
            model = existing.model
            version = version or existing.version
            variant = variant or existing.variant
        if self.local:
            return self._open_local(model, version, variant)
        spec = ServerSpec(
            tuple(each.strip() for each in self.server.split(",")),
            self.timeout_s,
            self.make_tls(),
            tuple(self.make_metadata()),
        )

        def tell(error: ImagemintError) -> None:
            self._note(f"waiting up to {self.timeout_s:g} s for a server: {error}")

        offer, absent = spec.read_offer(model, version, variant, tell)
        for error in absent:
            self._note(f"continuing without it: {error}")
        return spec, offer

    def _open_local(self, model: str, version: str, variant: str) -> tuple[LocalSpec, Offer]:
        try:
            from imagemint.dataset import local  # noqa: PLC0415 - needs the server extra
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"--local needs: {install_command('server')} (no module {error.name})"
            ) from error

        spec = local.find_bundle(self.repository, model, version, self.device)
        return local.describe_bundle(spec, variant)

    def _tell_idle_workers(self, plan: Plan) -> None:
        """Says if there are fewer shards than requested workers."""
        num_workers = self.workers or 1
        if num_workers <= plan.num_shards or self.quiet:
            return
        size = -(-plan.count // num_workers)
        keep = "keeps" if plan.num_shards == 1 else "keep"
        more = "" if size == plan.shard_size else f"; --shard-size {size} gives more work"
        self._note(
            f"{_spell_count(plan.num_shards, 'shard')} of {plan.shard_size:,} images {keep} "
            f"{plan.num_shards:,} of {num_workers:,} workers busy{more}"
        )

    def _count_workers(self, plan: Plan) -> int:
        return min(self.workers or len(os.sched_getaffinity(0)), plan.num_shards)

    @property
    def _shows(self) -> bool:
        return self.progress and not self.quiet

    def _note(self, text: str) -> None:
        """Prints a line on stderr, also with --quiet, because it tells of a trouble."""
        print(f"imagemint dataset: {' '.join(text.split())}", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text)


def _parse_rule(text: str, labels: tuple[str, ...]) -> tuple[int, ...] | Literal["random"] | None:
    """Returns the classes of a plan."""
    if not labels:
        if text.strip() != RANDOM:
            raise DatasetError("this model has no classes: leave --classes out")
        return None
    if text.strip() == RANDOM:
        return RANDOM
    condition = parse_classes(text, labels)
    if isinstance(condition, Cycle):
        return tuple(condition.class_ids) or tuple(range(len(labels)))
    if isinstance(condition, int):
        return (condition,)
    raise TypeError(f"unexpected condition {condition!r}")


def _draw_seed() -> int:
    return int.from_bytes(os.urandom(8)) >> (64 - _DRAWN_SEED_BITS)


def _spell_count(count: int, noun: str, ending: str = "s") -> str:
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def _spell_complete(folder: Folder, plan: Plan) -> str:
    text = f"{folder.place} is complete: {_describe(plan)}"
    if isinstance(folder, LocalFolder):
        return text
    place = shlex.quote(folder.place)
    return f"{text}. Its files are there; imagemint dataset --verify {place} reads them"


def _describe(plan: Plan) -> str:
    return (
        f"{plan.count:,} images of {plan.model}@{plan.version} (variant {plan.variant}), seed "
        f"{plan.seed}, {plan.format}"
    )

"""The command `imagemint translate`."""

# ruff: noqa: T201 - a command prints

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode
from tqdm import tqdm

from imagemint.client import outputs
from imagemint.client.arguments import UINT64_MAX
from imagemint.client.classes import parse_classes
from imagemint.client.commands import Connection
from imagemint.client.errors import InvalidRequest, make_invalid_request
from imagemint.client.images import EncodedPicture
from imagemint.client.models import Manifest
from imagemint.client.requests import Caption, Condition, Format, Priority
from imagemint.client.translation import Fit, Source, SourceLike

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SUFFIX_OF: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_DIGITS = re.compile(r"([0-9]+)")
# How an error names a source, and a picture or the mask of it.
_FIELD = re.compile(r"sources\[(\d+)\](?:\.encoded\.(?:pictures\[(\d+)\]|(mask)))?")


def _to_list(value: object) -> object:
    """Returns the paths of repeated flags, which arrive separated by commas."""
    if not isinstance(value, str) or _exists(value):  # a name may have a comma
        return value if isinstance(value, list) else [value]
    return value.split(",")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # many paths together are longer than a name may be
        return False


def _check_output(value: str) -> str:
    path = Path(value)
    is_folder = value.endswith("/") or path.is_dir()
    if not is_folder and path.suffix and path.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"{path.name} is none of NAME{', NAME'.join(_SUFFIXES)}; "
            f"for a folder of this name use {value}/"
        )
    outputs.parse_kind(value)  # refuses an empty name and standard output
    return value


Paths = Annotated[list[Path], NoDecode, BeforeValidator(_to_list)]


class Translate(Connection):
    """Translates pictures with an image-to-image model, and writes the results."""

    model: str
    """Name of a model that takes a source; `imagemint models` shows which do."""
    source: Paths = Field(min_length=1)
    """Picture, PNG, JPEG or WebP, or a folder of them, which is read in the order of its names, 2
    before 10. Separate several by spaces or commas, or repeat the flag. Of a model with several
    frames: the pictures of the frames, the oldest first."""
    mask: Path | None = None
    """Picture of what to fill, for a model with a mask: white where the source is to be filled."""
    out: Annotated[str, AfterValidator(_check_output)]
    """NAME.png, .jpg, .jpeg or .webp for one result; NAME without a suffix, or NAME/: a folder, in
    which each result has the name of its source."""
    format: Format | None = None
    """Encoding of the results: png, jpeg or webp. Default: that of the suffix of --out, and png in
    a folder."""
    quality: int | None = Field(None, ge=1, le=100)
    """Quality of JPEG and WebP. Default: 90."""
    fit: Fit = "refuse"
    """What happens to a source of a size that the model does not take: refuse, crop, pad or
    stretch."""
    class_: str | None = Field(None, alias="class")
    """Class by label or index, as for `imagemint generate`. Default: a conditional model draws
    classes at random."""
    caption: str | None = None
    """Caption, if the model takes one."""
    seed: int | None = Field(None, ge=0, le=UINT64_MAX)
    """Seed, if the model takes a latent. Default: a random one."""
    first_index: int = Field(0, ge=0, le=UINT64_MAX)
    """Index of the first source."""
    truncation: float | None = None
    """Truncation within the range of the model."""
    version: str = ""
    """Version of the model. Default: the server's default version."""
    variant: str = ""
    """Variant of the model, such as int8, or reference for model.onnx; a server that runs another
    one refuses. Default: whichever the server runs."""
    overwrite: bool = False
    """Replace results that exist."""
    skip_existing: bool = False
    """Keep results that exist, and translate the other sources: the command continues an earlier
    one. With a model that draws at random, name the --seed."""
    priority: Priority = "normal"
    """Order in which waiting requests are served: high goes before normal."""
    quiet: bool = False
    """Print only errors."""

    @model_validator(mode="after")
    def check_existing(self) -> Self:
        """Returns the command, if it says one thing about results that exist."""
        if self.overwrite and self.skip_existing:
            raise ValueError("--overwrite and --skip-existing exclude each other")
        return self

    def run(self) -> int:
        """Translates the pictures, writes the results and prints a summary."""
        began = time.perf_counter()
        paths = list(_list_pictures(self.source))
        with self.open_client() as client:
            manifest = client.model(self.model).manifest(self.version)
            # Without a manifest or a source, the server says what is wrong.
            shape = None if manifest is None else manifest.source
            frames = 1 if shape is None else shape.frames
            sources = self._make_sources(paths, frames)
            targets = self._name_results(paths[frames - 1 :: frames])
            missing = self._find_missing(targets, [*paths, *filter(None, [self.mask])])
            self._check_seed(manifest, len(missing) < len(targets))
            condition = self._parse_condition(() if manifest is None else manifest.class_labels)
            first: EncodedPicture | None = None
            with tqdm(total=len(missing), unit=" images", disable=self.quiet or None) as bar:
                for block in _group_neighbours(missing):
                    results = client.translate_many(
                        self.model,
                        sources[block.start : block.stop],
                        fit=self.fit,
                        format=outputs.choose_sheet_format(targets[0]),
                        quality=self.quality,
                        priority=self.priority,
                        seed=self.seed,
                        first_index=self.first_index + block.start,
                        condition=condition,
                        truncation=self.truncation,
                        version=self.version if first is None else first.version,
                        variant=self.variant,
                    )
                    try:
                        for at, picture in zip(block, results, strict=True):
                            with outputs.write_atomically(targets[at]) as file:
                                file.write(picture.data)
                            first = first or picture
                            bar.update()
                    except InvalidRequest as error:
                        given = paths[block.start * frames :]
                        raise self._name_files(error, given, frames) from None
        if not self.quiet:
            made = "1 image" if len(missing) == 1 else f"{len(missing)} images"
            kept = f", {len(targets) - len(missing)} kept" if len(missing) < len(targets) else ""
            serial = f", first serial {first.serials[0]}" if first and first.serials else ""
            took_s = time.perf_counter() - began
            print(f"{made} in {took_s:.2f} s{kept}{serial}, to {self.out}")
        return 0

    def _parse_condition(self, labels: Sequence[str]) -> Condition:
        if self.caption is not None:
            return Caption(self.caption)
        return None if self.class_ is None else parse_classes(self.class_, labels)

    def _make_sources(self, paths: Sequence[Path], frames: int) -> list[SourceLike]:
        """Returns the sources, each of one file or of a file for each frame.

        Raises:
            InvalidRequest: the number of files is not a multiple of the frames.
        """
        if len(paths) % frames:
            pictures = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
            why = f"{pictures}; the model takes {frames} for each source"
            raise make_invalid_request("source", why)
        if frames == 1 and self.mask is None:
            return list(paths)
        groups = [paths[start : start + frames] for start in range(0, len(paths), frames)]
        return [Source(group, self.mask) for group in groups]

    def _name_files(
        self, error: InvalidRequest, paths: Sequence[Path], frames: int
    ) -> InvalidRequest:
        """Returns the error with the names of files in place of numbers of sources."""

        def name(field: re.Match[str]) -> str:
            if field[3]:
                return "--mask" if self.mask is None else str(self.mask)
            at = int(field[1]) * frames + int(field[2] or 0)
            return str(paths[at]) if at < len(paths) else field[0]

        return InvalidRequest(
            _FIELD.sub(name, error.message),
            reason=error.reason,
            metadata=error.metadata,
            code=error.code,
            violations=error.violations,
            request_id=error.request_id,
        )

    def _name_results(self, paths: Sequence[Path]) -> list[Path]:
        """Returns the path of each result.

        Raises:
            InvalidRequest: several results for one file, or of one name; or --format contradicts
                the suffix.
            FileExistsError: the folder of the results is a file.
        """
        out = Path(self.out)
        if outputs.parse_kind(self.out) is outputs.Kind.SHEET and not out.is_dir():
            if len(paths) > 1:
                raise make_invalid_request(
                    "out", f"{len(paths)} results for one file; name a folder"
                )
            if self.format not in (None, outputs.choose_sheet_format(out)):
                raise make_invalid_request("format", f"{self.format} contradicts {out.name}")
            return [out]
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"{out} exists and is not a folder")
        suffix = _SUFFIX_OF[self.format or "png"]
        targets = [out / f"{path.stem}{suffix}" for path in paths]
        if equal := [each for each, times in Counter(targets).items() if times > 1]:
            same_names = ", ".join(str(path) for path in paths if path.stem == equal[0].stem)
            why = f"several have the same name: {same_names}; translate them separately"
            raise make_invalid_request("source", why)
        return targets

    def _find_missing(self, targets: Sequence[Path], given: Sequence[Path]) -> list[int]:
        """Returns the numbers of the results that are to be made.

        Args:
            targets: paths of all results.
            given: the pictures of the sources and the mask.

        Raises:
            FileExistsError: a result exists, and neither --overwrite nor --skip-existing is given;
                or it would replace a picture that is given.
        """
        inputs = {each.resolve() for each in given}
        for target in targets:
            if target.resolve() in inputs:
                raise FileExistsError(
                    f"the result {target} would replace a picture that you give; change --out"
                )
        missing = [at for at, target in enumerate(targets) if not target.exists()]
        if self.overwrite or len(missing) == len(targets):
            return list(range(len(targets)))
        if not self.skip_existing:
            existing = next(each for each in targets if each.exists())
            raise FileExistsError(
                f"{existing} exists; --overwrite replaces it, --skip-existing keeps it"
            )
        return missing

    def _check_seed(self, manifest: Manifest | None, is_part: bool) -> None:
        """Checks that results of two runs can belong together.

        Raises:
            InvalidRequest: the model draws at random, each run with another seed.
        """
        draws = manifest is not None and (
            manifest.z_dim
            or (manifest.class_labels and self.class_ is None)
            or (manifest.captions and self.caption is None)
        )
        if is_part and draws and self.seed is None:
            why = "the model draws at random; name the seed of the results that are kept"
            raise make_invalid_request("seed", why)


def _group_neighbours(numbers: Sequence[int]) -> Iterator[range]:
    """Yields the ranges that ascending numbers consist of."""
    start = 0
    for at, number in enumerate(numbers):
        if at + 1 == len(numbers) or numbers[at + 1] != number + 1:
            yield range(numbers[start], number + 1)
            start = at + 1


def _split_numbers(path: Path) -> list[tuple[int, int, str]]:
    """Returns the sort key of a file: numbers in its name count by value, 2 before 10."""
    parts = [*filter(None, _DIGITS.split(path.stem))]
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return [*key, (0, -1, path.name)]


def _list_pictures(sources: Sequence[Path]) -> Iterator[Path]:
    """Yields the pictures that the flags name; those of a folder by name.

    Raises:
        FileNotFoundError: there is no such file, or a folder has no pictures.
    """
    for source in sources:
        if not source.is_dir():
            if not source.exists():
                raise FileNotFoundError(f"{source} does not exist")
            yield source
            continue
        found = [path for path in source.iterdir() if _is_picture(path)]
        if not found:
            raise FileNotFoundError(f"{source} holds no PNG, JPEG or WebP")
        yield from sorted(found, key=_split_numbers)


def _is_picture(path: Path) -> bool:
    """Returns whether a file of a folder is taken. Hidden ones are no pictures of the user."""
    has_suffix = path.suffix.lower() in _SUFFIXES
    return has_suffix and not path.name.startswith(".") and path.is_file()

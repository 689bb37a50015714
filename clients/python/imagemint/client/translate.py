"""The command `imagemint translate`."""

# ruff: noqa: T201 - a command prints

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode
from tqdm import tqdm

from imagemint.client import outputs
from imagemint.client.arguments import UINT64_MAX
from imagemint.client.classes import parse_classes
from imagemint.client.commands import Connection
from imagemint.client.errors import InvalidRequest, make_invalid_request
from imagemint.client.requests import Caption, Condition, Priority
from imagemint.client.translation import Fit, Source, SourceLike

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# How an error names a source, and a picture or the mask of it.
_FIELD = re.compile(r"sources\[(\d+)\](?:\.encoded\.(?:pictures\[(\d+)\]|(mask)))?")


def _to_list(value: object) -> object:
    """Returns the paths of repeated flags, which arrive separated by commas."""
    if not isinstance(value, str) or Path(value).exists():  # a name may have a comma
        return value if isinstance(value, list) else [value]
    return value.split(",")


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
    """Picture, PNG, JPEG or WebP, or a folder of them. Separate several by commas or repeat the
    flag. Of a model with several frames: the pictures of the frames, the oldest first."""
    mask: Path | None = None
    """Picture of what to fill, for a model with a mask: white where the source is to be filled."""
    out: Annotated[str, AfterValidator(_check_output)]
    """NAME.png, .jpg, .jpeg or .webp for one result; NAME without a suffix, or NAME/: a folder, in
    which each result has the name of its source."""
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
    priority: Priority = "normal"
    """Order in which waiting requests are served: high goes before normal."""
    quiet: bool = False
    """Print only errors."""

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
            serial = ""
            results = client.translate_many(
                self.model,
                sources,
                fit=self.fit,
                format=outputs.choose_sheet_format(targets[0]),
                priority=self.priority,
                seed=self.seed,
                first_index=self.first_index,
                condition=self._parse_condition(() if manifest is None else manifest.class_labels),
                truncation=self.truncation,
                version=self.version,
                variant=self.variant,
            )
            with tqdm(total=len(targets), unit=" images", disable=self.quiet or None) as bar:
                try:
                    for target, picture in zip(targets, results, strict=True):
                        with outputs.write_atomically(target) as file:
                            file.write(picture.data)
                        serial = serial or (picture.serials[0] if picture.serials else "")
                        bar.update()
                except InvalidRequest as error:
                    raise self._name_files(error, paths, frames) from None
        if not self.quiet:
            took_s = time.perf_counter() - began
            images = "1 image" if len(targets) == 1 else f"{len(targets)} images"
            print(f"{images} in {took_s:.2f} s, first serial {serial}, to {self.out}")
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
            why = f"{len(paths)} pictures; the model takes {frames} for each source"
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
                return str(self.mask)
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
        """Returns the path of each result, which must be free.

        Raises:
            InvalidRequest: several results for one file, or of one name.
            FileExistsError: a result exists, and --overwrite is not given.
        """
        out = Path(self.out)
        if outputs.parse_kind(self.out) is outputs.Kind.SHEET and not out.is_dir():
            if len(paths) > 1:
                raise make_invalid_request(
                    "out", f"{len(paths)} results for one file; name a folder"
                )
            targets = [out]
        else:
            targets = [out / f"{path.stem}.png" for path in paths]
            if equal := [each for each, times in Counter(targets).items() if times > 1]:
                named = ", ".join(str(each) for each in paths if each.stem == equal[0].stem)
                why = f"several have the same name: {named}; translate them separately"
                raise make_invalid_request("source", why)
        taken = [each for each in targets if each.exists()]
        if taken and not self.overwrite:
            raise FileExistsError(f"{taken[0]} exists; --overwrite replaces it")
        return targets


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
        found = sorted(each for each in source.iterdir() if each.suffix.lower() in _SUFFIXES)
        if not found:
            raise FileNotFoundError(f"{source} holds no PNG, JPEG or WebP")
        yield from found

"""The command ``imagemint mint``. It imports little, so that listing commands needs no extra."""

# ruff: noqa: T201 - a command prints

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imagemint.engine import Serial

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DIFFERENT = 1


class Mint(BaseModel):
    """Draws images from their serial numbers, without a server, or checks pictures."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    images: CliPositionalArg[list[str]] = Field(min_length=1)
    """Serial numbers, and pictures of imagemint, which hold theirs: .png, .jpg or .webp."""
    out: Path | None = None
    """Folder for the PNG files. Files of the same name are replaced."""
    check: bool = False
    """Compare each picture with the image of its serial number. Needs PNG files."""
    repository: Path | None = None
    """Folder with the models, <model>/<version>. Default: the models shipped with imagemint."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Device that draws. Pixels of another device may differ by a level."""

    def run(self) -> int:
        """Draws the images, writes or compares them, and prints a line for each.

        Returns:
            1 if a picture differs from the image of its serial number, otherwise 0.

        Raises:
            InvalidRequest: a text is no serial number, a picture has none, or the options do not
                go together.
            ImagemintError: an image cannot be drawn; see `minting.mint`.
            OSError: a file cannot be read or written.
        """
        from imagemint.engine.bundle.shipped import find_shipped_models  # noqa: PLC0415 - import-light
        from imagemint.engine.minting import mint  # noqa: PLC0415 - likewise
        from imagemint.pictures.encoding import PictureFormat, encode  # noqa: PLC0415 - likewise

        if self.check == (self.out is not None):
            raise _refuse("out", "give either --out FOLDER or --check")
        wanted = [each for text in self.images for each in self._read(text)]
        names = Counter[str]()
        different = 0
        repository = self.repository or find_shipped_models()
        minted = mint([each.serial for each in wanted], repository, self.device)
        for requested, found in zip(wanted, minted, strict=True):
            if self.out is None:
                verdict = _compare(requested.pixels, found.image)
                different += verdict != "same"
                print(f"{requested.text}: {verdict}, {found.serial}")
                continue
            self.out.mkdir(parents=True, exist_ok=True)
            name = _name(found.serial)
            names[name] += 1
            path = self.out / f"{name}{f'_{names[name]}' if names[name] > 1 else ''}.png"
            path.write_bytes(
                encode(found.image, [str(found.serial)], PictureFormat.PNG, variant=found.variant)
            )
            print(path)
        return _DIFFERENT if different else 0

    def _read(self, text: str) -> list["_Wanted"]:
        """Returns the images that an argument asks for."""
        from imagemint.engine import Serial  # noqa: PLC0415 - import-light
        from imagemint.pictures.origin import read_picture  # noqa: PLC0415 - likewise

        if not text.lower().endswith(_SUFFIXES):
            if self.check:
                raise _refuse(text, "--check compares PNG files")
            return [_Wanted(text, _parse(Serial, text, text), None)]
        content = Path(text).read_bytes()
        try:
            picture = read_picture(content)
        except ValueError as error:
            raise _refuse(text, str(error)) from None
        if not picture.serials:
            raise _refuse(text, "the picture has no serial number of imagemint")
        if self.check and (picture.format != "PNG" or len(picture.serials) != 1):
            raise _refuse(text, "--check compares a PNG file of one image")
        return [
            _Wanted(text, _parse(Serial, serial, text), picture.pixels)
            for serial in picture.serials
        ]


class _Wanted(NamedTuple):
    text: str
    serial: "Serial"
    pixels: "NDArray[np.uint8] | None"


def _compare(given: "NDArray[np.uint8] | None", minted: "NDArray[np.uint8]") -> str:
    """Returns `same`, or how a picture differs from the image of its serial number."""
    import numpy as np  # noqa: PLC0415 - import-light

    if given is None or given.shape != minted.shape:
        shape = None if given is None else given.shape
        return f"different size {shape}, not {minted.shape}"
    levels = np.abs(given.astype(np.int16) - minted)
    if not levels.any():
        return "same"
    pixels = int(levels.any(axis=-1).sum())
    return f"different in {pixels} pixels, by up to {levels.max()} levels"


def _name(serial: "Serial") -> str:
    """Returns the name of a file, as `imagemint generate` gives it to images of several seeds."""
    variant = "" if serial.variant is None else f"+{serial.variant}"
    suffix = "" if serial.class_id is None else f"_class{serial.class_id}"
    return f"{serial.model}@{serial.version}{variant}_{serial.seed}_{serial.index:06d}{suffix}"


def _parse(kind: "type[Serial]", serial: str, text: str) -> "Serial":
    try:
        return kind.parse(serial)
    except ValueError as error:
        raise _refuse(text, str(error)) from None


def _refuse(field: str, why: str) -> Exception:
    from imagemint.engine import InvalidRequest, Violation  # noqa: PLC0415 - import-light

    return InvalidRequest([Violation(field, why)])

"""The data set ``avatars64``: cartoon people whose attributes are all recorded.

The artwork is Avataaars by Pablo Stanley, drawn by DiceBear. Each person is an independent draw of
attributes, and the attributes decide every pixel. `scripts/draw_avatars.py` draws such a data set.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import Source, read_source
from imagemint.training.datasets.images import Attribute, LabelledImages, Split
from imagemint.training.datasets.parquet import parse_image_parquet
from imagemint.training.datasets.pictures import decode_picture
from imagemint.training.errors import DatasetError

NAME = "avatars64"
NONE = "none"
"""The value of an attribute that a person does not have, such as glasses."""
LICENSE = "free for personal and commercial use (Avataaars: Pablo Stanley)"

STYLES: Mapping[str, tuple[str, ...]] = {
    "hat": ("hat",),
    "winter hat": ("winterHat1", "winterHat02", "winterHat03", "winterHat04"),
    "hijab": ("hijab",),
    "turban": ("turban",),
    "long hair": (
        "bigHair",
        "longButNotTooLong",
        "miaWallace",
        "shavedSides",
        "straight01",
        "straight02",
        "straightAndStrand",
    ),
    "wavy hair": ("bob", "curly", "curvy", "frida"),
    "bun": ("bun",),
    "afro": ("dreads", "frizzle", "fro", "froBand", "shortCurly"),
    "short hair": (
        "dreads01",
        "dreads02",
        "shaggy",
        "shaggyMullet",
        "shortFlat",
        "shortRound",
        "shortWaved",
        "theCaesar",
        "theCaesarAndSidePart",
    ),
    "bald": (NONE, "sides"),
}
"""The heads, which are the classes, in the order of their labels, each with its styles."""

_CLOTH = (
    "black",
    "blue",
    "coral",
    "grey",
    "light blue",
    "light grey",
    "magenta",
    "mint",
    "navy",
    "pale blue",
    "pale yellow",
    "rose",
    "slate",
    "white",
)

VALUES: Mapping[str, tuple[str, ...]] = {
    "top": tuple(style for styles in STYLES.values() for style in styles),
    "skin": ("brown", "dark", "light", "pale", "tanned", "very dark", "yellow"),
    "hair": (
        "auburn",
        "black",
        "blond",
        "brown",
        "dark brown",
        "golden",
        "pink",
        "platinum",
        "red",
        "silver",
    ),
    "beard": (
        NONE,
        "beardLight",
        "beardMajestic",
        "beardMedium",
        "moustacheFancy",
        "moustacheMagnum",
    ),
    "accessories": (
        NONE,
        "kurt",
        "prescription01",
        "prescription02",
        "round",
        "sunglasses",
        "wayfarers",
    ),
    "mouth": (
        "concerned",
        "default",
        "disbelief",
        "grimace",
        "sad",
        "screamOpen",
        "serious",
        "smile",
        "tongue",
        "twinkle",
    ),
    "clothing": (
        "blazerAndShirt",
        "blazerAndSweater",
        "collarAndSweater",
        "hoodie",
        "overall",
        "shirtCrewNeck",
        "shirtScoopNeck",
        "shirtVNeck",
    ),
    "clothes": _CLOTH,
    "hat": _CLOTH,
    "eyes": ("closed", "default", "happy", "hearts", "side", "squint", "surprised", "wink"),
    "eyebrows": (
        "angry",
        "angryNatural",
        "default",
        "defaultNatural",
        "flatNatural",
        "raisedExcited",
        "raisedExcitedNatural",
        "sadConcerned",
        "upDown",
    ),
}
"""The attributes, each with its values.

``hair`` also colours the beard; ``hat`` colours hats and scarves.
"""

_COVERED = ("hat", "winter hat", "hijab", "turban")


def load_avatars64(split: Split, data: Path | None) -> LabelledImages:
    """Returns a split with its captions as ``texts`` and all attributes.

    Raises:
        DatasetError: the data are not found, damaged, or have a value that is not in `VALUES`.
    """
    content = _read_content(split, data)
    found = parse_image_parquet(content, f"{NAME}/{split}")
    columns = _read_columns(content, found.name)
    codes = {
        name: _encode_column(columns[name], values, f"{found.name}: {name}")
        for name, values in VALUES.items()
    }
    return replace(found, license=LICENSE, attributes=make_attributes(found.labels, codes))


def make_attributes(
    labels: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]
) -> tuple[Attribute, ...]:
    """Returns the attributes of people, with the rule where a picture shows them.

    Args:
        labels: heads int64 [N].
        codes: for each attribute of `VALUES`, the position of its value, int64 [N].
    """
    visible = _find_visible(labels, codes)
    return tuple(
        Attribute(name, values, codes[name], visible.get(name)) for name, values in VALUES.items()
    )


def load_bare(split: Split, data: Path | None) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Returns the people with glasses, drawn without them.

    Returns:
        Rows of the split int64 [M], in their order, and pictures uint8 [M, 64, 64, 3].

    Raises:
        DatasetError: the data are not found, damaged, or lack the column ``bare``.
    """
    name = f"{NAME}/{split}"
    encoded = [it and it["bytes"] for it in _read_columns(_read_content(split, data), name)["bare"]]
    rows = [row for row, it in enumerate(encoded) if it]
    try:
        pictures = [np.asarray(decode_picture(encoded[row]).convert("RGB")) for row in rows]
        return np.array(rows, np.int64), np.stack(pictures)
    except (DatasetError, ValueError) as error:  # unreadable, of several sizes, or no pictures
        raise DatasetError(f"{name}: column bare: {error}") from error


def compute_frequencies(attribute: str) -> NDArray[np.float64]:
    """Returns how often each head has each value: float64 [heads, values], rows sum to 1.

    The data set is drawn with these frequencies: four in ten people wear glasses, three in ten of
    those without a hijab have a beard, and everything else is uniform.
    """
    values = VALUES[attribute]
    table = np.full((len(STYLES), len(values)), 1 / len(values))
    if attribute == "top":
        table = np.array(
            [[(top in styles) / len(styles) for top in values] for styles in STYLES.values()]
        )
    share = {"accessories": 0.4, "beard": 0.3}.get(attribute)
    if share is not None:
        table[:] = [1 - share] + [share / (len(values) - 1)] * (len(values) - 1)
    if attribute == "beard":
        table[list(STYLES).index("hijab")] = np.eye(len(values))[0]
    return table


def _read_content(split: Split, data: Path | None) -> bytes:
    return read_source(Source(f"{NAME}/{split}-00000-of-00001.parquet"), data)


def _read_columns(content: bytes, name: str) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - 100 ms that a run on other data need not pay

    found: dict[str, list[Any]] = pq.read_table(io.BytesIO(content)).to_pydict()
    missing = [it for it in (*VALUES, "bare") if it not in found]
    if missing:
        raise DatasetError(f"{name}: no column {', '.join(missing)}")
    return found


def _encode_column(column: list[Any], values: tuple[str, ...], name: str) -> NDArray[np.int64]:
    index = {value: code for code, value in enumerate(values)}
    texts = [NONE if value is None else str(value) for value in column]
    invalid = next((row for row, value in enumerate(texts) if value not in index), None)
    if invalid is not None:
        raise DatasetError(
            f"{name}, row {invalid}: {texts[invalid]!r} is none of {', '.join(values)}"
        )
    return np.array([index[value] for value in texts], np.int64)


def _find_visible(
    labels: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.bool_]]:
    """Returns where an attribute changes the picture: bool [N] for those that do not always.

    Drawn with every value of the attribute, pictures of the other people are the same but for a few
    levels in all: no hair below a hat, no cut of the clothes below a hijab, no eyes behind goggles.
    """
    covered = np.isin(labels, [list(STYLES).index(head) for head in _COVERED])
    bald = codes["top"] == VALUES["top"].index(NONE)
    bearded = codes["beard"] != VALUES["beard"].index(NONE)
    bare_eyes = codes["accessories"] != VALUES["accessories"].index("kurt")
    return {
        "hair": bearded | ~(covered | bald),
        "hat": covered,
        "clothing": labels != list(STYLES).index("hijab"),
        "eyes": bare_eyes,
        "eyebrows": bare_eyes,
    }

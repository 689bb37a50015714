"""Draws a data set like ``avatars64``: cartoon people with independent random attributes.

    mkdir dicebear && cd dicebear
    npm install @dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js@2.6.2
    cd .. && python scripts/draw_avatars.py --packages dicebear --out data/avatars64

The artwork is Avataaars by Pablo Stanley, free for personal and commercial use. You need Node.js.
5,000 people take about a minute. The attributes come from NumPy's Philox with ``--seed``, so equal
seeds give equal people.
"""

import argparse
import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagemint.training.datasets.avatar_captions import compose_caption
from imagemint.training.datasets.avatars import NONE, STYLES, VALUES, compute_frequencies

HAIR = {
    "auburn": "a55728",
    "black": "2c1b18",
    "blond": "b58143",
    "brown": "724133",
    "dark brown": "4a312c",
    "golden": "d6b370",
    "pink": "f59797",
    "platinum": "ecdcbf",
    "red": "c93305",
    "silver": "e8e1e1",
}
SKIN = {
    "brown": "d08b5b",
    "dark": "ae5d29",
    "light": "edb98a",
    "pale": "ffdbb4",
    "tanned": "fd9841",
    "very dark": "614335",
    "yellow": "f8d25c",
}
CLOTH = {
    "black": "262e33",
    "blue": "5199e4",
    "coral": "ff5c5c",
    "grey": "929598",
    "light blue": "65c9ff",
    "light grey": "e6e6e6",
    "magenta": "ff488e",
    "mint": "a7ffc4",
    "navy": "25557c",
    "pale blue": "b1e2ff",
    "pale yellow": "ffffb1",
    "rose": "ffafb9",
    "slate": "3c4f5c",
    "white": "ffffff",
}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Person = dict[str, str]


def main() -> None:
    """Draws both splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument("--packages", type=Path, required=True, help="folder where npm was run")
    parser.add_argument("--train", type=int, default=20_000, help="people to train on")
    parser.add_argument("--test", type=int, default=2_200, help="people to test on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the attributes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(options.seed))
    for split, count in (("train", options.train), ("test", options.test)):
        labels, people = draw_people(count, rng)
        table = to_table(labels, people, options.packages)
        pq.write_table(table, options.out / f"{split}-00000-of-00001.parquet")


def draw_people(count: int, rng: np.random.Generator) -> tuple[list[int], list[Person]]:
    """Returns labels (heads) and people with a value for each attribute."""
    labels = rng.integers(len(STYLES), size=count).tolist()
    tables = {name: compute_frequencies(name) for name in VALUES}
    people = [
        {name: str(rng.choice(VALUES[name], p=table[label])) for name, table in tables.items()}
        for label in labels
    ]
    return labels, people


def to_table(labels: list[int], people: list[Person], packages: Path) -> pa.Table:
    """Returns a table of people and pictures in the image layout of the Hugging Face hub."""
    heads = list(STYLES)
    pictures = list(draw(people, packages))
    bare = iter(draw([it | {"accessories": NONE} for it in people if wears_glasses(it)], packages))
    columns = {
        "image": pa.array([to_cell(it) for it in pictures], IMAGE),
        "label": pa.array(labels, pa.int64()),
        "text": [compose_caption(heads[y], it) for y, it in zip(labels, people, strict=True)],
        "bare": pa.array(
            [to_cell(next(bare)) if wears_glasses(it) else None for it in people], IMAGE
        ),
        **{name: [None if it[name] == NONE else it[name] for it in people] for name in VALUES},
    }
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": heads},
        "bare": {"_type": "Image"},
    }
    metadata = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": metadata})


def wears_glasses(person: Person) -> bool:
    """Returns whether the person wears glasses."""
    return person["accessories"] != NONE


def draw(people: list[Person], packages: Path) -> Iterator[bytes]:
    """Yields the pictures of people, each as PNG of 64x64 pixels."""
    lines = "".join(json.dumps(to_options(person)) + "\n" for person in people)
    script = Path(__file__).with_suffix(".mjs").resolve()
    node = shutil.which("node")
    if node is None:
        raise SystemExit("no Node.js on the path")
    process = subprocess.run(
        [node, str(script)],
        cwd=packages,
        input=lines.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return map(base64.b64decode, process.stdout.split())


def to_options(person: Person) -> dict[str, object]:
    """Returns the options of DiceBear for a person: one choice for every option of the style."""
    optional = {"accessories": "accessories", "facialHair": "beard", "top": "top"}
    options: dict[str, object] = {
        "seed": "",  # has no effect, because all options are set
        "size": 64,
        "backgroundColor": ["ffffff"],
        "skinColor": [SKIN[person["skin"]]],
        "hairColor": [HAIR[person["hair"]]],
        "facialHairColor": [HAIR[person["hair"]]],
        "accessoriesColor": [CLOTH["black"]],
        "clothing": [person["clothing"]],
        "clothesColor": [CLOTH[person["clothes"]]],
        "hatColor": [CLOTH[person["hat"]]],
        **{name: [person[name]] for name in ("mouth", "eyes", "eyebrows")},
    }
    for option, name in optional.items():
        present = person[name] != NONE
        options[option] = [person[name]] if present else []
        options[f"{option}Probability"] = 100 if present else 0
    return options


def to_cell(png: bytes) -> dict[str, bytes | None]:
    """Returns a picture as a cell of an image column, in lossless WebP."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "WEBP", lossless=True)
    return {"bytes": out.getvalue(), "path": None}


if __name__ == "__main__":
    main()

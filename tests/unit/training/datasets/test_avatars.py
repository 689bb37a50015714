"""Tests of avatars64: its reader, its captions and the script that draws it."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset, select_per_class
from imagemint.training.datasets.avatar_captions import compose_caption
from imagemint.training.datasets.avatars import NONE, STYLES, VALUES, compute_frequencies, load_bare
from imagemint.training.errors import DatasetError

HEADS = list(STYLES)
SCRIPTS = Path(__file__).parents[4] / "scripts"
PLAIN = {name: values[0] for name, values in VALUES.items()}
PACKAGES = os.environ.get("DICEBEAR_PACKAGES", "")


@pytest.fixture
def script(monkeypatch):
    """The module of the script that draws the people."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import draw_avatars  # noqa: PLC0415 - found only now

    return draw_avatars


@pytest.fixture
def toy_people(script, monkeypatch, tmp_path):
    """A function that writes people as images of one shade, which depends on the person."""

    def draw(people, packages):
        del packages
        for person in people:
            png = io.BytesIO()
            shade = 200 if person["accessories"] == NONE else 50
            Image.new("RGB", (64, 64), (shade, 0, 0)).save(png, "PNG")
            yield png.getvalue()

    def write(labels, people, **columns):
        monkeypatch.setattr(script, "draw", draw)
        table = script.to_table(labels, people, tmp_path)
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        (tmp_path / "avatars64").mkdir()
        pq.write_table(table, tmp_path / "avatars64/test-00000-of-00001.parquet")
        return tmp_path

    return write


def test_attributes_are_read(toy_people):
    """Every attribute is read as codes of its values, and hidden colours are marked."""
    covered = PLAIN | {"top": "hat", "hair": "red", "hat": "coral"}
    bearded = covered | {"beard": "moustacheFancy"}
    haired = PLAIN | {"top": "bun", "hair": "pink"}
    data = load_dataset("avatars64", "test", toy_people([0, 0, 6], [covered, bearded, haired]))
    assert data.class_labels == tuple(HEADS)
    by_name = {it.name: it for it in data.attributes}
    assert list(by_name) == list(VALUES)
    hair = by_name["hair"]
    assert [hair.values[code] for code in hair.codes] == ["red", "red", "pink"]
    assert hair.visible.tolist() == [False, True, True]
    assert by_name["hat"].visible.tolist() == [True, True, False]
    assert by_name["mouth"].visible is None


def test_covered_attributes_are_marked(toy_people):
    """Goggles cover the eyes, and a hijab covers the clothes."""
    goggles, hijab = PLAIN | {"accessories": "kurt"}, PLAIN | {"top": "hijab"}
    data = load_dataset("avatars64", "test", toy_people([9, 2], [goggles, hijab]))
    by_name = {it.name: it for it in data.attributes}
    assert by_name["eyes"].visible.tolist() == [False, True]
    assert by_name["eyebrows"].visible.tolist() == [False, True]
    assert by_name["clothing"].visible.tolist() == [True, False]


def test_unknown_value_is_refused(toy_people):
    """The error names the row of a value that the attribute does not have."""
    folder = toy_people([8, 8], [PLAIN, PLAIN], skin=["pale", "green"])
    with pytest.raises(DatasetError, match=r"avatars64/test: skin, row 1: 'green' is none of"):
        load_dataset("avatars64", "test", folder)


def test_bare_people_have_no_glasses(toy_people):
    """Each person with glasses also has an image without them, found by row."""
    wearing = PLAIN | {"accessories": "round"}
    rows, pictures = load_bare("test", toy_people([8, 8, 8], [PLAIN, wearing, PLAIN]))
    assert rows.tolist() == [1]
    assert pictures.shape == (1, 64, 64, 3)
    assert (pictures[0, :, :, 0] == 200).all()


def test_selected_rows_keep_their_attributes(toy_people):
    """A selection of images per class keeps the attributes of its rows."""
    people = [PLAIN | {"skin": skin} for skin in VALUES["skin"]]
    data = load_dataset("avatars64", "test", toy_people([8] * len(people), people))
    few = select_per_class(replace(data, class_labels=tuple(HEADS[8:9]), labels=0 * data.labels), 3)
    skin = {it.name: it for it in few.attributes}["skin"]
    told = [
        f"{skin.values[code]} skin" in text
        for code, text in zip(skin.codes, few.texts, strict=True)
    ]
    assert told == [True] * 3


@pytest.mark.parametrize("name", VALUES)
def test_frequencies_are_shares(name):
    """The shares of each head sum to 1, and a head has only its own styles."""
    table = compute_frequencies(name)
    assert table.shape == (len(STYLES), len(VALUES[name]))
    assert np.allclose(table.sum(axis=1), 1)
    if name == "top":
        owners = {style: head for head, styles in STYLES.items() for style in styles}
        for head, row in zip(HEADS, table, strict=True):
            assert {owners[VALUES[name][k]] for k in np.flatnonzero(row)} == {head}


def test_caption_mentions_what_is_visible():
    """A caption mentions skin, head, mood and clothes, and a beard and glasses if there are any."""
    person = PLAIN | {"skin": "pale", "hair": "auburn", "top": "bun", "mouth": "smile"}
    assert compose_caption("bun", person) == (
        "a person with pale skin and auburn hair in a bun, smiling, in a blazer over a black shirt"
    )
    more = person | {"beard": "beardLight", "accessories": "wayfarers", "clothing": "hoodie"}
    assert compose_caption("afro", more) == (
        "a person with pale skin, an auburn afro, an auburn light beard and dark glasses, smiling,"
        " in a black hoodie"
    )


def test_drawn_people_follow_the_frequencies(script):
    """Each head has only its own styles, and a hijab is never combined with a beard."""
    labels, people = script.draw_people(300, np.random.Generator(np.random.Philox(5)))
    for label, person in zip(labels, people, strict=True):
        assert person["top"] in STYLES[HEADS[label]]
        assert person["beard"] == NONE or HEADS[label] != "hijab"
    glasses = np.mean([person["accessories"] != NONE for person in people])
    assert 0.3 < glasses < 0.5


@pytest.mark.data
def test_real_avatars_are_read(real_data):
    """The test split has 2,200 people with matching captions and balanced heads."""
    data = load_dataset("avatars64", "test", real_data)
    assert data.images.shape == (2_200, 64, 64, 3)
    assert np.bincount(data.labels).min() > 180
    for row, text in enumerate(data.texts):
        person = {it.name: it.values[it.codes[row]] for it in data.attributes}
        assert compose_caption(HEADS[data.labels[row]], person) == text


@pytest.mark.data
@pytest.mark.skipif(
    not PACKAGES or not shutil.which("node"), reason="DICEBEAR_PACKAGES names no npm packages"
)
def test_script_draws_the_published_images(real_data, script):
    """The images of the first people of the data set are equal pixel for pixel."""
    data = load_dataset("avatars64", "test", real_data)
    people = [{it.name: it.values[it.codes[row]] for it in data.attributes} for row in range(12)]
    for png, image in zip(script.draw(people, Path(PACKAGES)), data.images, strict=False):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), image)

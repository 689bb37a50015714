"""Tests of imagemint.training.datasets.avatar_wordings."""

import hashlib

import numpy as np
import pytest
import torch

from imagemint.training.datasets.avatar_captions import compose_caption
from imagemint.training.datasets.avatar_wordings import (
    CAPTIONS,
    HEAD,
    READ,
    draw_caption,
    list_phrases,
)
from imagemint.training.datasets.avatars import NONE, STYLES, VALUES
from imagemint.training.datasets.caption_draws import CaptionDraws

PLAIN = {name: values[0] for name, values in VALUES.items()}
BEARDED = PLAIN | {"hair": "red", "beard": "beardMedium", "accessories": "round", "skin": "pale"}


def draw_captions(head, person, count=300):
    """Returns captions of a person with the values that each allows."""
    rng = np.random.Generator(np.random.Philox(5))
    drawn = [draw_caption(head, person, rng) for _ in range(count)]
    return [(caption.text, caption.allowed) for caption in drawn]


@pytest.mark.parametrize("head", STYLES)
def test_captions_use_the_vocabulary(head):
    """Every caption that can be drawn uses known words and fits the maximum length."""
    rng = np.random.Generator(np.random.Philox(3))
    for _ in range(200):
        person = {name: str(rng.choice(values)) for name, values in VALUES.items()}
        person["top"] = str(rng.choice(STYLES[head]))
        assert CAPTIONS.parse(draw_caption(head, person, rng).text)


def test_vocabulary_is_stable():
    """Shipped models know words by position, so a change would make them misread captions."""
    words = " ".join(CAPTIONS.vocabulary)
    assert hashlib.sha256(words.encode()).hexdigest().startswith("60d2ebffb9e31ab2")
    assert all(CAPTIONS.parse(example) == example for example in CAPTIONS.examples)


def test_some_captions_are_those_of_the_data_set():
    """Three in ten captions have the wording of the data set and mention everything."""
    person = BEARDED | {"top": "bun"}
    found = [
        names
        for caption, names in draw_captions("bun", person)
        if caption == compose_caption("bun", person)
    ]
    assert 0.2 < len(found) / 300 < 0.4
    assert found[0][HEAD] == {"bun"}
    assert found[0]["hair"] == {"red"}
    assert found[0]["beard"] == {"beardMedium"}
    assert "eyes" not in found[0]


def test_caption_allows_its_person():
    """A caption allows every value that it was drawn from, except for parts that it leaves out."""
    person = BEARDED | {"top": "fro"}
    for caption, names in draw_captions("afro", person):
        values = person | {HEAD: "afro"}
        for left_out in ("beard", "accessories"):
            if names.get(left_out) == {NONE}:
                values[left_out] = NONE
        assert all(values[name] in allowed for name, allowed in names.items()), caption


def test_phrases_are_reordered_and_left_out():
    """Phrases come in any order, and any of them may be missing."""
    captions = [caption for caption, _ in draw_captions("bun", BEARDED | {"top": "bun"})]
    skin_first = [
        c.index("pale skin") < c.index("glasses")
        for c in captions
        if "pale skin" in c and "glasses" in c
    ]
    assert {True, False} == set(skin_first)
    assert any("skin" not in caption for caption in captions)
    assert any("pale skin" in caption and "hair" not in caption for caption in captions)


def test_complete_captions_exclude_what_they_leave_out():
    """A caption of everything else without a beard excludes beards. Other captions allow them."""
    person = PLAIN | {"top": "bun"}
    whole = compose_caption("bun", person)
    for caption, names in draw_captions("bun", person):
        if caption == whole:
            assert names["beard"] == names["accessories"] == {NONE}
        elif "mood" not in names and "beard" not in caption and "skin" not in caption:
            assert "beard" not in names


def test_hair_colour_requires_visible_hair():
    """Red hair of no style allows heads with hair. A beard excludes only the hijab."""
    found = draw_captions("bun", BEARDED | {"top": "bun"}, 2_000)
    heads = {caption: names.get(HEAD) for caption, names in found}
    hair = next(
        h for c, h in heads.items() if " red hair" in c and "bun" not in c and "beard" not in c
    )
    assert hair == {"long hair", "wavy hair", "bun", "afro", "short hair"}
    beard = next(h for c, h in heads.items() if "beard" in c and "hair" not in c and "bun" not in c)
    assert beard == set(STYLES) - {"hijab"}


def test_equal_words_allow_all_their_values():
    """Captions use one word for both kinds of glasses, and for both blazers."""
    person = PLAIN | {"accessories": "prescription01"}
    assert list_phrases("bun", person)["glasses"][0].names["accessories"] == {
        "prescription01",
        "prescription02",
    }
    assert list_phrases("bun", PLAIN)["clothes"][-1].names["clothing"] == {
        "blazerAndShirt",
        "blazerAndSweater",
    }


def test_draws_depend_on_seed_and_position():
    """Token ids and allowed values are a function of seed and position, several per person."""
    people = torch.zeros(3, len(READ), dtype=torch.int64)
    draw = CaptionDraws(4)
    tokens, allowed = draw(people, 1, 2)
    assert tokens.shape[0] == allowed.shape[0] == 12
    assert torch.equal(tokens, draw(people, 1, 2)[0])
    assert not torch.equal(tokens[:, :3], draw(people, 1, 3)[0][:, :3])
    assert {0.0, 1.0} == set(allowed.flatten().tolist())
    # Everyone here has brown skin. No caption excludes it, and some exclude the others.
    skin = len(STYLES) + len(VALUES["top"])
    assert (allowed[:, skin] == 1).all()
    assert 0 < allowed[:, skin + 1].mean() < 1
    assert allowed.shape[1] == sum(map(len, READ.values()))


def test_wording_can_be_selected():
    """The wording is that of the data set, another order, or a part.

    What is mentioned gets no further values.
    """
    person = BEARDED | {"top": "bun"}
    rng = np.random.Generator(np.random.Philox(1))
    whole = draw_caption("bun", person, rng, "data")
    assert whole.text == compose_caption("bun", person)
    assert whole.attributes == whole.allowed
    others = [draw_caption("bun", person, rng, "order") for _ in range(20)]
    assert all(
        {HEAD, "hair"} & other.attributes.keys() and "skin" in other.attributes for other in others
    )
    assert len({other.text for other in others}) > 15
    parts = [draw_caption("bun", person, rng, "part") for _ in range(50)]
    assert any("skin" not in part.attributes for part in parts)
    bare = draw_caption("bun", PLAIN | {"top": "bun"}, rng, "data")
    assert "beard" in bare.allowed
    assert "beard" not in bare.attributes

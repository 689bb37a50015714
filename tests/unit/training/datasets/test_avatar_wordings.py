"""Tests of imagemint.training.datasets.avatar_wordings."""

import hashlib

import numpy as np
import pytest
import torch

from imagemint.training.datasets.avatar_captions import caption_of
from imagemint.training.datasets.avatar_wordings import (
    CAPTIONS,
    HEAD,
    READ,
    draw_caption,
    phrases_of,
)
from imagemint.training.datasets.avatars import NONE, STYLES, VALUES
from imagemint.training.datasets.caption_draws import CaptionDraws

PLAIN = {name: values[0] for name, values in VALUES.items()}
BEARDED = PLAIN | {"hair": "red", "beard": "beardMedium", "accessories": "round", "skin": "pale"}


def draws(head, person, count=300):
    """Captions of a person, each with what it allows."""
    rng = np.random.Generator(np.random.Philox(5))
    drawn = [draw_caption(head, person, rng) for _ in range(count)]
    return [(caption.text, caption.allowed) for caption in drawn]


@pytest.mark.parametrize("head", STYLES)
def test_every_caption_is_in_the_vocabulary(head):
    """Whatever is drawn of anybody is understood, and fits the length."""
    rng = np.random.Generator(np.random.Philox(3))
    for _ in range(200):
        person = {name: str(rng.choice(values)) for name, values in VALUES.items()}
        person["top"] = str(rng.choice(STYLES[head]))
        assert CAPTIONS.parse(draw_caption(head, person, rng).text)


def test_vocabulary_keeps_its_order():
    """The networks of shipped models know words by position: a change would make them misread."""
    words = " ".join(CAPTIONS.vocabulary)
    assert hashlib.sha256(words.encode()).hexdigest().startswith("60d2ebffb9e31ab2")
    assert all(CAPTIONS.parse(example) == example for example in CAPTIONS.examples)


def test_captions_of_the_data_set_are_among_them():
    """Three in ten are worded as in the data set, and name all of it."""
    person = BEARDED | {"top": "bun"}
    found = [
        names for caption, names in draws("bun", person) if caption == caption_of("bun", person)
    ]
    assert 0.2 < len(found) / 300 < 0.4
    assert found[0][HEAD] == {"bun"}
    assert found[0]["hair"] == {"red"}
    assert found[0]["beard"] == {"beardMedium"}
    assert "eyes" not in found[0]


def test_what_is_named_allows_the_person():
    """A caption never rules out a value that it was drawn from, but for what it leaves out."""
    person = BEARDED | {"top": "fro"}
    for caption, names in draws("afro", person):
        values = person | {HEAD: "afro"}
        for left_out in ("beard", "accessories"):
            if names.get(left_out) == {NONE}:
                values[left_out] = NONE
        assert all(values[name] in allowed for name, allowed in names.items()), caption


def test_other_orders_and_parts_are_drawn():
    """Phrases stand in any order, and any of them may be missing."""
    captions = [caption for caption, _ in draws("bun", BEARDED | {"top": "bun"})]
    skin_first = [
        c.index("pale skin") < c.index("glasses")
        for c in captions
        if "pale skin" in c and "glasses" in c
    ]
    assert {True, False} == set(skin_first)
    assert any("skin" not in caption for caption in captions)
    assert any("pale skin" in caption and "hair" not in caption for caption in captions)


def test_whole_captions_rule_out_what_they_leave_out():
    """Without beard or glasses in a caption that names all else, there are none; in others any."""
    person = PLAIN | {"top": "bun"}
    whole = caption_of("bun", person)
    for caption, names in draws("bun", person):
        if caption == whole:
            assert names["beard"] == names["accessories"] == {NONE}
        elif "mood" not in names and "beard" not in caption and "skin" not in caption:
            assert "beard" not in names


def test_colour_of_hair_asks_for_hair():
    """Red hair without a kind is on a head that shows it; a beard is not under a hijab."""
    found = draws("bun", BEARDED | {"top": "bun"}, 2_000)
    heads = {caption: names.get(HEAD) for caption, names in found}
    hair = next(
        h for c, h in heads.items() if " red hair" in c and "bun" not in c and "beard" not in c
    )
    assert hair == {"long hair", "wavy hair", "bun", "afro", "short hair"}
    beard = next(h for c, h in heads.items() if "beard" in c and "hair" not in c and "bun" not in c)
    assert beard == set(STYLES) - {"hijab"}


def test_equal_words_allow_either():
    """Both kinds that captions call glasses are allowed, and both blazers."""
    person = PLAIN | {"accessories": "prescription01"}
    assert phrases_of("bun", person)["glasses"][0].names["accessories"] == {
        "prescription01",
        "prescription02",
    }
    assert phrases_of("bun", PLAIN)["clothes"][-1].names["clothing"] == {
        "blazerAndShirt",
        "blazerAndSweater",
    }


def test_draws_are_a_function_of_their_position():
    """Tokens and what is allowed come by seed and position, several for each person."""
    people = torch.zeros(3, len(READ), dtype=torch.int64)
    draw = CaptionDraws(4)
    tokens, allowed = draw(people, 1, 2)
    assert tokens.shape[0] == allowed.shape[0] == 12
    assert torch.equal(tokens, draw(people, 1, 2)[0])
    assert not torch.equal(tokens[:, :3], draw(people, 1, 3)[0][:, :3])
    assert {0.0, 1.0} == set(allowed.flatten().tolist())
    # Everybody here has brown skin, so no caption rules that out, and some rule out the others.
    skin = len(STYLES) + len(VALUES["top"])
    assert (allowed[:, skin] == 1).all()
    assert 0 < allowed[:, skin + 1].mean() < 1
    assert allowed.shape[1] == sum(map(len, READ.values()))


def test_manner_can_be_asked_for():
    """As in the data set, in another order, or a part; what is named has no values added."""
    person = BEARDED | {"top": "bun"}
    rng = np.random.Generator(np.random.Philox(1))
    whole = draw_caption("bun", person, rng, "data")
    assert whole.text == caption_of("bun", person)
    assert whole.named == whole.allowed
    others = [draw_caption("bun", person, rng, "order") for _ in range(20)]
    assert all({HEAD, "hair"} & other.named.keys() and "skin" in other.named for other in others)
    assert len({other.text for other in others}) > 15
    parts = [draw_caption("bun", person, rng, "part") for _ in range(50)]
    assert any("skin" not in part.named for part in parts)
    bare = draw_caption("bun", PLAIN | {"top": "bun"}, rng, "data")
    assert "beard" in bare.allowed
    assert "beard" not in bare.named

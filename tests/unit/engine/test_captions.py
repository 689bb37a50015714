"""Tests of imagemint.engine.captions."""

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemint.engine.captions import Captions, normalize

VECTORS = json.loads(Path(__file__).with_name("sampling_vectors.json").read_text())["captions"]
CAPTIONS = Captions(("a", "person", "with", "red", "hair", "glasses"), 5, ("red hair",))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_captions_match_vectors(vector):
    """The published texts have the published normal form, term of a serial and token ids."""
    captions = Captions(tuple(vector["vocabulary"]), vector["max_words"], ())
    normal = captions.parse(vector["text"])
    assert normal == vector["normal"]
    assert f"caption={quote(normal, safe='')}" == vector["term"]
    assert captions.encode([normal]).tolist() == [vector["tokens"]]


@given(st.text(max_size=60))
def test_normal_form_is_stable(text):
    """The normal form of a normal form is itself."""
    assert normalize(normalize(text)) == normalize(text)


@given(st.lists(st.lists(st.sampled_from(CAPTIONS.vocabulary), min_size=1, max_size=5)))
def test_token_ids_are_decoded(rows):
    """Token ids give back the captions that they were made from."""
    captions = [" ".join(words) for words in rows]
    tokens = CAPTIONS.encode(captions)
    assert (tokens.dtype, tokens.shape) == (np.int64, (len(rows), 5))
    assert CAPTIONS.decode(tokens) == captions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no word"),
        (" ?! ", "it has no word"),
        ("red red red red red hair", "6 words; a caption of this model has at most 5"),
        ("blue hair", "unknown word 'blue'"),
        ("Read hairs", "unknown words 'read' (similar: 'red'), 'hairs' (similar: 'hair')"),
        ("zebra " * 6, "6 words; a caption of this model has at most 5; unknown word 'zebra'"),
        ("x" * 2_001, "2001 characters; a caption has at most 2000"),
        ("h" * 50, f"unknown word '{'h' * 40}…'"),
    ],
)
def test_caption_that_the_model_does_not_understand_is_refused(text, said):
    """The message names all that is wrong, and similar known words."""
    with pytest.raises(ValueError, match=r"word|characters") as caught:
        CAPTIONS.parse(text)
    assert str(caught.value) == said


def test_many_unknown_words_are_counted():
    """A message stays short: it names twenty words and counts the others."""
    many = Captions(("red",), 256, ())
    with pytest.raises(ValueError, match=r"'w19', 5 more$"):
        many.parse(" ".join(f"w{number}" for number in range(25)))


def test_similar_word_is_found_in_a_large_vocabulary():
    """Among words of about the same length, those with the same first letter first."""
    others = tuple(f"{letter}{number:04}" for letter in "abc" for number in range(1_000))
    large = Captions((*others, "zebra"), 16, ("zebra",))
    with pytest.raises(ValueError, match=r"'zebras' \(similar: 'zebra'\)"):
        large.parse("zebras")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([[1, 0, 0, 0]], r"token ids are \[N, 5\], not \[1, 4\]"),
        ([[1, 7, 0, 0, 0]], "a token id is not 0 to 6"),
        ([[-1, 0, 0, 0, 0]], "a token id is not 0 to 6"),
        ([[1, 0, 2, 0, 0]], "follows the padding"),
        ([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "a row has no word"),
    ],
)
def test_wrong_token_ids_are_refused(tokens, said):
    """Only ids of words, then padding, are a caption."""
    with pytest.raises(ValueError, match=said):
        CAPTIONS.decode(np.array(tokens, np.int64))

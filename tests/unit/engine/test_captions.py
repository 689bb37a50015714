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
def test_captions_match_the_vectors(vector):
    """Each published text has the published normal form, serial term and token ids."""
    captions = Captions(tuple(vector["vocabulary"]), vector["max_words"], ())
    normal = captions.parse(vector["text"])
    assert normal == vector["normal"]
    assert f"caption={quote(normal, safe='')}" == vector["term"]
    assert captions.encode([normal]).tolist() == [vector["tokens"]]


@given(st.text(max_size=60))
def test_normalizing_twice_changes_nothing(text):
    """Normalization is idempotent."""
    assert normalize(normalize(text)) == normalize(text)


@given(st.lists(st.lists(st.sampled_from(CAPTIONS.vocabulary), min_size=1, max_size=5)))
def test_encoded_captions_can_be_decoded(rows):
    """Token ids decode to the captions that they encode."""
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
def test_invalid_caption_is_refused(text, said):
    """The message names every fault and suggests similar known words."""
    with pytest.raises(ValueError, match=r"word|characters") as caught:
        CAPTIONS.parse(text)
    assert str(caught.value) == said


def test_message_counts_further_unknown_words():
    """The message names 20 unknown words and counts the rest, so it stays short."""
    many = Captions(("red",), 256, ())
    with pytest.raises(ValueError, match=r"'w19', 5 more$"):
        many.parse(" ".join(f"w{number}" for number in range(25)))


def test_similar_word_is_found_in_a_large_vocabulary():
    """Words with the same first letter are compared first when many words have a similar length."""
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
def test_invalid_token_ids_are_refused(tokens, said):
    """A row must consist of one or more word ids followed by padding."""
    with pytest.raises(ValueError, match=said):
        CAPTIONS.decode(np.array(tokens, np.int64))

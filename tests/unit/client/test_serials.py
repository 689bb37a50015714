"""Tests of imagemint.client.serials."""

import pytest

from imagemint.client import InvalidRequest, Serial
from imagemint.client.api import run_selection
from imagemint.client.serials import cut_into_runs, parse_serials


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("mnist@3/42/17", Serial("mnist", "3", 42, 17)),
        ("a.b-c_1@1/0/0?class=7", Serial("a.b-c_1", "1", 0, 0, class_id=7)),
        ("m@1/1/2?truncation=0.0", Serial("m", "1", 1, 2, truncation=0.0)),
        ("m@1+int8/1/2?class=7", Serial("m", "1", 1, 2, class_id=7, variant="int8")),
        ("p@1/1/2?caption=red%20hair", Serial("p", "1", 1, 2, caption="red hair")),
        (
            "p@1/1/2?caption=caf%C3%A9&truncation=0.5",
            Serial("p", "1", 1, 2, truncation=0.5, caption="café"),
        ),
        (
            f"m@10/{2**64 - 1}/{2**64 - 1}?class=0&truncation=1e-05",
            Serial("m", "10", 2**64 - 1, 2**64 - 1, class_id=0, truncation=1e-05),
        ),
    ],
)
def test_serial_is_parsed(text, serial):
    """Class and truncation are set only if the text has them."""
    assert Serial.parse(text) == serial


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mnist",
        "mnist@3/42",
        "mnist@0/1/1",
        "mnist@3/-1/0",
        "Mnist@3/1/1",
        "m@1/1/1?",
        "m@1+/1/1",
        "m@1+INT8/1/1",
        "m@1+reference/1/1",
        "m@1+auto/1/1",
        "m@1/1/1+int8",
        "m@1/1/1?class=",
        "m@1/1/1?class=1&class=2",
        "m@1/1/1?truncation=0.5&class=1",
        "m@1/1/1?truncation=.",
        "m@1/1/1?psi=1",
        "m@1/01/1",
        "m@1/1/00",
        "m@1/1/1?class=07",
        "m@1/1/1?truncation=1e999",
        f"m@1/{'9' * 5000}/1",
        f"m@{'9' * 5000}/1/1",
    ],
)
def test_other_text_is_refused(text):
    """Any other text raises InvalidRequest with an example."""
    with pytest.raises(InvalidRequest, match="mnist@3/42/17"):
        Serial.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "mnist@3/42/17",
        "m@1/0/0?class=0&truncation=1e-05",
        f"m@1+int8/{2**64 - 1}/{2**64 - 1}?truncation=0.0",
        "p@1/1/2?caption=caf%C3%A9%5Fau%2Elait%7E",
        "sketch@1/0/0?source=0123456789abcdef0123456789abcdef",
    ],
)
def test_text_of_a_serial_is_the_parsed_one(text):
    """`str()` returns what `parse()` reads."""
    assert str(Serial.parse(text)) == text


def test_runs_need_the_fewest_calls():
    """Adjacent serials of a seed share a run up to the limit. Duplicates do not."""
    texts = ["m@1/7/3?class=2", "m@1/7/1?class=0", "m@1/8/2?class=0", "m@1/7/2?class=1"]
    texts += ["m@1/7/1?class=0", "m@1/7/9?class=0"]
    runs = cut_into_runs([Serial.parse(text) for text in texts], lambda _: 2)
    assert [(run.first.index, run.class_ids, run.positions) for run in runs] == [
        (1, (0,), (1,)),
        (1, (0, 1), (4, 3)),
        (3, (2,), (0,)),
        (9, (0,), (5,)),
        (2, (0,), (2,)),
    ]


def test_serials_of_two_captions_share_no_call():
    """A call has one caption."""
    texts = [f"p@1/7/{index}?caption={text}" for index, text in enumerate(("a", "b", "b"))]
    runs = cut_into_runs([Serial.parse(text) for text in texts], lambda _: 9)
    assert [(run.first.caption, run.positions) for run in runs] == [("a", (0,)), ("b", (1, 2))]


def test_serials_of_two_truncations_share_no_call():
    """A call has one truncation and one seed, and no truncation differs from each of them."""
    texts = ["m@1/7/1", "m@1/7/2?truncation=0.5", "m@1/7/3?truncation=0.7"]
    texts += ["m@1/7/4?truncation=0.7", "m@1/8/5?truncation=0.7"]
    runs = cut_into_runs([Serial.parse(text) for text in texts], lambda _: 9)
    asked = [(run.first.seed, run_selection(run)["truncation"], run.positions) for run in runs]
    assert asked == [(7, None, (0,)), (7, 0.5, (1,)), (7, 0.7, (2, 3)), (8, 0.7, (4,))]


def test_serials_of_two_variants_share_no_call():
    """Each run has its variant, by default the reference. mint() accepts one variant."""
    texts = ["m@1/7/1", "m@1+int8/7/2", "m@1/7/2"]
    runs = cut_into_runs([Serial.parse(text) for text in texts], lambda _: 9)
    asked = [(run_selection(run)["variant"], run.positions) for run in runs]
    assert asked == [("reference", (0, 2)), ("int8", (1,))]
    with pytest.raises(InvalidRequest, match=r"not m@1, m@1\+int8"):
        parse_serials(texts)

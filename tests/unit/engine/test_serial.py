"""Tests of imagemint.engine.serial."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemint.engine.captions import normalize
from imagemint.engine.serial import Serial, hash_source

uint64 = st.integers(0, 2**64 - 1)
serials = st.builds(
    Serial,
    model=st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,63}\Z"),
    version=st.integers(1, 10**12),
    seed=uint64,
    index=uint64,
    class_id=st.none() | st.integers(0, 10**6),
    truncation=st.none() | st.floats(0, allow_infinity=False).map(abs),
    variant=st.none() | st.from_regex(r"\Av[a-z0-9-]{0,31}\Z"),
    caption=st.none() | st.text(max_size=40).map(normalize).filter(bool),
    source=st.none() | st.from_regex(r"\A[0-9a-f]{32}\Z"),
)
SOURCE = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("serial", "text"),
    [
        (Serial("mnist", 3, 42, 17, 7, 0.7), "mnist@3/42/17?class=7&truncation=0.7"),
        (Serial("mnist", 3, 42, 17, 0), "mnist@3/42/17?class=0"),
        (Serial("faces", 1, 0, 0, truncation=0.0), "faces@1/0/0?truncation=0.0"),
        (Serial("faces", 1, 0, 2**64 - 1), "faces@1/0/18446744073709551615"),
        (Serial("faces", 1, 5, 6, truncation=1e-9), "faces@1/5/6?truncation=1e-09"),
        (Serial("mnist", 2, 42, 17, 7, variant="int8"), "mnist@2+int8/42/17?class=7"),
        (Serial("a-b", 1, 0, 0, variant="fp16-x"), "a-b@1+fp16-x/0/0"),
        (Serial("p", 1, 2, 3, caption="red hair"), "p@1/2/3?caption=red%20hair"),
        (
            Serial("p", 1, 2, 3, 7, 0.5, "int8", "grey-green café"),
            "p@1+int8/2/3?class=7&caption=grey-green%20caf%C3%A9&truncation=0.5",
        ),
        (Serial("s", 1, 0, 0, source=SOURCE), f"s@1/0/0?source={SOURCE}"),
        (
            Serial("s", 1, 2, 3, 4, 0.5, None, "red hair", SOURCE),
            f"s@1/2/3?class=4&caption=red%20hair&source={SOURCE}&truncation=0.5",
        ),
    ],
)
def test_serial_has_one_spelling(serial, text):
    """A serial is written in the one documented form and parsed from it."""
    assert str(serial) == text
    assert Serial.parse(text) == serial


def test_source_digest():
    """The digest depends on the pixels and on the shape; its form is fixed for all time."""
    source = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    shape = b"\4\0\0\0\4\0\0\0\3\0\0\0"
    expected = hashlib.sha256(shape + source.tobytes()).hexdigest()[:32]
    assert hash_source(source) == expected
    assert hash_source(source.transpose(1, 0, 2)) != expected
    assert hash_source(source.reshape(2, 8, 3)) != expected


@given(serials)
def test_serial_round_trips(serial):
    """The text of any serial parses to the same serial."""
    assert Serial.parse(str(serial)) == serial


def test_truncation_may_be_written_as_an_integer():
    """The parser accepts truncation=1 and gives the serial that the server writes."""
    assert str(Serial.parse("m@1/0/0?truncation=1")) == "m@1/0/0?truncation=1.0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mnist",
        "mnist@3/42",
        "Mnist@3/42/17",
        "mnist@0/42/17",
        "mnist@03/42/17",
        "mnist@3/042/17",
        "mnist@3/42/-1",
        "mnist@3+/42/17",
        "mnist@3+INT8/42/17",
        "mnist@3+int8+fp16/42/17",
        "mnist@3+reference/42/17",
        "mnist@3+auto/42/17",
        f"mnist@3+{33 * 'v'}/42/17",
        "mnist+int8@3/42/17",
        "mnist@3/42/17+int8",
        "mnist@3/42/18446744073709551616",
        "mnist@3/18446744073709551616/0",
        "mnist@3/42/17?",
        "mnist@3/42/17&class=7",
        "mnist@3/42/17?class=7&",
        "mnist@3/42/17?class=",
        "mnist@3/42/17?class=7&class=7",
        "mnist@3/42/17?truncation=0.7&class=7",
        "mnist@3/42/17?truncation=nan",
        "mnist@3/42/17?truncation=1e999",
        "mnist@3/42/17?truncation=-0.5",
        "mnist@3/42/17?color=red",
        "mnist@3/42/17?caption=",
        "mnist@3/42/17?caption=red hair",
        "mnist@3/42/17?caption=red+hair",
        "mnist@3/42/17?caption=Red%20hair",
        "mnist@3/42/17?caption=red%20%20hair",
        "mnist@3/42/17?caption=%72ed",
        "mnist@3/42/17?caption=caf%c3%a9",
        "mnist@3/42/17?caption=caf%C3",
        "mnist@3/42/17?caption=cafe%CC%81",
        "mnist@3/42/17?caption=red&class=7",
        "mnist@3/42/17?truncation=0.5&caption=red",
        "mnist@3/42/17\n",
        "mnist@3/42/\u0661\u0667",
    ],
)
def test_malformed_serial_is_refused(text):
    """Parsing any other form raises a ValueError that quotes the text."""
    with pytest.raises(ValueError, match=r"serial number|at most") as caught:
        Serial.parse(text)
    assert repr(text) in str(caught.value)

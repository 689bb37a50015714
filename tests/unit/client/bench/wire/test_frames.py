"""Frames: however the bytes are cut on the way, the same frames come out."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemint.client.bench.wire import frames
from imagemint.client.bench.wire.frames import Frame, FrameReader, ProtocolError

GREETING = frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: 7})

STREAMS = st.integers(1, 2**31 - 1)
PAYLOADS = st.binary(max_size=40)


def read(*pieces):
    """Every frame in the pieces."""
    reader = FrameReader()
    return [Frame._make(each) for piece in pieces for each in reader.feed(piece)]


@st.composite
def written(draw):
    """One frame as it should come out, and as it is written: padded, with priority, continued."""
    kind = draw(st.sampled_from([frames.DATA, frames.HEADERS, frames.GOAWAY, 0x77]))
    stream, payload = draw(STREAMS), draw(PAYLOADS)
    if kind not in (frames.DATA, frames.HEADERS):
        return (kind, stream, payload), frames.head(len(payload), kind, 0, stream) + payload
    flags, before, after = 0, b"", b""
    if kind == frames.HEADERS and draw(st.booleans()):
        flags, before = frames.WITH_PRIORITY, b"\0\0\0\3\x10"
    if draw(st.booleans()):
        after = bytes(draw(st.integers(0, 255)))
        flags, before = flags | frames.PADDED, bytes([len(after)]) + before
    parts = [payload]
    if kind == frames.HEADERS:
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=2)))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        flags |= 0 if cuts else frames.END_HEADERS
    first = before + parts[0] + after
    out = frames.head(len(first), kind, flags, stream) + first
    for number, part in enumerate(parts[1:], start=2):
        last = frames.END_HEADERS if number == len(parts) else 0
        out += frames.head(len(part), frames.CONTINUATION, last, stream) + part
    return (kind, stream, payload), out


@given(st.lists(written(), max_size=8), st.data())
def test_cuts_do_not_matter(several, data):
    """Padding, priorities and continuations are taken off; nothing is lost between the pieces."""
    whole = GREETING + b"".join(out for _, out in several)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    found = read(*pieces)
    assert found == read(whole)
    assert [(each.kind, each.stream, each.payload) for each in found[1:]] == [
        expected for expected, _ in several
    ]


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_read(rubbish):
    """Whatever comes is a frame or a ProtocolError, never another failure."""
    with contextlib.suppress(ProtocolError):
        read(GREETING, rubbish)


def test_padding_counts_for_flow_control():
    """The size is that on the wire."""
    padded = frames.head(6, frames.DATA, frames.PADDED, 1) + b"\3ab\0\0\0"
    (_, data) = read(GREETING, padded)
    assert (data.payload, data.size) == (b"ab", 6)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not HTTP/2: b'HTTP/1.1 400"),
        (frames.head(0, frames.SETTINGS, frames.ACK), "not HTTP/2"),
        (GREETING + frames.head(2**14 + 1, frames.DATA, 0, 1), "a frame of 16385 bytes"),
        (GREETING + frames.head(0, frames.DATA), "stream 0"),
        (GREETING + frames.head(1, frames.DATA, frames.PADDED, 1) + b"\1", "more padding"),
        (GREETING + frames.head(0, frames.DATA, frames.PADDED, 1), "more padding"),
        (GREETING + frames.head(7, frames.PING) + bytes(7), "type 6 with 7 bytes"),
        (GREETING + frames.head(0, frames.CONTINUATION, 0, 1), "continuation of nothing"),
        (
            GREETING + frames.head(0, frames.HEADERS, 0, 1) + frames.head(0, frames.DATA, 0, 1),
            "interrupted",
        ),
        (
            GREETING
            + frames.head(0, frames.HEADERS, 0, 1)
            + (frames.head(2**14, frames.CONTINUATION, 0, 1) + bytes(2**14)) * 17,
            "endless headers",
        ),
    ],
)
def test_broken_rules_are_told(sent, message):
    """Each by a text that says which."""
    with pytest.raises(ProtocolError, match=message):
        read(sent)


def test_settings_are_read_back():
    """Names and values; half a setting is none."""
    payload = GREETING[frames.HEAD_BYTES :]
    assert list(frames.settings_in(payload)) == [(3, 7)]
    with pytest.raises(ProtocolError, match="half a setting"):
        frames.settings_in(payload[:-1])


def test_farewell_has_code_and_reason():
    """And the last stream of the peer's that was taken: none."""
    (_, frame) = read(GREETING, frames.goaway(frames.ErrorCode.CANCEL, "why"))
    assert struct.unpack_from(">II", frame.payload) == (0, 8)
    assert frame.payload[8:] == b"why"

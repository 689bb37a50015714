"""Header blocks: short and constant in one direction, never misread in the other."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import example, given
from hypothesis import strategies as st

from imagemint.client.bench.wire.frames import ProtocolError
from imagemint.client.bench.wire.headers import AnswerBlocks, Head, RequestBlocks

OPENING = [(":status", "200"), ("content-type", "application/grpc+proto")]


def head(path):
    """Header fields of a call."""
    return Head([(b":method", b"POST"), (b":path", path), (b"authorization", b"Bearer key")])


@given(st.lists(st.sampled_from([0, 1, 2, 64, 100, 200, 5000]), max_size=30))
@example([0, 0, 1, 0])  # what is inserted for one method moves the fields of another
def test_blocks_are_what_was_meant(steps):
    """Methods in any order, the peer's table larger and smaller: its decoder agrees."""
    heads = [head(b"/a"), head(b"/b"), head(b"/c" * 30)]
    blocks, decoder = RequestBlocks(), Decoder()
    for step in steps:
        if step > len(heads):
            blocks.limit_table(step)
            decoder.max_allowed_table_size = min(step, 4096)
        else:
            each = heads[step % 3]
            assert decoder.decode(blocks.block(each), raw=True) == each.fields


def test_blocks_become_constant():
    """A byte for each field from the second call on, also of two methods in turn."""
    blocks, one, other = RequestBlocks(), head(b"/a"), head(b"/b")
    for each in (one, other):
        blocks.block(each)
    assert [len(blocks.block(each)) for each in (one, other, one)] == [3, 3, 3]
    assert blocks.block(one) is blocks.block(one)


def trailers(**fields):
    """Pairs of name and value."""
    return [(name.replace("_", "-"), value) for name, value in fields.items()]


@pytest.mark.parametrize("huffman", [True, False])
def test_status_is_read_however_it_is_coded(huffman):
    """Literal or Huffman, after a table size update or not, beside other fields."""
    answers, encoder = AnswerBlocks(), Encoder()
    encoder.header_table_size = 0
    for _ in range(2):
        good = encoder.encode(trailers(x_request_id="7", grpc_status="0"), huffman=huffman)
        assert answers.failure(good) is None
        bad = trailers(grpc_status="8", grpc_message="queue %E2%80%94 full")
        failure = answers.failure(encoder.encode(bad, huffman=huffman))
        assert (failure.code, failure.message, failure.shed) == (
            *("RESOURCE_EXHAUSTED", "queue — full"),
            True,
        )


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (trailers(grpc_status="14", grpc_message="gone"), "UNAVAILABLE", "gone"),
        (trailers(grpc_status="1"), "CANCELLED", ""),
        (trailers(grpc_status="99", grpc_message="odd"), "UNKNOWN", "grpc-status 99: odd"),
        (trailers(grpc_status="x"), "UNKNOWN", "grpc-status x: "),
        (trailers(other="1"), "UNKNOWN", "the answer has no grpc-status"),
    ],
)
def test_failures_have_names(fields, code, message):
    """Those of gRPC; what is none is UNKNOWN."""
    failure = AnswerBlocks().failure(Encoder().encode(fields))
    assert (failure.code, failure.message, failure.shed) == (code, message, False)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (OPENING, ""),
        ([(":status", "503")], "HTTP status 503"),
        ([("content-type", "application/grpc")], "HTTP status missing"),
        ([(":status", "200"), ("content-type", "text/html")], "content-type text/html"),
    ],
)
def test_opening_tells_who_does_not_speak_grpc(fields, fault):
    """The second time from memory, with the same answer."""
    answers, encoder = AnswerBlocks(), Encoder()
    encoder.header_table_size = 0
    for _ in range(3):
        assert answers.opening(encoder.encode(fields)).fault == fault


def test_informational_status_is_no_opening():
    """103 Early Hints and the like come before it."""
    assert AnswerBlocks().opening(Encoder().encode([(":status", "103")])).informational


def test_opening_and_trailers_in_one():
    """The status of gRPC counts where there is one, else that of HTTP."""
    answers, encoder = AnswerBlocks(), Encoder()
    encoder.header_table_size = 0
    both = answers.only_failure(encoder.encode([*OPENING, ("grpc-status", "5")]))
    html = answers.only_failure(encoder.encode([(":status", "404")]))
    assert (both.code, html.code, html.message) == ("NOT_FOUND", "UNKNOWN", "HTTP status 404")
    assert answers.only_failure(encoder.encode([*OPENING, ("grpc-status", "0")])) is None


def test_memory_of_openings_is_bounded():
    """A server that puts something unique into each does not fill it."""
    answers, encoder = AnswerBlocks(), Encoder()
    encoder.header_table_size = 0
    for number in range(200):
        assert not answers.opening(encoder.encode([*OPENING, ("x-id", str(number))])).fault
    assert len(answers._openings) <= 64


def test_table_that_was_refused_is_an_error():
    """A field that refers to it cannot be known."""
    with pytest.raises(ProtocolError, match="a header block"):
        AnswerBlocks().failure(b"\xbe")
    with pytest.raises(ProtocolError, match="a header block"):
        AnswerBlocks().failure(b"\x3f\xe1\x1f")

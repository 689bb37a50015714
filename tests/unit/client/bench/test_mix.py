"""Tests of mixes of requests on the command line and in files."""

import pytest

from imagemint.bench.mix import MixError, parse_mix


def test_mix_is_parsed():
    """Commas separate kinds and spaces separate keys. A colon precedes the weight."""
    small, large = parse_mix("count=1:80, count=64 class=7 format=png stream chunk=8:20").kinds
    assert (small.count, small.weight, small.format, small.stream) == (1, 80, "raw", False)
    assert (large.count, large.class_, large.format, large.weight) == (64, "7", "png", 20)
    assert (large.stream, large.chunk) == (True, 8)


def test_shares_follow_the_weights():
    """Shares sum to one."""
    assert parse_mix("count=1:3,count=5").shares == [0.75, 0.25]


def test_mix_is_read_from_a_file(tmp_path):
    """Each kind is a table, and numbers may be classes."""
    file = tmp_path / "mix.toml"
    file.write_text(
        "[[request]]\ncount = 4\nweight = 3\nclass = 7\n[[request]]\ntruncation = 0.5\n"
    )
    first, second = parse_mix(str(file)).kinds
    assert (first.count, first.weight, first.class_) == (4, 3.0, "7")
    assert (second.count, second.truncation) == (1, 0.5)


def test_caption_is_written_with_underscores():
    """Spaces separate keys of --mix, so captions use underscores."""
    (request_kind,) = parse_mix("count=2 caption=a_person_with_red_hair").kinds
    assert request_kind.caption == "a_person_with_red_hair"
    spelled = str(request_kind.model_copy(update={"caption": "red hair"}))
    assert spelled == "count=2 caption=red_hair"
    with pytest.raises(MixError, match="class and caption exclude each other"):
        parse_mix("class=7 caption=red")


def test_kind_prints_as_mix():
    """The text of a kind is valid for --mix."""
    text = "count=2 class=balanced format=jpeg quality=80 truncation=0.5 priority=high"
    assert str(parse_mix(text).kinds[0]) == text
    assert str(parse_mix("stream count=8 chunk=4:3").kinds[0]) == "count=8 stream chunk=4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no key of a request"),
        ("count=1,", "has no key of a request"),
        ("count=0", "count: Input should be greater than or equal to 1"),
        ("count=1:0", "weight: Input should be greater than 0"),
        ("count=1:inf", "weight: Input should be a finite number"),
        ("cuont=1", "cuont: Extra inputs are not permitted"),
        ("count=1 count=2", "count is given twice"),
        ("format=gif", "format: Input should be 'raw', 'png', 'jpeg' or 'webp'"),
        ("chunk=4", "chunk needs stream"),
        ("quality=4 format=png", "quality needs format jpeg or webp"),
        ("translate", "set translate and source=FILE together"),
        ("translate source=nowhere.png", "nowhere.png is not a file"),
        ("nowhere.toml", "No such file"),
    ],
)
def test_invalid_mix_is_refused(text, message):
    """The error has the part and what is wrong."""
    with pytest.raises(MixError, match=message):
        parse_mix(text)


@pytest.mark.parametrize("content", ["", "count = 1", "[request]\ncount = 1", "[[request", "[[x]]"])
def test_invalid_file_is_refused(tmp_path, content):
    """A file consists of tables [[request]]."""
    file = tmp_path / "mix.toml"
    file.write_text(content)
    with pytest.raises(MixError, match=r"mix\.toml"):
        parse_mix(str(file))

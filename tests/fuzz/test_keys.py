"""Tests that generated key files give clients or a KeyFileError."""

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagemint.server.access.api_keys import KeyFileError, KeyRing, compute_digest, read_keys

FIELDS = (
    "name",
    "sha256",
    "models",
    "rate_images_per_s",
    "burst_images",
    "max_concurrent_calls",
    "model_control",
)
GOOD = f"""
[[key]]
name = "loader"
sha256 = ["{compute_digest("one")}", "{compute_digest("two")}"]
models = ["mnist"]
rate_images_per_s = 500.5
burst_images = 1000
max_concurrent_calls = 16
model_control = true
"""
VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats().map(str),
    st.sampled_from(['"*"', '"mnist"', "[]", '["*"]', "true", "{}", '"a"', "1979-05-27", "nan"]),
    st.text(max_size=12).map(repr),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The path of the key file."""
    return tmp_path_factory.mktemp("keys") / "keys.toml"


def read(path, content):
    """Reads a file and checks that its clients are consistent."""
    path.write_bytes(content)
    try:
        clients = read_keys(path)
    except KeyFileError:
        return
    assert clients
    for client in clients:
        assert client.burst >= 1
        assert client.name
        assert client.may_use("mnist") in (True, False)
    assert KeyRing(path).find("never") is None


def test_any_bytes_give_clients_or_an_error(path, fuzz):
    """The content is random, or a valid file with changed bytes."""
    assert tomllib.loads(GOOD)
    spoilt = st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)).map(
        lambda pair: GOOD.encode()[: pair[0]] + bytes([pair[1]]) + GOOD.encode()[pair[0] + 1 :]
    )

    @fuzz
    @given(st.one_of(st.binary(max_size=300), spoilt))
    @example(b"\xff\xfe")
    @example(b'[[key]]\nname = "a"\nsha256 = "\\ud800"')
    def check(content):
        read(path, content)

    check()


def test_any_values_give_clients_or_an_error(path, fuzz):
    """The names are valid, and the values are arbitrary."""

    @fuzz
    @given(st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES), max_size=3))
    def check(tables):
        lines = []
        for table in tables:
            lines += ["[[key]]", *(f"{name} = {value}" for name, value in table.items())]
        read(path, "\n".join(lines).encode(errors="replace"))

    check()

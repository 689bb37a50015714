"""Tests of API keys: the key file, the lookup of a key, and reloading."""

import os
import tomllib

import pytest
import structlog

from imagemint.client.settings import UsageError, gather_settings
from imagemint.server.access.api_keys import (
    KeyFileError,
    KeyRing,
    compute_digest,
    generate_key,
    read_keys,
)
from imagemint.server.commands.key import Key

KEY = "imk_" + "k" * 43


def make_entry(name="augmentation", key=KEY, **more):
    """Returns the TOML of one client."""
    lines = [f'[[key]]\nname = "{name}"\nsha256 = "{compute_digest(key)}"']
    lines += [f"{field} = {value}" for field, value in more.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def path(tmp_path):
    """A key file of one client."""
    path = tmp_path / "keys.toml"
    path.write_text(make_entry())
    return path


@pytest.fixture
def clock():
    """A clock whose time the test sets."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def lines():
    """The records that are logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_key_is_found_by_its_digest(path):
    """Only the complete key finds its client."""
    ring = KeyRing(path)
    assert ring.find(KEY).name == "augmentation"
    for wrong in ("", KEY[:-1], KEY + "k", KEY.upper(), compute_digest(KEY), "k" * 10_000, "ß\x00"):
        assert ring.find(wrong) is None


def test_new_keys_are_long_and_distinct():
    """A key has 256 bits after a prefix that secret scanners recognize."""
    keys = {generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("imk_") and len(key) == 47 for key in keys)


def test_lookup_does_not_depend_on_the_number_of_keys(path):
    """A lookup among a thousand keys compares only a few."""
    path.write_text("".join(make_entry(f"c{i}", f"key {i}") for i in range(1_000)))
    ring = KeyRing(path)
    met = []

    class Digest(str):
        __slots__ = ()

        def __hash__(self):
            return str.__hash__(self)

        def __eq__(self, other):
            met.append(other)
            return str.__eq__(self, other)

    assert ring.find_by_digest(Digest(compute_digest("key 700"))).name == "c700"
    assert ring.find_by_digest(Digest(compute_digest("key 1000"))) is None
    assert len(met) < 10  # the right one, and a few with a similar hash


def test_client_may_have_two_keys(path):
    """A list of digests accepts the old and the new key during a rotation."""
    path.write_text(
        f'[[key]]\nname = "c"\nsha256 = ["{compute_digest("old")}", "{compute_digest("new")}"]\n'
    )
    ring = KeyRing(path)
    assert ring.find("old") == ring.find("new") is not None


def test_defaults_allow_everything_but_model_control(path):
    """By default a client may use all models at any rate, without model control."""
    (client,) = read_keys(path)
    assert client.may_use("anything")
    assert (client.rate_images_per_s, client.max_concurrent_calls) == (None, None)
    assert not client.model_control


def test_models_are_limited_to_the_list(path):
    """A client may use the listed models. An empty list allows none."""
    path.write_text(make_entry(models='["mnist"]'))
    (client,) = read_keys(path)
    assert client.may_use("mnist")
    assert not client.may_use("emoji")
    path.write_text(make_entry(models="[]"))
    assert not read_keys(path)[0].may_use("mnist")


@pytest.mark.parametrize(
    ("rate", "burst", "expected"), [("500", None, 500.0), ("0.5", None, 1.0), ("500", "7", 7.0)]
)
def test_default_burst_is_a_second_of_the_rate(path, rate, burst, expected):
    """The default burst is at least one image."""
    more = {"rate_images_per_s": rate} | ({"burst_images": burst} if burst else {})
    path.write_text(make_entry(**more))
    assert read_keys(path)[0].burst == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "key: "),
        ("key = []", "key: "),
        ("[[key]", "line 1"),
        (make_entry() + make_entry(key="other"), "same name"),
        (make_entry() + make_entry("other"), "same sha256"),
        (make_entry(rate_images_per_s="0"), "rate_images_per_s"),
        (make_entry(rate_images_per_s="nan"), "rate_images_per_s"),
        (make_entry(burst_images="5"), "burst_images requires rate_images_per_s"),
        (make_entry(max_concurrent_calls='"4"'), "max_concurrent_calls"),
        (make_entry(modles='["mnist"]'), "modles"),
        (make_entry(models='"mnist"'), "models"),
        (make_entry(models='["mnist", "*"]'), r"key.0.models: '\*' is not the name of a model"),
        (make_entry(models='[""]'), "models: '' is not"),
        (make_entry(name='a"b'), "line"),
        (make_entry(name="a b"), "name"),
        ("a = " + "[" * 100_000, "nested"),
        ("#" * (2**20 + 1), "larger than"),
    ],
)
def test_invalid_file_is_refused(path, text, why):
    """The error says which value is wrong, misspelt or of another type."""
    path.write_text(text)
    with pytest.raises(KeyFileError, match=why):
        read_keys(path)


@pytest.mark.parametrize(
    "text",
    [
        f'[[key]]\nname = "a"\nsha256 = "{KEY}"\n',
        f'[[key]]\nname = "{KEY}!"\nsha256 = "0"\n',
        f'[[key]]\nname = "a"\n{KEY} = 1\n',
        f"[[key]]\n{KEY}\n",
    ],
)
def test_error_does_not_repeat_a_key(path, text):
    """A key in the wrong place of the file does not appear in the log."""
    path.write_text(text)
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_file_is_refused(tmp_path):
    """The constructor raises an error with the path."""
    with pytest.raises(KeyFileError, match=r"none\.toml"):
        KeyRing(tmp_path / "none.toml")


def test_change_applies_within_a_second(path, clock, lines):
    """New keys are valid, removed ones are not, and permissions follow the file."""
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    path.write_text(make_entry(models='["mnist"]') + make_entry("new", "new key"))
    assert ring.find("new key") is None  # the file was checked a moment ago
    clock.now += 1.0
    assert ring.find("new key").name == "new"
    assert ring.find(KEY).models == ["mnist"]
    path.write_text(make_entry("new", "new key"))
    clock.now += 1.0
    assert ring.find(KEY) is None
    assert outcomes == [True, True]
    assert [line["event"] for line in lines] == ["api keys reloaded"] * 2


@pytest.mark.parametrize("text", ["", "[[key", None])
def test_invalid_change_keeps_the_keys(path, clock, lines, text):
    """An incomplete, invalid or missing file changes nothing and is logged once."""
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        clock.now += 1.0
        assert ring.find(KEY).name == "augmentation"
        assert ring.is_refused
    assert outcomes == [False]
    assert [line["log_level"] for line in lines] == ["error"]
    path.write_text(make_entry("again"))
    clock.now += 1.0
    assert ring.find(KEY).name == "again"
    assert not ring.is_refused


def test_file_that_comes_back_is_not_refused(path, clock):
    """A file that was missing for a moment has no new content to apply."""
    ring = KeyRing(path, clock=clock)
    text = path.read_text()
    path.unlink()
    clock.now += 1.0
    ring.reload_if_changed()
    assert ring.is_refused
    path.write_text(text)
    clock.now += 1.0
    ring.reload_if_changed()
    assert not ring.is_refused


@pytest.mark.parametrize("swapped", ["..data", "keys.toml"])
def test_swapped_link_is_a_change(tmp_path, clock, swapped, monkeypatch):
    """The link may be the directory, as Kubernetes swaps secrets, or the file itself."""
    # Files count as settled, so that only their metadata show a change.
    monkeypatch.setattr("imagemint.server.file_changes._SETTLED_S", -1.0)
    links = {"..data": "..{}", "keys.toml": "..{}/keys.toml"}
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}/keys.toml").write_text(make_entry(name))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    ring = KeyRing(tmp_path / "keys.toml", clock=clock)
    assert ring.find(KEY).name == "one"
    (tmp_path / "next").symlink_to(links[swapped].format("two"))
    (tmp_path / "next").replace(tmp_path / swapped)
    clock.now += 1.0
    assert ring.find(KEY).name == "two"


def test_failed_read_is_repeated(path, clock, lines):
    """A read that fails is repeated although the file does not change again.

    A revoked key is refused.
    """
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    path.write_text(make_entry("other", "other key"))
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    clock.now += 1.0
    assert ring.find(KEY).name == "augmentation"
    path.rmdir()
    path.with_suffix(".away").rename(path)
    clock.now += 1.0
    assert ring.find(KEY) is None
    assert ring.find("other key").name == "other"
    assert outcomes == [False, True]


def test_pipe_as_key_file_is_refused(path, clock, lines):
    """A named pipe without a writer neither blocks the server nor changes the keys."""
    ring = KeyRing(path, clock=clock)
    path.unlink()
    os.mkfifo(path)
    clock.now += 1.0
    assert ring.find(KEY).name == "augmentation"
    assert "not a regular file" in lines[0]["why"]
    with pytest.raises(KeyFileError, match="not a regular file"):
        KeyRing(path)


def test_command_prints_the_entry_and_the_key(path, capsys):
    """Stdout has the entry for the file, and stderr the key, which is stored nowhere."""
    arguments = ["loader", "--models", "mnist,emoji", "--rate-images-per-s", "250"]
    arguments += ["--burst-images", "1000", "--max-concurrent-calls", "8", "--model-control"]
    assert gather_settings(Key, "imagemint key", arguments).run() == 0
    out, err = capsys.readouterr()
    key = err.splitlines()[-1]
    assert key not in out
    with path.open("a") as file:
        file.write(out)
    client = KeyRing(path).find(key)
    assert (client.name, client.models) == ("loader", ["mnist", "emoji"])
    assert (client.rate_images_per_s, client.burst, client.max_concurrent_calls) == (250, 1000, 8)
    assert client.model_control


def test_command_omits_defaults(capsys):
    """Options that are not given are not in the entry."""
    assert gather_settings(Key, "imagemint key", ["plain"]).run() == 0
    assert set(tomllib.loads(capsys.readouterr().out)["key"][0]) == {"name", "sha256"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a b"], "name: "),
        (["a", "--burst-images", "3"], "burst_images requires rate_images_per_s"),
        (["a", "--models", "mnist,Emoji"], "models: 'Emoji' is not the name of a model"),
        ([], "required"),
    ],
)
def test_command_refuses_what_the_file_would_refuse(arguments, told):
    """The command checks its arguments before it makes a key, and says what is wrong."""
    with pytest.raises(UsageError) as caught:
        gather_settings(Key, "imagemint key", arguments)
    (fault,) = caught.value.faults
    assert fault.startswith(told) or told == "required" in fault

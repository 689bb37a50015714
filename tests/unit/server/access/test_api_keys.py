"""API keys: what a file may say, whose key it is, and how a change of the file is taken."""

import os
import tomllib

import pytest
import structlog

from imagemint.client.settings import UsageError, gather_settings
from imagemint.server.access.api_keys import (
    KeyFileError,
    KeyRing,
    compute_digest,
    new_key,
    read_keys,
)
from imagemint.server.commands.key import Key

KEY = "imk_" + "k" * 43


def entry(name="augmentation", key=KEY, **more):
    """The TOML of one client."""
    lines = [f'[[key]]\nname = "{name}"\nsha256 = "{compute_digest(key)}"']
    lines += [f"{field} = {value}" for field, value in more.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def path(tmp_path):
    """A file of one client."""
    path = tmp_path / "keys.toml"
    path.write_text(entry())
    return path


@pytest.fixture
def clock():
    """A clock that the test moves."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def lines():
    """What is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_key_is_found_by_its_digest(path):
    """The whole key leads to its client; a part, another case or nothing lead to nobody."""
    ring = KeyRing(path)
    assert ring.find(KEY).name == "augmentation"
    for wrong in ("", KEY[:-1], KEY + "k", KEY.upper(), compute_digest(KEY), "k" * 10_000, "ß\x00"):
        assert ring.find(wrong) is None


def test_new_keys_differ_and_are_long():
    """256 bits each, behind a prefix that scanners know."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("imk_") and len(key) == 47 for key in keys)


def test_lookup_does_not_grow_with_the_keys(path):
    """A key among a thousand is found without looking at the others."""
    path.write_text("".join(entry(f"c{i}", f"key {i}") for i in range(1_000)))
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
    assert len(met) < 10  # the one that is right, and some whose hash begins alike


def test_two_keys_serve_one_client_during_rotation(path):
    """A list of digests lets the old and the new key in."""
    path.write_text(
        f'[[key]]\nname = "c"\nsha256 = ["{compute_digest("old")}", "{compute_digest("new")}"]\n'
    )
    ring = KeyRing(path)
    assert ring.find("old") == ring.find("new") is not None


def test_defaults_allow_everything_but_control(path):
    """All models, any rate, any number of calls; no control of models."""
    (client,) = read_keys(path)
    assert client.may_use("anything")
    assert (client.rate_images_per_s, client.max_concurrent_calls) == (None, None)
    assert not client.model_control


def test_models_are_those_listed(path):
    """A list is all that may be used; an empty one is nothing."""
    path.write_text(entry(models='["mnist"]'))
    (client,) = read_keys(path)
    assert client.may_use("mnist")
    assert not client.may_use("emoji")
    path.write_text(entry(models="[]"))
    assert not read_keys(path)[0].may_use("mnist")


@pytest.mark.parametrize(
    ("rate", "burst", "expected"), [("500", None, 500.0), ("0.5", None, 1.0), ("500", "7", 7.0)]
)
def test_burst_is_a_second_of_the_rate_by_default(path, rate, burst, expected):
    """And one image at least."""
    more = {"rate_images_per_s": rate} | ({"burst_images": burst} if burst else {})
    path.write_text(entry(**more))
    assert read_keys(path)[0].burst == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "key: "),
        ("key = []", "key: "),
        ("[[key]", "line 1"),
        (entry() + entry(key="other"), "same name"),
        (entry() + entry("other"), "same sha256"),
        (entry(rate_images_per_s="0"), "rate_images_per_s"),
        (entry(rate_images_per_s="nan"), "rate_images_per_s"),
        (entry(burst_images="5"), "burst_images requires rate_images_per_s"),
        (entry(max_concurrent_calls='"4"'), "max_concurrent_calls"),
        (entry(modles='["mnist"]'), "modles"),
        (entry(models='"mnist"'), "models"),
        (entry(name='a"b'), "line"),
        (entry(name="a b"), "name"),
        ("a = " + "[" * 100_000, "nested"),
        ("#" * (2**20 + 1), "larger than"),
    ],
)
def test_bad_file_is_refused(path, text, why):
    """Everything that is wrong, misspelt or of another type is said."""
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
def test_fault_does_not_repeat_a_key(path, text):
    """A key that was pasted where something else belongs stays out of the log."""
    path.write_text(text)
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_file_is_refused(tmp_path):
    """From the start, with its path."""
    with pytest.raises(KeyFileError, match=r"none\.toml"):
        KeyRing(tmp_path / "none.toml")


def test_change_is_taken_within_a_second(path, clock, lines):
    """New keys are in, old ones out, and what a client may is what the file says now."""
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    path.write_text(entry(models='["mnist"]') + entry("new", "new key"))
    assert ring.find("new key") is None  # looked a moment ago
    clock.now += 1.0
    assert ring.find("new key").name == "new"
    assert ring.find(KEY).models == ["mnist"]
    path.write_text(entry("new", "new key"))
    clock.now += 1.0
    assert ring.find(KEY) is None
    assert outcomes == [True, True]
    assert [line["event"] for line in lines] == ["api keys reloaded"] * 2


@pytest.mark.parametrize("text", ["", "[[key", None])
def test_bad_change_keeps_the_keys(path, clock, lines, text):
    """A file that is half-written, broken or gone changes nothing, and is told once."""
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        clock.now += 1.0
        assert ring.find(KEY).name == "augmentation"
    assert outcomes == [False]
    assert [line["log_level"] for line in lines] == ["error"]
    path.write_text(entry("again"))
    clock.now += 1.0
    assert ring.find(KEY).name == "again"


@pytest.mark.parametrize("swapped", ["..data", "keys.toml"])
def test_swapped_link_is_a_change(tmp_path, clock, swapped, monkeypatch):
    """Of the directory, as Kubernetes swaps secrets, or of the file itself."""
    # Files count as old, so that only their metadata tell whether they have changed.
    monkeypatch.setattr("imagemint.server.file_changes._SETTLED_S", -1.0)
    links = {"..data": "..{}", "keys.toml": "..{}/keys.toml"}
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}/keys.toml").write_text(entry(name))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    ring = KeyRing(tmp_path / "keys.toml", clock=clock)
    assert ring.find(KEY).name == "one"
    (tmp_path / "next").symlink_to(links[swapped].format("two"))
    (tmp_path / "next").replace(tmp_path / swapped)
    clock.now += 1.0
    assert ring.find(KEY).name == "two"


def test_key_revoked_while_reads_fail_is_refused_after_them(path, clock, lines):
    """A read that fails is tried again, although the file does not change once more."""
    outcomes = []
    ring = KeyRing(path, outcomes.append, clock)
    path.write_text(entry("other", "other key"))
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


def test_pipe_in_place_of_the_file_is_refused(path, clock, lines):
    """A named pipe without a writer neither hangs the server nor changes the keys."""
    ring = KeyRing(path, clock=clock)
    path.unlink()
    os.mkfifo(path)
    clock.now += 1.0
    assert ring.find(KEY).name == "augmentation"
    assert "not a regular file" in lines[0]["why"]
    with pytest.raises(KeyFileError, match="not a regular file"):
        KeyRing(path)


def test_command_prints_lines_for_the_file(path, capsys):
    """Stdout is what the file takes, stderr the key that opens it, and it is written nowhere."""
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


def test_command_writes_only_what_was_said(capsys):
    """What is left out of the lines has the default of the file."""
    assert gather_settings(Key, "imagemint key", ["plain"]).run() == 0
    assert set(tomllib.loads(capsys.readouterr().out)["key"][0]) == {"name", "sha256"}


@pytest.mark.parametrize("arguments", [["a b"], ["a", "--burst-images", "3"], []])
def test_command_refuses_what_the_file_would(arguments):
    """Before a key is made."""
    with pytest.raises(UsageError):
        gather_settings(Key, "imagemint key", arguments)

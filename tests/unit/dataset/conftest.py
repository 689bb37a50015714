"""Fixtures: small data sets of a tiny model, made by the command in this process."""

import pytest
from tiny_bundles import write_bundle, write_critic, write_variant

from imagemint.client.cli import main

COUNT, SHARD = 50, 20


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A repository of `tiny` (with a variant), `judged` (with a critic) and other models."""
    repository = tmp_path_factory.mktemp("models")
    write_variant(write_bundle(repository))
    write_bundle(repository, "plain", conditional=False, size=(5, 3, 3))
    write_bundle(repository, "bounded", truncation="threshold")
    write_bundle(repository, "styled", truncation="psi")
    write_bundle(repository, "told", captions=True)
    write_critic(write_bundle(repository, "judged"))
    return repository


@pytest.fixture
def arguments(models):
    """A function that returns the command line of a data set.

    Settings replace the defaults, and None removes one.
    """

    def build(**settings):
        settings = {
            "repository": models,
            "model": "tiny",
            "count": COUNT,
            "shard-size": SHARD,
            "seed": 7,
            "classes": "balanced",
            "format": "npz",
            "workers": 1,
        } | {name.replace("_", "-"): value for name, value in settings.items()}
        flags = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in settings.items()
            if value is not None
        ]
        return ["dataset", "--local", *flags]

    return build


@pytest.fixture
def make(arguments):
    """A function that makes or continues a data set and returns the exit status."""

    def run(out, **settings):
        return main(arguments(out=out, **settings))

    return run


@pytest.fixture
def refusal(make, capsys):
    """A function that runs a command that must fail and returns its message."""

    def run(out, status=1, **settings):
        assert make(out, **settings) == status
        return capsys.readouterr().err

    return run


def list_contents(folder):
    """Returns the bytes of each file of a folder by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def contents():
    """A function that returns the bytes of each file of a folder by its name."""
    return list_contents


@pytest.fixture
def interrupt_before_sums(make, monkeypatch):
    """A function that makes all shards and fails before the card and the checksums."""

    class InterruptionError(Exception):
        pass

    def fail(*_, **__):
        raise InterruptionError

    def run(out, **settings):
        with monkeypatch.context() as patch:
            patch.setattr("imagemint.dataset.command.finish", fail)
            with pytest.raises(InterruptionError):
                make(out, **settings)

    return run

"""Tests of the setting `require_signature`."""

import pytest
from tiny_bundles import sign, write_bundle

from imagemint.engine.bundle.signatures import SigningKey
from imagemint.server.repository import State
from imagemint.server.repository.key_file import KeyFile

OLD, NEW = SigningKey.generate(), SigningKey.generate()


@pytest.fixture
def keys(tmp_path):
    """The path of a file with the public key OLD."""
    path = tmp_path / "keys.pem"
    path.write_bytes(OLD.to_public_pem())
    return path


def test_unsigned_version_affects_no_other(tmp_path, keys, new_repository):
    """The version is FAILED with the reason, and serves when it is signed."""
    models = tmp_path / "models"
    sign(OLD, write_bundle(models, "good"))
    sign(OLD, write_bundle(models, "tiny", 1))
    unsigned = write_bundle(models, "tiny", 2, weights_seed=2)
    repository = new_repository(models, keys=KeyFile(keys))
    assert repository.resolve("good").version == 1
    assert repository.resolve("tiny").version == 1
    refused = repository.get_model("tiny").versions[2]
    assert refused.state is State.FAILED
    assert refused.reason == "it is not signed: SHA256SUMS.sig is missing"
    sign(OLD, unsigned)
    repository.refresh()
    assert repository.resolve("tiny").version == 2


def test_keys_are_replaced_without_a_restart(tmp_path, keys, new_repository):
    """A key that is added to the file is valid for the next bundle."""
    models = tmp_path / "models"
    sign(OLD, write_bundle(models, "tiny", 1))
    repository = new_repository(models, keys=KeyFile(keys))
    sign(NEW, write_bundle(models, "tiny", 2))
    repository.refresh()
    assert repository.get_model("tiny").versions[2].state is State.FAILED
    keys.write_bytes(OLD.to_public_pem() + NEW.to_public_pem())
    sign(NEW, write_bundle(models, "tiny", 3))
    repository.refresh()
    assert repository.resolve("tiny").version == 3
    assert repository.get_model("tiny").versions[2].state is State.FAILED
    repository.load_model("tiny")
    assert repository.get_model("tiny").versions[2].state is State.READY


def test_lost_keys_refuse_every_new_bundle(tmp_path, keys, new_repository):
    """Served versions continue, and the load is retried."""
    models = tmp_path / "models"
    sign(OLD, write_bundle(models, "tiny", 1))
    repository = new_repository(models, keys=KeyFile(keys))
    keys.unlink()
    sign(OLD, write_bundle(models, "tiny", 2))
    repository.refresh()
    assert repository.resolve("tiny").version == 1
    reason = repository.get_model("tiny").versions[2].reason
    assert "the trusted keys are not readable; next attempt in 5 s" in reason


def test_unusable_file_of_keys_ends_the_start(tmp_path):
    """The message has the path and the reason."""
    path = tmp_path / "keys.pem"
    path.write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"keys\.pem: it contains no PEM public key"):
        KeyFile(path)

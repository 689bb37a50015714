"""Tests of the command `imagemint sign`: keys, and bundles that were exported before."""

import stat

import pytest
from tiny_bundles import write_bundle, write_sums

from imagemint.client import cli
from imagemint.engine import bundle as bundles
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.signatures import TrustedKeys
from imagemint.engine.errors import BundleRefused


def test_keys_sign_bundles(tmp_path, capsys):
    """The public key accepts signatures of the private one, which only the owner can read."""
    assert cli.main(["sign", "key", str(tmp_path / "release.v1")]) == 0
    private, public = tmp_path / "release.v1.pem", tmp_path / "release.v1.pub.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    directories = [write_bundle(tmp_path / "models", "tiny", version) for version in (1, 2)]
    assert cli.main(["sign", "bundle", *map(str, directories), f"--key={private}"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["signed tiny@1", "signed tiny@2"]
    trusted = TrustedKeys.of_pem(public.read_bytes())
    for directory in directories:
        read_bundle(directory, trusted=trusted)


@pytest.mark.parametrize("ending", [".pem", ".pub.pem"])
def test_key_is_never_replaced(tmp_path, capsys, ending):
    """Neither file is changed if one of them exists."""
    (tmp_path / f"release{ending}").write_text("mine")
    assert cli.main(["sign", "key", str(tmp_path / "release")]) == 1
    assert "a key is never replaced" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_damaged_bundle_is_not_signed(tmp_path, capsys):
    """No other bundle of the same call is signed."""
    assert cli.main(["sign", "key", str(tmp_path / "release")]) == 0
    directories = [write_bundle(tmp_path / "models", "tiny", version) for version in (1, 2)]
    (directories[1] / "card.md").write_text("altered")
    command = ["sign", "bundle", *map(str, directories), f"--key={tmp_path / 'release.pem'}"]
    assert cli.main(command) == 1
    assert "checksum mismatch: card.md" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.sig"))


def test_bundle_that_changes_meanwhile_is_not_signed(tmp_path, monkeypatch):
    """The signature is of the digests that were checked, so a server refuses the others."""
    assert cli.main(["sign", "key", str(tmp_path / "release")]) == 0
    directory = write_bundle(tmp_path / "models", "tiny")
    trusted = TrustedKeys.of_pem((tmp_path / "release.pub.pem").read_bytes())

    def read_and_change(directory):
        checked = read_bundle(directory)
        (directory / "card.md").write_text("altered")
        write_sums(directory)
        return checked

    monkeypatch.setattr(bundles, "read_bundle", read_and_change)
    assert cli.main(["sign", "bundle", str(directory), f"--key={tmp_path / 'release.pem'}"]) == 0
    with pytest.raises(BundleRefused, match="is not a signature"):
        read_bundle(directory, trusted=trusted)


def test_wrong_file_is_no_key(tmp_path, capsys):
    """The message names the file."""
    directory = write_bundle(tmp_path, "tiny")
    assert cli.main(["sign", "bundle", str(directory), f"--key={directory / 'card.md'}"]) == 1
    assert "card.md: it contains no PEM private key" in capsys.readouterr().err

"""Tests of imagemint.engine.bundle.signatures."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tiny_bundles import sign, write_bundle, write_sums

from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.signatures import SigningKey, TrustedKeys
from imagemint.engine.errors import BundleRefused
from imagemint.engine.trial.trials import TrialOptions, Trials

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TRUSTED = TrustedKeys.of_pem(KEY.to_public_pem())
SIGNATURE = "SHA256SUMS.sig"


@pytest.fixture
def bundle(tmp_path):
    """The directory of a bundle that KEY has signed."""
    directory = write_bundle(tmp_path, "tiny")
    sign(KEY, directory)
    return directory


def refusal(directory, trusted=TRUSTED):
    """Returns the reason for which a bundle is refused."""
    with pytest.raises(BundleRefused) as caught:
        read_bundle(directory, trusted=trusted)
    return caught.value.why


def test_signed_bundle_is_read(bundle):
    """The signature is checked if keys are given, and ignored otherwise."""
    assert read_bundle(bundle, trusted=TRUSTED) == read_bundle(bundle)
    assert (bundle / SIGNATURE).stat().st_size == 64


def test_several_keys_are_trusted(bundle):
    """While a key is replaced, servers have the old and the new one, in any order."""
    pem = b"# the new key\n" + OTHER.to_public_pem() + b"\n# the old key\n" + KEY.to_public_pem()
    trusted = TrustedKeys.of_pem(pem)
    assert read_bundle(bundle, trusted=trusted).version == 1
    sign(OTHER, bundle)
    assert read_bundle(bundle, trusted=trusted).version == 1
    assert read_bundle(bundle, trusted=TrustedKeys.of_pem(trusted.to_pem().encode())).version == 1


def test_unsigned_bundle_is_refused(bundle):
    """The reason names the missing file."""
    (bundle / SIGNATURE).unlink()
    assert refusal(bundle) == "it is not signed: SHA256SUMS.sig is missing"


def test_checked_bytes_are_signed(tmp_path):
    """The digests that were checked are signed, and not those that replaced them meanwhile."""
    directory = write_bundle(tmp_path, "tiny")
    checked = read_bundle(directory)
    (directory / "card.md").write_text("# Better than it is\n")
    write_sums(directory)
    KEY.sign(directory, checked.sums)
    assert "is not a signature" in refusal(directory)
    TRUSTED.check(checked.sums, (directory / SIGNATURE).read_bytes())


@pytest.mark.parametrize("draft", [True, False])
def test_signature_replaces_links(tmp_path, draft):
    """Neither a link in place of the signature nor one in place of its draft is followed."""
    directory = write_bundle(tmp_path / "models", "tiny")
    other = tmp_path / "other"
    other.write_text("mine")
    (directory / (f".{SIGNATURE}" if draft else SIGNATURE)).symlink_to(other)
    sign(KEY, directory)
    assert other.read_text() == "mine"
    assert not (directory / SIGNATURE).is_symlink()
    assert not (directory / f".{SIGNATURE}").exists()
    assert read_bundle(directory, trusted=TRUSTED).version == 1


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 1000])
def test_other_bytes_are_no_signature(bundle, content):
    """A file of any other size or content is not a signature."""
    (bundle / SIGNATURE).write_bytes(content)
    assert "is not a signature of SHA256SUMS by one of the 1 trusted keys" in refusal(bundle)


def test_signature_of_another_key_is_refused(bundle):
    """The signature is valid, but was made with another key."""
    sign(OTHER, bundle)
    assert "is not a signature" in refusal(bundle)


@pytest.mark.parametrize("name", ["card.md", "model.onnx"])
def test_altered_bundle_is_refused(bundle, name):
    """New digests need a new signature; without new digests, the files do not match."""
    (bundle / name).write_bytes((bundle / name).read_bytes() + b"!")
    assert f"checksum mismatch: {name}" in refusal(bundle)
    (bundle / SIGNATURE).rename(bundle.parent / SIGNATURE)
    write_sums(bundle)
    (bundle.parent / SIGNATURE).rename(bundle / SIGNATURE)
    assert "is not a signature" in refusal(bundle)


def test_trial_checks_the_signature(bundle):
    """The process that loads an untrusted graph refuses it before it reads the graph."""
    options = TrialOptions(timeout_s=60, max_bytes=2**20, max_image_memory_bytes=2**30)
    trials = Trials(options)
    sign(OTHER, bundle)
    with pytest.raises(BundleRefused, match="is not a signature"):
        trials.run(bundle, "reference", TRUSTED.to_pem())


def private_pem(key, encryption=None):
    """Returns a private key as PEM."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, encryption or serialization.NoEncryption())


def public_pem(key):
    """Returns the public key of a private key as PEM."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form)


def test_unusable_private_keys_are_refused():
    """The message states the reason."""
    encrypted = private_pem(
        ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"secret")
    )
    cases = {
        "is encrypted": encrypted,
        "not of the kind Ed25519": private_pem(ec.generate_private_key(ec.SECP256R1())),
        "no PEM private key": KEY.to_public_pem(),
    }
    for why, content in cases.items():
        with pytest.raises(ValueError, match=why):
            SigningKey.of_pem(content)


def test_unusable_public_keys_are_refused():
    """One wrong key in a file is an error, and is not ignored."""
    cases = {
        "no PEM public key": b"",
        "something other than PEM public keys": KEY.to_public_pem() + KEY.to_private_pem(),
        "not of the kind Ed25519": public_pem(ec.generate_private_key(ec.SECP256R1())),
    }
    for why, content in cases.items():
        with pytest.raises(ValueError, match=why):
            TrustedKeys.of_pem(content)

"""Certificates: a whole new pair is taken, anything else leaves the old one in use."""

import pytest
import structlog
import trustme

from imagemint.server.rpc.tls import CertificateError, Certificates


@pytest.fixture
def pair(authority, write_certificate, tmp_path):
    """Paths of a certificate and its key."""
    return write_certificate(authority, tmp_path)


def test_unchanged_files_are_not_read_again(pair):
    """A handshake costs a look at the files."""
    certificates = Certificates(*pair)
    assert certificates.changed() is None


def test_new_pair_is_taken_once(pair, authority, write_certificate, tmp_path):
    """The next handshake gets it; the one after that no change."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    write_certificate(authority, tmp_path)
    assert certificates.changed() is not None
    assert certificates.changed() is None
    assert outcomes == [True]


def half_written(certificate, key):
    """As if the copy were still under way."""
    certificate.write_bytes(certificate.read_bytes()[:200])


def without_its_key(certificate, key):
    """The new certificate lies there, its key not yet."""
    certificate.write_bytes(trustme.CA().issue_cert("mint.test").cert_chain_pems[0].bytes())


def encrypted_key(certificate, key):
    """A key that wants a password, for which nobody must be asked."""
    key.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBXBgkqhkiG9w0BBQ0wSjApBgkq\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n"
    )


def gone(certificate, key):
    """Nothing there."""
    key.unlink()


def empty(certificate, key):
    """Truncated to nothing."""
    certificate.write_bytes(b"")


DAMAGES = [half_written, without_its_key, encrypted_key, gone, empty]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_bad_change_keeps_the_pair(pair, authority, write_certificate, tmp_path, damage):
    """It is told once, without contents, and the pair that comes after it is taken."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    secret = pair[1].read_text().splitlines()[1]
    damage(*pair)
    with structlog.testing.capture_logs() as lines:
        assert certificates.changed() is None
        assert certificates.changed() is None
    assert outcomes == [False]
    assert [line["log_level"] for line in lines] == ["error"]
    assert secret not in str(lines)
    write_certificate(authority, tmp_path)
    assert certificates.changed() is not None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_bad_start_is_refused(pair, damage):
    """With the path of the file at fault."""
    damage(*pair)
    with pytest.raises(CertificateError, match=r"server\.(pem|key)"):
        Certificates(*pair)


def test_bad_authority_is_refused(pair, tmp_path):
    """Clients could not be checked against it."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        Certificates(*pair, tmp_path / "ca.pem")

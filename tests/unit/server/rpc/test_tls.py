"""Certificates: a whole new pair is taken, anything else leaves the old one in use."""

import datetime as dt
import os

import pytest
import structlog
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imagemint.server.rpc.tls import CertificateError, Certificates


@pytest.fixture
def pair(authority, write_certificate, tmp_path):
    """Paths of a certificate and its key."""
    return write_certificate(authority, tmp_path)


def test_unchanged_files_are_not_read_again(pair):
    """A handshake costs a look at the files."""
    certificates = Certificates(*pair)
    assert certificates.read_changes() is None


def test_new_pair_is_taken_once(pair, authority, write_certificate, tmp_path):
    """The next handshake gets it; the one after that no change."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    write_certificate(authority, tmp_path)
    assert certificates.read_changes() is not None
    assert certificates.read_changes() is None
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


def dated(certificate, key, *, days):
    """A certificate and its key that are valid for one day, beginning `days` from now."""
    begin = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    until = begin + dt.timedelta(days=1)
    issued = trustme.CA().issue_cert("mint.test", not_before=begin, not_after=until)
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())


def expired(certificate, key):
    """It was valid until yesterday."""
    dated(certificate, key, days=-2)


def not_yet_valid(certificate, key):
    """It is valid from tomorrow on."""
    dated(certificate, key, days=1)


def pipe(certificate, key):
    """A named pipe that nobody writes to lies in place of the key."""
    key.unlink()
    os.mkfifo(key)


DAMAGES = [half_written, without_its_key, encrypted_key, gone, empty, expired, not_yet_valid, pipe]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_bad_change_keeps_the_pair(pair, authority, write_certificate, tmp_path, damage):
    """It is told once, without contents, and the pair that comes after it is taken."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    secret = pair[1].read_text().splitlines()[1]
    damage(*pair)
    with structlog.testing.capture_logs() as lines:
        assert certificates.read_changes() is None
        assert certificates.read_changes() is None
    assert outcomes == [False]
    assert [line["log_level"] for line in lines] == ["error"]
    assert secret not in str(lines)
    for path in pair:
        path.unlink(missing_ok=True)
    write_certificate(authority, tmp_path)
    assert certificates.read_changes() is not None


@pytest.mark.parametrize(
    ("damage", "why"), [(expired, "has expired"), (not_yet_valid, "is not yet valid")]
)
def test_reason_names_the_dates(pair, damage, why):
    """What OpenSSL says of them."""
    certificates = Certificates(*pair)
    damage(*pair)
    with structlog.testing.capture_logs() as lines:
        assert certificates.read_changes() is None
    assert why in lines[0]["why"]


def test_certificate_is_taken_once_it_is_valid(pair, authority, write_certificate, tmp_path):
    """A refused pair is tried again after a while, although its files have not changed."""
    now = [0.0]
    certificates = Certificates(*pair, clock=lambda: now[0])
    not_yet_valid(*pair)
    assert certificates.read_changes() is None
    with pytest.MonkeyPatch.context() as patch:  # in place of a day that passes
        patch.setattr("imagemint.server.rpc.tls._run_handshake", lambda *_: None)
        assert certificates.read_changes() is None
        now[0] += 10.0
        assert certificates.read_changes() is not None
        assert certificates.read_changes() is None


def test_change_behind_a_failed_read_is_taken(pair, authority, write_certificate, tmp_path):
    """The new pair lies there while a read fails; it is taken once the read succeeds."""
    certificates = Certificates(*pair)
    write_certificate(authority, tmp_path)
    away = pair[1].with_suffix(".away")
    pair[1].rename(away)
    assert certificates.read_changes() is None
    away.rename(pair[1])
    assert certificates.read_changes() is not None


@pytest.mark.parametrize("swapped", ["..data", "server.pem"])
def test_swapped_link_is_a_change(authority, write_certificate, tmp_path, swapped, monkeypatch):
    """Of the directory, as Kubernetes swaps secrets, or of the files themselves."""
    # Files count as old, so that only their metadata tell whether they have changed.
    monkeypatch.setattr("imagemint.server.file_changes._SETTLED_S", -1.0)
    for name in ("..one", "..two"):
        (tmp_path / name).mkdir()
        write_certificate(authority, tmp_path / name)
    (tmp_path / "..data").symlink_to("..one")
    pair = tmp_path / "server.pem", tmp_path / "server.key"
    for path in pair:
        path.symlink_to(f"..data/{path.name}")
    certificates = Certificates(*pair)
    if swapped == "..data":
        _replace(tmp_path / "..data", "..two")
    else:
        for path in pair:
            _replace(path, f"..two/{path.name}")
    assert certificates.read_changes() is not None


def _replace(link, target):
    """Points a link elsewhere, without a moment in which it is gone."""
    link.with_name("..next").symlink_to(target)
    link.with_name("..next").replace(link)


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


def test_expired_authority_is_refused(pair, tmp_path):
    """No client could show a certificate of it."""
    path = tmp_path / "ca.pem"
    path.write_bytes(_authority(days=-2))
    with pytest.raises(CertificateError, match="expired"):
        Certificates(*pair, path)
    path.write_bytes(_authority(days=-2) + trustme.CA().cert_pem.bytes())
    assert Certificates(*pair, path)


def _authority(*, days):
    """The certificate of an authority that is valid for one day, beginning `days` from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    begin = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

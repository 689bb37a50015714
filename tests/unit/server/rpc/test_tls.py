"""Tests of certificates: a complete new pair is used, and otherwise the old one stays."""

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
    """The paths of a certificate and its key."""
    return write_certificate(authority, tmp_path)


def test_unchanged_files_are_not_read(pair):
    """A handshake only checks the metadata of the files."""
    certificates = Certificates(*pair)
    assert certificates.read_changes() is None


def test_new_pair_is_returned_once(pair, authority, write_certificate, tmp_path):
    """The next handshake gets the new pair, and the one after it gets no change."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    write_certificate(authority, tmp_path)
    assert certificates.read_changes() is not None
    assert certificates.read_changes() is None
    assert outcomes == [True]


def test_expiry_is_that_of_the_certificate_in_use(pair, authority, tmp_path):
    """The file has the chain behind the server's certificate, which comes first."""
    certificates = Certificates(*pair)
    assert certificates.expires_s == read_expiry(pair[0])
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    issued = authority.issue_cert("mint.test", not_after=soon)
    pair[1].write_bytes(issued.private_key_pem.bytes())
    pair[0].write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    assert certificates.read_changes() is not None
    assert certificates.expires_s == read_expiry(pair[0]) < soon.timestamp() + 1


def read_expiry(path):
    """Returns the Unix time at which the first certificate of a file expires."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def write_half(certificate, key):
    """Truncates the certificate, as if a copy were under way."""
    certificate.write_bytes(certificate.read_bytes()[:200])


def write_without_key(certificate, key):
    """Replaces the certificate but not its key."""
    certificate.write_bytes(trustme.CA().issue_cert("mint.test").cert_chain_pems[0].bytes())


def encrypt_key(certificate, key):
    """Replaces the key by one that needs a password, which the server must not ask for."""
    key.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBXBgkqhkiG9w0BBQ0wSjApBgkq\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n"
    )


def remove_key(certificate, key):
    """Removes the key."""
    key.unlink()


def truncate_to_nothing(certificate, key):
    """Truncates the certificate to an empty file."""
    certificate.write_bytes(b"")


def write_dated(certificate, key, *, days):
    """Writes a certificate and key that are valid for one day, starting `days` from now."""
    begin = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    until = begin + dt.timedelta(days=1)
    issued = trustme.CA().issue_cert("mint.test", not_before=begin, not_after=until)
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.write_bytes(issued.private_key_pem.bytes())


def write_expired(certificate, key):
    """Writes a certificate that expired yesterday."""
    write_dated(certificate, key, days=-2)


def write_not_yet_valid(certificate, key):
    """Writes a certificate that is valid from tomorrow."""
    write_dated(certificate, key, days=1)


def replace_key_by_pipe(certificate, key):
    """Replaces the key by a named pipe without a writer."""
    key.unlink()
    os.mkfifo(key)


DAMAGES = [
    write_half,
    write_without_key,
    encrypt_key,
    remove_key,
    truncate_to_nothing,
    write_expired,
    write_not_yet_valid,
    replace_key_by_pipe,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_invalid_change_keeps_the_pair(pair, authority, write_certificate, tmp_path, damage):
    """The error is logged once, without contents. The next valid pair is used."""
    outcomes = []
    certificates = Certificates(*pair, on_reload=outcomes.append)
    expires_s = certificates.expires_s
    secret = pair[1].read_text().splitlines()[1]
    damage(*pair)
    with structlog.testing.capture_logs() as lines:
        assert certificates.read_changes() is None
        assert certificates.read_changes() is None
    assert outcomes == [False]
    assert certificates.is_refused
    assert certificates.expires_s == expires_s
    assert [line["log_level"] for line in lines] == ["error"]
    assert secret not in str(lines)
    for path in pair:
        path.unlink(missing_ok=True)
    write_certificate(authority, tmp_path)
    assert certificates.read_changes() is not None
    assert not certificates.is_refused


@pytest.mark.parametrize(
    ("damage", "why"), [(write_expired, "has expired"), (write_not_yet_valid, "is not yet valid")]
)
def test_reason_has_the_dates(pair, damage, why):
    """The reason has OpenSSL's message about the dates."""
    certificates = Certificates(*pair)
    damage(*pair)
    with structlog.testing.capture_logs() as lines:
        assert certificates.read_changes() is None
    assert why in lines[0]["why"]


def test_certificate_is_used_when_it_becomes_valid(pair, authority, write_certificate, tmp_path):
    """A refused pair is checked again after a while although its files have not changed."""
    now = [0.0]
    certificates = Certificates(*pair, clock=lambda: now[0])
    write_not_yet_valid(*pair)
    assert certificates.read_changes() is None
    with pytest.MonkeyPatch.context() as patch:  # instead of waiting for a day
        patch.setattr("imagemint.server.rpc.tls._run_handshake", lambda *_: None)
        assert certificates.read_changes() is None
        now[0] += 10.0
        assert certificates.read_changes() is not None
        assert certificates.read_changes() is None


def test_change_during_a_failed_read_is_used(pair, authority, write_certificate, tmp_path):
    """A pair that is written while reads fail is used when a read succeeds."""
    certificates = Certificates(*pair)
    write_certificate(authority, tmp_path)
    away = pair[1].with_suffix(".away")
    pair[1].rename(away)
    assert certificates.read_changes() is None
    away.rename(pair[1])
    assert certificates.read_changes() is not None


@pytest.mark.parametrize("swapped", ["..data", "server.pem"])
def test_swapped_link_is_a_change(authority, write_certificate, tmp_path, swapped, monkeypatch):
    """The link may be the directory, as Kubernetes swaps secrets, or the files themselves."""
    # Files count as settled, so that only their metadata show a change.
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
    """Replaces the target of a link atomically."""
    link.with_name("..next").symlink_to(target)
    link.with_name("..next").replace(link)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_invalid_pair_at_start_is_refused(pair, damage):
    """The error has the path of the file."""
    damage(*pair)
    with pytest.raises(CertificateError, match=r"server\.(pem|key)"):
        Certificates(*pair)


def test_invalid_authority_is_refused(pair, tmp_path):
    """Client certificates could not be verified with it."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        Certificates(*pair, tmp_path / "ca.pem")


def test_expired_authority_is_refused(pair, tmp_path):
    """No client certificate could be valid under it."""
    path = tmp_path / "ca.pem"
    path.write_bytes(_make_authority(days=-2))
    with pytest.raises(CertificateError, match="expired"):
        Certificates(*pair, path)
    path.write_bytes(_make_authority(days=-2) + trustme.CA().cert_pem.bytes())
    assert Certificates(*pair, path)


def _make_authority(*, days):
    """Returns the certificate of an authority that is valid for one day, `days` from now."""
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

"""Signatures of bundles: Ed25519 (RFC 8032) over the bytes of SHA256SUMS, in SHA256SUMS.sig.

The signature file holds the 64 bytes of the signature, so OpenSSL verifies it, too. Keys are PEM
files: PKCS #8 for private keys, SubjectPublicKeyInfo for public ones. Needs the extra `signing`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from imagemint.engine.bundle.sums import SIGNATURE_FILE, SUMS_FILE

_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class SigningKey:
    """A private key that signs bundles.

    Args:
        key: the key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """Returns a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of_pem(cls, content: bytes) -> Self:
        """Returns the key in a PEM file.

        Raises:
            ValueError: the content is no unencrypted Ed25519 private key; the message says why.
        """
        try:
            key = load_pem_private_key(content, password=None)
        except TypeError:
            raise ValueError("the private key is encrypted: decrypt it first") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ValueError("it contains no PEM private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(  # noqa: TRY004 - the content is wrong, not a type
                "its private key is not of the kind Ed25519"
            )
        return cls(key)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Returns the key in a PEM file on disk.

        Raises:
            OSError: the file cannot be read, or has no usable key; see `of_pem`.
        """
        try:
            return cls.of_pem(path.read_bytes())
        except ValueError as error:
            raise OSError(f"{path}: {error}") from error

    def to_private_pem(self) -> bytes:
        """Returns the private key as PEM."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def to_public_pem(self) -> bytes:
        """Returns the public key as PEM."""
        public = self._key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, directory: Path, sums: bytes) -> None:
        """Writes the signature of a bundle beside its SHA256SUMS, in place of an earlier one.

        Args:
            directory: the directory of the bundle.
            sums: the content of SHA256SUMS, as checked. The file is not read again, because it may
                have changed since.

        Raises:
            OSError: the signature cannot be written.
        """
        draft = directory / f".{SIGNATURE_FILE}"
        draft.unlink(missing_ok=True)  # of a call that was interrupted
        # A new file, so that a link in its place cannot lead to another one.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(self._key.sign(sums))
        draft.replace(directory / SIGNATURE_FILE)


class TrustedKeys:
    """Public keys; a bundle must be signed by one of them.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of_pem(cls, content: bytes) -> Self:
        """Returns the keys in a PEM file, which can hold several, one after another.

        Raises:
            ValueError: the content has no key, or something else than Ed25519 public keys.
        """
        keys = []
        for block in _PEM.findall(content):
            try:
                key = load_pem_public_key(block)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise ValueError("it contains something other than PEM public keys") from error
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError(  # noqa: TRY004 - likewise
                    "it contains a public key that is not of the kind Ed25519"
                )
            keys.append(key)
        if not keys:
            raise ValueError("it contains no PEM public key")
        return cls(keys)

    def to_pem(self) -> str:
        """Returns the keys as PEM text."""
        form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return "".join(key.public_bytes(*form).decode("ascii") for key in self._keys)

    def check(self, sums: bytes, signature: bytes) -> None:
        """Checks the signature of a bundle.

        Args:
            sums: the content of SHA256SUMS.
            signature: the content of SHA256SUMS.sig.

        Raises:
            ValueError: none of the keys made the signature; the message says so.
        """
        for key in self._keys:
            try:
                key.verify(signature, sums)
            except InvalidSignature:
                continue
            return
        raise ValueError(
            f"{SIGNATURE_FILE} is not a signature of {SUMS_FILE} by one of the"
            f" {len(self._keys)} trusted keys"
        )

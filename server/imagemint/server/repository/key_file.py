"""Reads the file with the public keys that may sign bundles; see `require_signature`."""

import logging
from pathlib import Path

from imagemint.engine.bundle.signatures import TrustedKeys
from imagemint.engine.errors import BundleRefused
from imagemint.server.file_changes import read_file

_log = logging.getLogger(__name__)


class KeyFile:
    """A PEM file with public keys, read again for each bundle, so that keys can be added.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read, or does not contain Ed25519 public keys.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            TrustedKeys.of_pem(read_file(path))
        except ValueError as error:
            raise OSError(f"require_signature: {path}: {error}") from error

    def read(self, directory: Path) -> TrustedKeys:
        """Returns the current keys.

        Args:
            directory: the bundle to be checked.

        Raises:
            BundleRefused: the file is not readable any more.
        """
        try:
            return TrustedKeys.of_pem(read_file(self._path))
        except (OSError, ValueError) as error:
            _log.error("require_signature: %s: %s", self._path, error)
            why = "its signature cannot be checked, because the trusted keys are not readable"
            raise BundleRefused(directory, why, passing=True) from error

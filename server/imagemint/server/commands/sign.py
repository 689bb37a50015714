"""The command ``imagemint sign``. It imports little, so that listing commands needs no extra."""

# ruff: noqa: T201 - a command prints

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


class Sign(BaseModel):
    """Signs bundles, and makes the keys for it."""

    @classmethod
    def list_variants(cls) -> dict[str, str]:
        """Returns the subcommands, each with one line of help."""
        return {name: _get_first_line(kind) for name, kind in _KINDS.items()}

    @classmethod
    def load_variant(cls, name: str) -> type[BaseModel]:
        """Returns a subcommand."""
        return _KINDS[name]


class SignBundle(BaseModel):
    """Signs bundles in place, as `imagemint export --sign` does."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    directories: CliPositionalArg[list[Path]] = Field(min_length=1)
    """Directories of bundles, <repository>/<model>/<version>."""
    key: Path
    """PEM file with the private key."""

    def run(self) -> int:
        """Signs the bundles, after checking the files of all of them.

        Raises:
            BundleRefused: a server would not accept one of the bundles. Nothing is signed.
            OSError: a file cannot be read or written, or does not contain a key.
        """
        from imagemint.engine.bundle import read_bundle  # noqa: PLC0415 - import-light
        from imagemint.engine.bundle.signatures import SigningKey  # noqa: PLC0415 - likewise

        key = SigningKey.read(self.key)
        bundles = [read_bundle(directory) for directory in self.directories]
        for bundle in bundles:
            key.sign(bundle.directory, bundle.sums)
            print(f"signed {bundle.spec.name}@{bundle.version}")
        return 0


class MakeKey(BaseModel):
    """Makes a key pair: NAME.pem, to be kept secret, and NAME.pub.pem for the servers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: CliPositionalArg[Path]
    """Path of both files without their endings. Files that exist are not replaced."""

    def run(self) -> int:
        """Writes the files.

        Raises:
            OSError: one of them exists, or cannot be written.
        """
        from imagemint.engine.bundle.signatures import SigningKey  # noqa: PLC0415 - import-light

        key = SigningKey.generate()
        private, public = (self.name.with_name(self.name.name + end) for end in _ENDINGS)
        if public.exists():
            raise FileExistsError(f"{public} exists; a key is never replaced")
        _write_new(private, key.to_private_pem(), 0o600)
        _write_new(public, key.to_public_pem(), 0o644)
        print(f"{private}: sign with it, and keep it secret")
        print(f"{public}: imagemint serve --require-signature {public}")
        return 0


_KINDS: dict[str, type[BaseModel]] = {"bundle": SignBundle, "key": MakeKey}
_ENDINGS = (".pem", ".pub.pem")


def _get_first_line(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise FileExistsError(f"{path} exists; a key is never replaced") from None
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(content)

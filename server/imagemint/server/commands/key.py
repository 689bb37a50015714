"""The command ``imagemint key``. It imports little, so that listing commands needs no extra."""

# ruff: noqa: T201 - a command prints

import json
import sys
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import CliPositionalArg

from imagemint.server.access.api_keys import Client, compute_digest, describe_faults, generate_key


class Key(BaseModel):
    """Creates an API key: prints its entry for the server's file to stdout and the key to stderr.

    `imagemint key NAME >> keys.toml` adds the entry. It holds only a digest; the key is not stored.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: CliPositionalArg[str]
    """Name of the client in logs and metrics."""
    models: list[str] = Field(default=["*"])
    """Models that the client can use, separated by commas; * means all."""
    rate_images_per_s: float | None = None
    """Maximum average number of images per second. Default: no limit."""
    burst_images: int | None = None
    """Maximum number of images at once, after a pause. Default: the images of one second."""
    max_concurrent_calls: int | None = None
    """Maximum number of concurrent calls. Default: max_calls_per_caller of the server."""
    model_control: bool = False
    """Allow the client to load and unload models."""

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        try:
            self._make_client(compute_digest(""))
        except ValidationError as error:
            raise ValueError(describe_faults(error)) from None
        return self

    def _make_client(self, digest: str) -> Client:
        return Client(
            name=self.name,
            sha256=[digest],
            models="*" if self.models == ["*"] else self.models,
            rate_images_per_s=self.rate_images_per_s,
            burst_images=self.burst_images,
            max_concurrent_calls=self.max_concurrent_calls,
            model_control=self.model_control,
        )

    def run(self) -> int:
        """Prints the entry and the key."""
        key = generate_key()
        client = self._make_client(compute_digest(key))
        print("\n[[key]]")
        for name, value in client.model_dump(exclude_defaults=True).items():
            # JSON and TOML write strings, lists of strings, numbers and booleans alike.
            print(f"{name} = {json.dumps(value)}")
        sys.stdout.flush()
        print(f"The API key of {self.name}, shown only once:\n{key}", file=sys.stderr)
        return 0

"""The command ``imagemint key``; import-light, so that listing commands needs no extra."""

# ruff: noqa: T201 - a command prints

import json
import sys
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import CliPositionalArg

from imagemint.server.access.api_keys import Client, digest_of, new_key


class Key(BaseModel):
    """Makes an API key: the lines for the server's file on stdout, the key itself on stderr, once.

    So that `imagemint key NAME >> keys.toml` adds it, and only its digest is written anywhere.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: CliPositionalArg[str]
    """Name of the client, for logs and metrics."""
    models: list[str] = Field(default=["*"])
    """Models that it may use, comma-separated; * for all."""
    rate_images_per_s: float | None = None
    """Images a second, in the long run; absent, no limit."""
    burst_images: int | None = None
    """Images at once after a rest; absent, what the rate gives in a second."""
    max_concurrent_calls: int | None = None
    """Calls that may run side by side; absent, no limit."""
    model_control: bool = False
    """Allow it to load and unload models."""

    @model_validator(mode="after")
    def _makes_a_client(self) -> Self:
        try:
            self._client(digest_of(""))
        except ValidationError as error:
            told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(told)) from None
        return self

    def _client(self, digest: str) -> Client:
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
        """Prints both."""
        key = new_key()
        client = self._client(digest_of(key))
        print("\n[[key]]")
        for name, value in client.model_dump(exclude_defaults=True).items():
            # What JSON and TOML write alike: texts, lists of them, numbers, booleans.
            print(f"{name} = {json.dumps(value)}")
        sys.stdout.flush()
        print(f"The key of {self.name}, which is shown this once:\n{key}", file=sys.stderr)
        return 0

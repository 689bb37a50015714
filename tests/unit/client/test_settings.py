"""Tests of the numeric settings of the client's commands, which all have limits."""

import pytest
from pydantic import ValidationError
from setting_bounds import numbers_of, refused_values

from imagemint.bench.command import Bench
from imagemint.bench.mix import RequestKind
from imagemint.client.commands import Models
from imagemint.client.generate import Generate

# The server knows the range of the model.
UNBOUNDED = {"truncation"}


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (Models, {}),
        (Generate, {"model": "tiny", "out": "x"}),
        (Bench, {"model": "tiny"}),
        (RequestKind, {"stream": True}),
    ],
    ids=["models", "generate", "bench", "mix"],
)
def test_numbers_are_limited(settings, needed):
    """Every numeric setting has a minimum and a maximum."""
    for name, bounds in numbers_of(settings).items():
        listed = settings.model_fields[name].default == []
        key = settings.model_fields[name].alias or name
        wrong = [float("nan"), float("inf")]
        if name not in UNBOUNDED:
            assert None not in bounds, name
            wrong += refused_values(*bounds)
        for value in wrong:
            with pytest.raises(ValidationError, match=name):
                settings(**{key: [value] if listed else value}, **needed)

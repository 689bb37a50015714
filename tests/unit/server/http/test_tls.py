"""Tests of imagemint.server.http.tls."""

import pytest
from structlog.testing import capture_logs

from imagemint.server.http.tls import make_tls_context
from imagemint.server.settings import ServeSettings
from imagemint.server.telemetry.metrics import Metrics


@pytest.mark.parametrize(
    ("address", "has_keys", "warns"),
    [
        ("0.0.0.0:8000", True, True),
        ("gan.example:8000", True, True),
        ("0.0.0.0:8000", False, False),
        ("127.0.0.1:8000", True, False),
        ("[::1]:8000", True, False),
    ],
)
def test_keys_without_tls_are_a_warning(tmp_path, address, has_keys, warns):
    """Keys that cross a network unencrypted are logged; those of one machine are not."""
    settings = ServeSettings(
        http_address=address, api_keys=tmp_path / "keys.toml" if has_keys else None
    )
    with capture_logs() as lines:
        assert make_tls_context(settings, Metrics()) is None
    assert any("sent unencrypted" in line["event"] for line in lines) is warns

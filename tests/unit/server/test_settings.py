"""Tests of the server's settings: validation and addresses."""

import pytest
from pydantic import ValidationError
from setting_bounds import numbers_of, refused_values

from imagemint.client.settings import UsageError, gather_settings
from imagemint.server.commands.serve import Serve
from imagemint.server.settings import (
    ServeSettings,
    find_open_addresses,
    join_address,
    split_address,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8001", "127.0.0.1", 8001),
        ("[::1]:0", "::1", 0),
        ("::1:8001", "::1", 8001),
        ("localhost:80", "localhost", 80),
    ],
)
def test_address_is_split(address, host, port):
    """The brackets of IPv6 are not part of the host."""
    assert split_address(address) == (host, port)


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "[::1]:8001", "localhost:1"])
def test_address_is_joined(address):
    """Joining is the inverse of splitting."""
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize("name", ["grpc_address", "metrics_address"])
@pytest.mark.parametrize("address", ["localhost", ":8001", "localhost:", "a:99999", "a:65536"])
def test_invalid_address_is_refused(name, address):
    """An address needs a host and a valid port."""
    with pytest.raises(ValidationError, match=name):
        ServeSettings(**{name: address})


def test_queue_must_hold_the_largest_request():
    """A server whose largest request could never be accepted does not start."""
    with pytest.raises(ValidationError, match="could never be accepted"):
        ServeSettings(max_images_per_request=100, max_queue_images=99)
    assert ServeSettings(max_images_per_request=100, max_queue_images=100)


@pytest.mark.parametrize(
    "given",
    [
        {"tls_certificate": "a.pem"},
        {"tls_key": "a.key"},
        {"tls_client_ca": "ca.pem"},
        {"tls_client_ca": "ca.pem", "tls_key": "a.key"},
    ],
)
def test_certificate_and_key_belong_together(given):
    """Incomplete TLS settings are an error and never a reason to serve in plain text."""
    with pytest.raises(ValidationError, match="tls_"):
        ServeSettings(**given)
    assert ServeSettings(tls_certificate="a.pem", tls_key="a.key", tls_client_ca="ca.pem")


NUMBERS = numbers_of(ServeSettings)
# Sizes of batches, which another setting limits.
BOUNDED_TOGETHER = {"preferred_batch_images", "batch_buckets"}
# Other settings that a limit requires.
BESIDE = {
    "max_queue_images": {"max_images_per_request": 1},
    "max_images_per_request": {"max_queue_images": 2**31 - 1},
}


@pytest.mark.parametrize("name", sorted(NUMBERS.keys() - BOUNDED_TOGETHER))
def test_number_is_limited(name):
    """Every numeric setting has a minimum and a maximum."""
    least, most = NUMBERS[name]
    assert least is not None
    assert most is not None
    beside = BESIDE.get(name, {})
    for value in (least, most):
        assert getattr(ServeSettings(**{name: value}, **beside), name) == value
    for value in refused_values(least, most):
        with pytest.raises(ValidationError, match=name):
            ServeSettings(**{name: value}, **beside)


def test_numbers_in_collections_are_limited():
    """Sizes of batches are at most the largest batch, and versions have up to 18 digits."""
    for name in BOUNDED_TOGETHER:
        for sizes in ([65_537], [0], [1] * 65):
            with pytest.raises(ValidationError, match=name):
                ServeSettings(**{name: sizes})
        assert ServeSettings(**{name: [65_536] * 64})
    with pytest.raises(ValidationError, match="default_versions"):
        ServeSettings(default_versions={"mnist": 10**18})


@pytest.mark.parametrize("name", ["repository", "tls_client_ca", "api_keys", "grpc_address"])
def test_nul_character_is_refused(name):
    """The operating system accepts no path or name with a NUL character."""
    with pytest.raises(ValidationError, match=name):
        ServeSettings(**{name: "a\0b:1"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"instances": 0},
        {"max_batch_images": 0},
        {"batch_delay_ms": -1},
        {"drain_grace_s": -0.5},
        {"batch_buckets": []},
        {"batch_buckets": [1, 65], "max_batch_images": 64},
        {"preferred_batch_images": [0]},
        {"preferred_batch_images": [128], "max_batch_images": 64},
        {"device": "tpu"},
        {"log_level": "loud"},
        {"colour": "red"},
        {"model_control": "push"},
        {"poll_interval_s": 0},
        {"version_policy": "latest"},
        {"version_policy": "latest:0"},
        {"version_policy": "1,,3"},
        {"version_policies": {"mnist": "newest"}},
        {"default_versions": {"mnist": 0}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_invalid_value_is_refused(wrong):
    """Ranges, choices and unknown names are checked."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ServeSettings(**wrong)


@pytest.mark.parametrize(
    ("given", "on_cpu", "on_gpu"),
    [
        ({}, 32, 64),
        ({"max_batch_images": 5}, 5, 5),
        ({"batch_buckets": [1, 256]}, 256, 256),
        ({"batch_buckets": [1, 8], "preferred_batch_images": [4, 16]}, 16, 16),
        ({"batch_buckets": [1, 8], "max_batch_images": 16}, 16, 16),
    ],
)
def test_batch_size_depends_on_the_device(given, on_cpu, on_gpu):
    """The size is the default of the device, or the largest configured size."""
    settings = ServeSettings(**given)
    assert settings.compute_batch_images(on_cpu=True) == on_cpu
    assert settings.compute_batch_images(on_cpu=False) == on_gpu


def test_trace_endpoint_has_no_password():
    """A password would be logged with the settings, and gRPC does not use it."""
    ServeSettings(trace_endpoint="http://collector:4317")
    with pytest.raises(ValidationError, match="trace_endpoint"):
        ServeSettings(trace_endpoint="http://me:secret@collector:4317")
    with pytest.raises(ValidationError, match="trace_endpoint"):
        ServeSettings(trace_endpoint="http://collector:65536")


def test_defaults_listen_on_loopback():
    """By default the server is not reachable from other machines. The ports are Triton's."""
    settings = ServeSettings()
    assert settings.grpc_address == "127.0.0.1:8001"
    assert settings.metrics_address == "127.0.0.1:8002"


def test_policies_can_be_set_in_three_ways(tmp_path, monkeypatch):
    """The command line takes pairs or JSON, the environment JSON, and the file a table."""
    expected = {"mnist": "1,3", "faces": "latest:2"}
    path = tmp_path / "serve.toml"
    path.write_text('version_policies = { mnist = "1,3", faces = "latest:2" }\n')
    flags = (
        ["--version-policies", '{"mnist": "1,3", "faces": "latest:2"}'],
        ["--version-policies", '{"mnist": "1,3"}', "--version-policies", "faces=latest:2"],
        ["--config", str(path)],
    )
    for arguments in flags:
        assert gather_settings(Serve, "imagemint serve", arguments).version_policies == expected
    monkeypatch.setenv("IMAGEMINT_VERSION_POLICIES", '{"mnist": "1,3", "faces": "latest:2"}')
    monkeypatch.setenv("IMAGEMINT_LOAD_MODELS", "mnist,faces")
    settings = gather_settings(Serve, "imagemint serve", ["--model-control", "explicit"])
    assert settings.version_policies == expected
    assert settings.load_models == ["mnist", "faces"]
    pinned = gather_settings(
        Serve, "x", ["--default-versions", "mnist=2", "--model-control", "explicit"]
    )
    assert pinned.default_versions == {"mnist": 2}


def test_load_models_needs_explicit_control():
    """With other controls all models are loaded, so a list would be misleading."""
    with pytest.raises(ValidationError, match="load_models needs model_control explicit"):
        ServeSettings(load_models=["mnist"])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--grpc-address", "localhost"], "must be HOST:PORT (got 'localhost')"),
        (["--version-policy", "latest"], "must be all, latest:N, or numbers"),
        (["--version-policies", "tiny=latest"], "must be all, latest:N, or numbers"),
        (["--version-policies", "tiny"], "must be NAME=VALUE"),
        (["--variants", "tiny="], "must be auto, reference, or the name"),
        (["--trace-endpoint", "collector:4317"], "must be http://HOST:PORT or"),
        (["--http-allow-origins", "https://a.example/"], "without a path"),
        (["--http-allow-origins", "https://A.example"], "without a path"),
        (["--http-allow-origins", "a.example"], "without a path"),
    ],
)
def test_wrong_text_is_refused_with_its_form(arguments, wanted):
    """The error names the flag and says what is wanted, in words."""
    with pytest.raises(UsageError) as caught:
        gather_settings(Serve, "imagemint serve", arguments)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{arguments[0]}: ")
    assert wanted in fault


def test_pairs_of_a_variable_are_refused_with_their_form(monkeypatch):
    """A variable holds a JSON object; the error of another text says so."""
    monkeypatch.setenv("IMAGEMINT_DEFAULT_VERSIONS", "tiny=1")
    with pytest.raises(UsageError, match=r"IMAGEMINT_DEFAULT_VERSIONS: must be NAME=VALUE"):
        gather_settings(Serve, "imagemint serve", [])


def test_origins_of_browsers_are_accepted():
    """All origins, those with a port, and that of a page without a host."""
    origins = ["*", "https://a.example", "http://localhost:3000", "http://[::1]:80", "null"]
    assert ServeSettings(http_allow_origins=origins).http_allow_origins == origins


TLS = {"tls_certificate": "a.pem", "tls_key": "a.key"}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"grpc_address": "localhost:1", "http_address": "[::1]:2"}, []),
        ({"grpc_address": "0.0.0.0:1", "http_address": "127.0.0.1:2"}, ["0.0.0.0:1"]),
        ({"http_address": "[::]:2"}, ["[::]:2"]),
        ({"grpc_address": "10.0.0.1:1", "http_address": "mint:2"}, ["10.0.0.1:1", "mint:2"]),
        ({"grpc_address": "0.0.0.0:1", **TLS}, ["0.0.0.0:1"]),
        ({"grpc_address": "0.0.0.0:1", **TLS, "tls_client_ca": "ca.pem"}, []),
        ({"grpc_address": "0.0.0.0:1", "api_keys": "keys.toml"}, []),
    ],
)
def test_open_addresses(settings, found):
    """They are not on loopback, and need neither keys nor certificates of clients."""
    assert find_open_addresses(ServeSettings(**settings)) == found

"""Which extra brings a module."""

import pytest

from imagemint.client.extras import extra_of

REQUIREMENTS = [
    "grpcio>=1.80",
    'imagemint[serving]; extra == "server"',
    'onnxruntime>=1.22; extra == "server"',
    'imagemint[serving]; extra == "gpu"',
    'onnxruntime-gpu>=1.22; extra == "gpu"',
    'grpcio-health-checking>=1.80; extra == "serving"',
    'prometheus-client>=0.22; extra == "serving"',
    'scipy>=1.14; extra == "serving"',
    "opentelemetry-sdk>=1.40; extra == 'trace'",
    "torch>=2.6; extra == 'train'",
    "scipy>=1.14; extra == 'train'",
    'imagemint[server,train]; extra == "export"',
    'onnxscript>=0.5; extra == "export"',
    'imagemint[server,train,export]; extra == "dev"',
]


@pytest.mark.parametrize(
    ("module", "part", "extra"),
    [
        ("onnxruntime", "imagemint.server.command", "server"),
        ("torch.nn", "imagemint.training.command", "train"),
        ("torch", "imagemint.exporter.command", "export"),
        ("scipy", "imagemint.server.command", "server"),
        ("scipy.special", "imagemint.training.command", "train"),
        ("prometheus_client", "imagemint.server.command", "server"),
        ("grpc_health", "imagemint.server.command", "server"),
        ("opentelemetry", "imagemint.server.command", "trace"),
        ("onnxscript", "imagemint.exporter.command", "export"),
        ("json5", "imagemint.server.command", None),
    ],
)
def test_extra_fits_module_and_part(module, part, extra):
    """Through extras within extras, and by the part where several bring it."""
    assert extra_of(module, part, REQUIREMENTS) == extra


def test_installed_metadata_is_read():
    """Without requirements of its own it reads those of the distribution."""
    assert extra_of("torch", "imagemint.training.command") == "train"
    assert extra_of("onnxruntime", "imagemint.server.command") == "server"

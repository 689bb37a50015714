"""Tests of imagemint.exporter.triton: Triton's own schema reads its files."""

import json
import subprocess
from pathlib import Path

import pytest
from tiny_bundles import write_bundle
from tiny_translators import write_translator

from imagemint.engine.bundle import read_bundle
from imagemint.exporter.errors import ExportError
from imagemint.exporter.triton import write_triton_config

PYTHON = Path(__file__).parents[2] / ".venv-triton/bin/python"
PARSER = Path(__file__).with_name("parse_config.py")

needs_triton = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-triton; make it with: scripts/venv-triton.sh"
)


def parse(path):
    """Returns a configuration as Triton's client reads it."""
    command = [PYTHON, "-I", PARSER, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_triton
def test_triton_reads_the_configuration(tmp_path):
    """All fields are known to Triton's schema, and the tensors are those of the graph."""
    bundle = read_bundle(write_bundle(tmp_path, "styled", truncation="psi"))
    config = parse(write_triton_config(bundle))
    assert config == {
        "name": "styled",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "version_policy": {"all": {}},
        "max_batch_size": 64,
        "dynamic_batching": {},
        "input": [
            {"name": "z", "data_type": "TYPE_FP32", "dims": ["8"]},
            {"name": "class_id", "data_type": "TYPE_INT64", "dims": ["1"]},
            {"name": "truncation", "data_type": "TYPE_FP32", "dims": ["1"]},
        ],
        "output": [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["4", "6", "1"]}],
    }


@needs_triton
def test_free_sizes_are_variable(tmp_path):
    """A translator of any size has -1 for height and width; caption tokens have their length."""
    free = parse(write_triton_config(read_bundle(write_translator(tmp_path))))
    assert free["input"] == [
        {"name": "source", "data_type": "TYPE_UINT8", "dims": ["-1", "-1", "3"]}
    ]
    assert free["output"][0]["dims"] == ["-1", "-1", "3"]


def test_edited_configuration_is_kept(tmp_path):
    """A further version of the same form leaves it alone; one of another form is an error."""
    path = write_triton_config(read_bundle(write_bundle(tmp_path, "tiny", 1)))
    edited = path.read_text().replace("max_batch_size: 64", "max_batch_size: 8")
    edited += "instance_group { count: 2 kind: KIND_GPU gpus: [0] }\n"
    path.write_text(edited)
    write_triton_config(read_bundle(write_bundle(tmp_path, "tiny", 2)))
    assert path.read_text() == edited
    other = read_bundle(write_bundle(tmp_path, "tiny", 3, size=(8, 8, 3)))
    with pytest.raises(ExportError, match="other inputs or outputs than version 3"):
        write_triton_config(other)
    path.write_text("name = nonsense")
    with pytest.raises(ExportError, match="not readable"):
        write_triton_config(other)
    assert path.read_text() == "name = nonsense"

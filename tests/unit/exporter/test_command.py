"""Tests of imagemint.exporter.command: from a checkpoint to a bundle."""

import copy
import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from imagemint.engine import Distribution
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.signatures import SigningKey, TrustedKeys
from imagemint.exporter.command import Export
from imagemint.exporter.errors import ExportError
from imagemint.training import evaluation
from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.data_options import DataOptions
from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation.comparing import Compared, Comparison, Difference
from imagemint.training.evaluation_report import EvaluationFigure, write_report
from imagemint.training.loop.checkpoints import save_checkpoint
from imagemint.training.loop.state import TrainingState
from imagemint.training.networks import Shape
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.trained import read_generator

ADOPTED = {"from_onnx": "x.onnx", "license": "MIT", "value_range": (0, 1)}
RECIPE = MnistRecipe(z_dim=4, c_dim=2, generator_channels=4, discriminator_channels=1, seed=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of an evaluated run with an untrained generator."""
    directory = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = Shape(10, 28, 1)
        generator, discriminator = RECIPE.make_generator(shape), RECIPE.make_discriminator(shape)
    optimizers = [torch.optim.Adam(net.parameters()) for net in (generator, discriminator)]
    state = TrainingState(
        generator, discriminator, copy.deepcopy(generator), *optimizers, images_seen=640
    )
    about = {
        "recipe": "mnist",
        "options": RECIPE.model_dump(),
        "dataset": "mnist/train",
        "class_labels": list("0123456789"),
        "image_channels": 1,
        "image_size": 28,
        "code_revision": "",
    }
    save_checkpoint(directory, state, generator.eval(), about)
    return directory


def test_run_is_exported_to_a_bundle(run, tmp_path, capsys):
    """The command exports the newest checkpoint and prints the path and the parity."""
    status = Export(source=run, name="digits", repository=tmp_path, title="Digits").run()
    bundle = read_bundle(tmp_path / "digits" / "1")
    said = capsys.readouterr().out
    assert status == 0
    assert str(bundle.directory) in said
    assert "digits@1" in said
    assert "1,000 inputs" in said
    assert "no measured quality" in said
    assert f"serve it: imagemint serve --repository {tmp_path}" in said
    assert bundle.manifest.title == "Digits"
    assert (bundle.manifest.training.seed, bundle.manifest.training.images_seen) == (5, 640)


def test_measured_quality_is_exported(run, tmp_path):
    """Measurements of these weights are in the manifest. --version sets the version."""
    weights = read_generator(run).weights_sha256
    write_report(
        run / "evaluation.json", weights, [EvaluationFigure("frechet", 3.5, "as told", 10_000, 1.2)]
    )
    key = SigningKey.generate()
    (tmp_path / "key.pem").write_bytes(key.to_private_pem())
    options = {"version": 7, "sign": tmp_path / "key.pem", "triton": True}
    Export(source=run, name="digits", repository=tmp_path, **options).run()
    trusted = TrustedKeys.of_pem(key.to_public_pem())
    (figure,) = read_bundle(tmp_path / "digits" / "7", trusted=trusted).manifest.evaluations
    assert (tmp_path / "digits" / "config.pbtxt").is_file()
    assert (figure.metric, figure.value, figure.reference) == ("frechet", 3.5, 1.2)


def test_missing_checkpoint_is_an_error(tmp_path):
    """The error names the directory without a checkpoint, and no repository is created."""
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Export(source=tmp_path / "run", name="digits", repository=tmp_path / "models").run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a training run or --from-onnx"),
        ({"source": "run", "from_onnx": "x.onnx"}, "not both"),
        ({"source": "run", "image_shape": (8, 8, 1)}, "--image-shape needs --from-onnx"),
        ({"source": __file__}, "is a file, and a run is a directory. For an ONNX file, use"),
        ({"source": "run", "judged_images": 200}, "--judged-images needs --precision"),
        ({"source": "run", "accepted_share": 0.5}, "--accepted-share needs --critic discriminator"),
        ({**ADOPTED, "direction": "back"}, "--direction needs a training run of a translator"),
        (
            {**ADOPTED, "fix_input": {"c": 1}, "ignore_input": ["c"]},
            "input 'c': use --fix-input or --ignore-input, and not both",
        ),
        ({**ADOPTED, "image_shape": (0, 8, 1)}, "greater than 0"),
        ({"from_onnx": "x.onnx", "license": "MIT"}, "needs --license and --value-range"),
        ({"source": "run", "precision": ["int8"]}, "int8 must be compared"),
        ({"source": "run", "precision": ["fp16"], "target": "cpu"}, "fp16 is for cuda"),
        ({"source": "run", "precision": ["int8"], "target": "cuda"}, "int8 is for cpu"),
        ({"source": "run", "critic": ["class"]}, "need a --classifier"),
        ({"source": "run", "critic": ["copies"]}, "need a --classifier"),
        (
            {**ADOPTED, "distribution": "uniform", "threshold_maximum": 2.0},
            "--threshold-maximum needs --distribution normal",
        ),
        ({**ADOPTED, "critic": ["discriminator"]}, "needs a training run"),
    ],
)
def test_contradictory_options_are_refused(options, said):
    """Options that exclude or require each other are checked before anything is read."""
    with pytest.raises(ValidationError, match=said):
        Export(name="digits", **options)


def test_threshold_of_uniform_latents_is_refused(run, tmp_path, monkeypatch):
    """Only normal latents are truncated by a threshold; the option would have no effect."""
    trained = dataclasses.replace(read_generator(run), distribution=Distribution.UNIFORM)
    monkeypatch.setattr("imagemint.training.trained.read_generator", lambda _: trained)
    with pytest.raises(ExportError, match=r"--threshold-minimum needs normal latents.*uniform"):
        Export(source=run, name="digits", repository=tmp_path, threshold_minimum=0.5).run()


def test_direction_of_a_generator_is_refused(run, tmp_path):
    """Only translators have a direction; the option would have no effect."""
    with pytest.raises(ExportError, match="--direction needs a translator"):
        Export(source=run, name="digits", repository=tmp_path, direction="back").run()


def test_critic_is_exported(run, tmp_path, capsys):
    """--critic class takes the classifier of --classifier, which the command names."""
    recipe = MnistClassifierRecipe(width=2)
    weights = tmp_path / "classifier.safetensors"
    save_file(recipe.make_network(10, 1).state_dict(), weights)
    about = {
        "recipe": recipe.name,
        "options": recipe.model_dump(),
        "class_labels": list("0123456789"),
        "test_accuracy": 0.1,
        "feature_layer": "features.relu",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (tmp_path / "classifier.json").write_text(json.dumps(about))
    Export(
        source=run, name="judged", repository=tmp_path, classifier=tmp_path, critic=["class"]
    ).run()
    assert read_bundle(tmp_path / "judged/1").critic.scores.names == ("class_confidence",)
    said = capsys.readouterr().out
    assert "critic.onnx: 0." in said
    assert f"class_confidence: softmax of judge {recipe.name}, SHA-256" in said


def test_judges_see_the_data_of_the_run(run, tmp_path, monkeypatch):
    """The images of a critic have the path, labels, shape and selection that the run recorded.

    Variants are compared beside the same data set, read by the same options.
    """
    monkeypatch.setattr(evaluation, "open_extractor", lambda *_: ("extractor", "judge"))
    rows = []
    for number in range(40):
        content = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(content, "PNG")
        rows.append({"image": content.getvalue(), "label": 0, "digit": number % 10})
    (tmp_path / "toys").mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"toys/{split}.parquet")
    copied = shutil.copytree(run, tmp_path / "run")
    settings = {"dataset": str(tmp_path / "toys"), "label_column": "digit", "per_class": 2}
    settings |= {"size": 28, "channels": 1}
    (copied / "options.json").write_text(json.dumps({"settings": settings}))
    checkpoint = next((copied / "checkpoints").iterdir())
    for source in (copied, checkpoint):
        command = Export(source=source, name="toys", critic=["discriminator"])
        train, test = command._load_data()
        assert np.bincount(train.labels).tolist() == [2] * 10
        assert np.bincount(test.labels).tolist() == [4] * 10
        assert train.images.shape[1:] == test.images.shape[1:] == (28, 28, 1)
        variants = {"precision": ["int8"], "classifier": tmp_path, "judged_seeds": 3}
        compare = Export(source=source, name="toys", judged_images=500, **variants)._compare()
        assert compare.keywords == {
            "extractor": "extractor",
            "judge": "judge",
            "data": None,
            "samples": 500,
            "seeds": 3,
            "dataset": str(tmp_path / "toys"),
            "reading": DataOptions.of_settings(settings),
        }


def test_variants_are_exported(run, tmp_path, monkeypatch, capsys):
    """--precision int8 and a judge give a variant, whose measurements the command prints."""
    figure = Comparison("frechet_distance", 2.0, 2.1, 0.2, -0.1)
    found = Compared(Difference(9, 0.25, 7, 0.3, 0.05), (figure,), "by a test", 9, 2)
    monkeypatch.setattr(evaluation, "open_extractor", lambda *_: (None, None))
    monkeypatch.setattr(evaluation, "compare", lambda *_, **__: found)
    command = Export(
        source=run,
        name="digits",
        repository=tmp_path,
        precision=["fp32", "int8"],
        classifier=tmp_path / "judge",
    )
    assert command.run() == 0
    said = capsys.readouterr().out
    assert "int8: 0." in said
    assert "0.250 levels on average, at most 7" in said
    assert "frechet_distance 2.0000 (2.1000)" in said
    bundle = read_bundle(tmp_path / "digits" / "1")
    assert [variant.name for variant in bundle.variants] == ["fp32", "int8"]


def test_help_imports_no_slow_package():
    """Neither torch nor onnx nor NumPy is imported until the command runs."""
    code = (
        "import sys, imagemint.exporter.command\n"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

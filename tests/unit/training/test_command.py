"""Tests of imagemint.training.command through the entry point of the command line."""

import gzip
import hashlib
import json
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagemint.client.cli import main
from imagemint.training import datasets
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets import classes, registry
from imagemint.training.evaluation import load_real_images, open_source
from imagemint.training.loop import machine, provenance
from imagemint.training.loop.checkpoints import find_latest_checkpoint
from imagemint.training.loop.monitor import Monitor
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.trained import read_generator

TINY = [
    "--quiet",
    *("--device", "cpu"),
    *("--batch-size", "8"),
    *("--z-dim", "4"),
    *("--generator-channels", "4"),
    *("--discriminator-channels", "1"),
]


def train(out, *options):
    """Runs `imagemint train mnist` on tiny networks and returns the exit status."""
    return main(["train", "mnist", "--out", str(out), *TINY, *options])


@pytest.mark.parametrize(
    "arguments", ["--help", "train --help", "train --list", "evaluate --help", "export --help"]
)
def test_listing_imports_no_slow_package(arguments):
    """Listing commands, recipes and options imports neither torch nor other slow packages."""
    script = (
        "import sys, contextlib, io\n"
        "from imagemint.client.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        f"    assert main({arguments.split()!r}) == 0\n"
        "assert said.getvalue()\n"
        "print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "scipy", "matplotlib", "pyarrow", "tensorboard"}
    assert heavy.isdisjoint(modules)


def test_recipes_are_listed(capsys):
    """The help lists the recipes, and so does the error for an unknown one."""
    assert main(["train", "--help"]) == 0
    assert "mnist-classifier" in capsys.readouterr().out
    assert main(["train", "imagenet"]) == 2
    said = capsys.readouterr().err
    assert "mnist, stacked-mnist" in said
    assert "'imagenet' is none of them" in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("toy_mnist")
def test_dry_run_writes_nothing(tmp_path, capsys):
    """A dry run prints all options and writes no file."""
    assert train(tmp_path / "run", "--dry-run", "--seed", "7") == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["options"]
        == MnistRecipe(
            batch_size=8, z_dim=4, generator_channels=4, discriminator_channels=1, seed=7
        ).model_dump()
    )
    assert told["data"]["splits"] == {"train": 40, "test": 60}
    assert told["data"]["classes"]["7"] == {"train": 4, "test": 6}
    assert (told["data"]["image"], told["device"]) == ("28x28 gray", "cpu")
    assert any("classes with fewer than 10" in warning for warning in told["warnings"])
    assert any("with 60 test pictures" in warning for warning in told["warnings"])
    expected = told["expected"]
    assert (expected["images"], expected["images_per_s"] > 0) == (480_000, True)
    assert "measured on" in expected["basis"]
    assert main(["train", "mnist-classifier", "--out", str(tmp_path / "judge"), "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["learning_rate"], told["steps"]) == (0.002, 2)
    assert told["data"]["splits"] == {"train": 40, "test": 60}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("toy_mnist")
def test_recipe_has_its_own_collapse_limits(tmp_path, capsys):
    """The plainest GAN collapses and recovers. By default its collapse check starts at epoch 30."""
    run = ["train", "vanilla-mnist", "--out", str(tmp_path / "run"), "--dry-run"]
    found = []
    for options in ([], ["--collapse-grace", "5", "--collapse-patience", "7"]):
        assert main([*run, *options]) == 0
        schedule = json.loads(capsys.readouterr().out)["schedule"]
        found.append((schedule["collapse_grace"], schedule["collapse_patience"]))
    assert found == [(1_800_000, 1_800_000), (5, 7)]


def write_images(folder, names, count):
    """Writes this many images of noise for each class."""
    rng = np.random.Generator(np.random.Philox(key=[3, 4]))
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            levels = rng.integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(levels).save(folder / name / f"{number}.png")
    return str(folder)


def test_one_image_per_class_trains(tmp_path, caplog):
    """Warnings before the first step say what is too few, and the run writes a checkpoint."""
    data = write_images(tmp_path / "pets", ["cat", "dog"], 1)
    assert train(tmp_path / "run", "--dataset", data, "--images", "16") == 0
    assert "no class has 2 training pictures, so variety cannot be measured" in caplog.text
    assert "2 training pictures are fewer than a batch of 8" in caplog.text
    assert find_latest_checkpoint(tmp_path / "run").name == f"{16:010d}"


def test_one_class_trains(tmp_path, caplog):
    """A class-conditional recipe trains on a single class, without terms that need another one."""
    data = write_images(tmp_path / "pets", ["cat"], 9)
    run = tmp_path / "run"
    assert train(run, "--dataset", data, "--mismatch-weight", "1", "--images", "8") == 0
    assert "recipe mnist is class-conditional, and there is only one class" in caplog.text


@pytest.mark.usefixtures("toy_mnist")
@pytest.mark.parametrize(("stage", "warns"), [(4, True), (3, False)])
def test_run_without_the_full_size_is_warned_of(stage, warns, tmp_path, caplog, capsys):
    """The networks of `progressive` grow over four stages, and the run has 16 images."""
    told = ["--images", "16", "--stage-images", str(stage)]
    run = ["train", "progressive", "--out", str(tmp_path / "run"), *TINY[:-1], "4", *told]
    assert main([*run, "--dry-run"]) == 0
    text = (
        "the networks draw 28x28 pixels after 16 images, and the run ends after 16; set more"
        " --images, or --stage-images 2 to train this size for half of the run"
    )
    assert (text in json.loads(capsys.readouterr().out)["warnings"]) is warns
    assert main(run) == 0
    assert (text in caplog.text) is warns


@pytest.mark.usefixtures("toy_mnist")
def test_slow_precision_of_a_classifier_is_warned_of(tmp_path, monkeypatch, caplog, capsys):
    """The dry run and the training warn, as those of a generator do."""
    monkeypatch.setattr(machine, "compare_precisions", lambda _: 2.0)
    out = tmp_path / "judge"
    small = ["--epochs", "1", "--batch-size", "8"]
    run = ["train", "mnist-classifier", "--out", str(out), "--precision", "bf16", *small]
    text = "bf16 takes 2.0 times as long as fp32"
    assert main([*run, "--dry-run"]) == 0
    assert any(text in warning for warning in json.loads(capsys.readouterr().out)["warnings"])
    assert not out.exists()
    assert main(run) == 0
    assert text in caplog.text


def test_dry_run_reports_missing_test_images(tmp_path, capsys):
    """The dry run reports missing test images and everything that was skipped or guessed."""
    data = write_images(tmp_path / "pets" / "train", ["cat", "dog"], 3)
    assert train(tmp_path / "run", "--dataset", str(Path(data).parent), "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert any("`imagemint evaluate` has no test pictures" in it for it in told["warnings"])
    assert "the folders of classes are in train" in told["warnings"]
    assert told["data"]["classes"] == {"cat": {"train": 3}, "dog": {"train": 3}}


def test_labels_file_names_the_classes(tmp_path, capsys):
    """The run stores the names of the file, and a resume finds the file again."""
    data = write_images(tmp_path / "pets", ["0", "1"], 5)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    names = ["--labels-file", str(tmp_path / "names.txt")]
    assert train(tmp_path / "run", "--dataset", data, *names, "--images", "16") == 0
    assert json.loads((tmp_path / "run/options.json").read_text())["class_labels"] == ["cat", "dog"]
    assert train(tmp_path / "run", "--resume", "--images", "24") == 0


def test_evaluation_reads_the_data_of_the_run(tmp_path):
    """A run stores where its data are and how they are read. An evaluation needs no option."""
    data = Path(write_images(tmp_path / "pets", ["0", "1"], 10))
    rows = [f"{name}/{n}.png,{'cat' if n % 2 else 'dog'}" for name in "01" for n in range(10)]
    (data / "list.csv").write_text("\n".join(["file,who", *rows]))
    who = ["--label-column", "who"]
    assert train(tmp_path / "run", "--dataset", str(data), *who, "--images", "16") == 0
    source = open_source(str(tmp_path / "run"), torch.device("cpu"))
    assert source.dataset == str(data)
    test = load_real_images("test", source.dataset, source, None)
    assert (test.class_labels, len(test)) == (("cat", "dog"), 2)


@pytest.mark.parametrize("recipe", ["mnist", "dcgan"])
def test_older_order_of_classes_resumes(tmp_path, monkeypatch, recipe):
    """A run whose classes were sorted as text keeps their order when it resumes."""
    data = write_images(tmp_path / "pets", ["1", "2", "10"], 5)
    tiny = TINY if recipe == "mnist" else ["--batch-size", "8", "--quiet"]
    run = ["train", recipe, "--dataset", data, "--out", str(tmp_path / "run"), *tiny]
    with monkeypatch.context() as older:
        older.setattr(classes, "make_natural_key", lambda text: ([text], text))
        assert main([*run, "--images", "16"]) == 0
    assert main([*run, "--images", "24", "--resume"]) == 0


@pytest.mark.usefixtures("toy_mnist")
@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--size", "37"], 1, "cannot be halved down to 7"),
        (["--learning-rate", "inf"], 2, "--learning-rate: Input should be a finite number"),
        (["--batchsize", "8"], 2, "did you mean --batch-size?"),
        (["--objective", "hnge"], 2, "--objective: Input should be 'relativistic' or 'hinge'"),
    ],
)
def test_dry_run_refuses_invalid_options(tmp_path, capsys, options, status, text):
    """A dry run reports in one line the error with which a run would fail."""
    assert train(tmp_path / "run", "--dry-run", *options) == status
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("toy_mnist")
def test_options_file_is_complete(tmp_path, capsys, digits):
    """The file has every option, the digest of the data, the schedule and the versions."""
    assert train(tmp_path, "--images", "16", "--log-interval", "8") == 0
    assert f"{find_latest_checkpoint(tmp_path)}: 16 images\n" == capsys.readouterr().out
    written = json.loads((tmp_path / "options.json").read_text())
    assert set(written["options"]) == set(MnistRecipe.model_fields)
    assert written["options"]["images"] == 16
    assert written["dataset_sha256"] == digits.sha256
    assert written["schedule"] == {
        "log_interval": 8,
        "snapshot_interval": 64_000,
        "collapse_grace": 128_000,
        "rollbacks": 0,
        "divergence_factor": 100.0,
        "collapse_patience": 256_000,
    }
    assert written["device"] == "cpu"
    assert written["threads"] == 1
    assert set(written["versions"]) == {"python", "torch", "numpy"}
    assert written["code_revision"] == provenance.read_code_revision()


@pytest.mark.usefixtures("toy_mnist")
def test_run_is_not_overwritten(tmp_path, capsys):
    """A directory with a run is refused without --resume and resumed with it."""
    assert train(tmp_path, "--images", "16") == 0
    capsys.readouterr()
    assert train(tmp_path, "--images", "16") == 1
    assert "holds a run already; --resume continues it" in capsys.readouterr().err
    assert train(tmp_path, "--images", "24", "--resume") == 0
    assert find_latest_checkpoint(tmp_path).name == f"{24:010d}"


@pytest.mark.usefixtures("toy_mnist")
def test_resume_uses_the_options_of_the_run(tmp_path, capsys):
    """A resume needs no options. An option that is given must be equal or one that may change."""
    assert train(tmp_path, "--images", "16", "--seed", "3", "--log-interval", "8") == 0
    before = json.loads((tmp_path / "options.json").read_text())
    resume = ["train", "mnist", "--out", str(tmp_path), "--resume", "--quiet", "--images", "24"]
    assert main(resume) == 0
    after = json.loads((tmp_path / "options.json").read_text())
    assert after["options"] == before["options"] | {"images": 24}
    assert after["schedule"] == before["schedule"]
    assert find_latest_checkpoint(tmp_path).name == f"{24:010d}"
    capsys.readouterr()
    assert main([*resume, "--batch-size", "16"]) == 1
    assert "option batch_size is 8 there and 16 here" in capsys.readouterr().err
    assert main([*resume, "--per-class", "2"]) == 1
    said = capsys.readouterr().err
    assert said.endswith("; --per-class was None and is 2\n")
    assert "--dataset was" not in said


@pytest.mark.usefixtures("toy_mnist")
@pytest.mark.parametrize("torn", [b'{"images": 16, "lo', b"\0" * 40, b"\n"])
def test_run_resumes_after_a_power_cut(tmp_path, caplog, torn):
    """An incomplete last line of the log is dropped, with a warning that shows it."""
    assert train(tmp_path, "--images", "16", "--log-interval", "8") == 0
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0] + torn)
    assert train(tmp_path, "--images", "24", "--resume") == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["images"] for row in rows] == [8, 24]
    said = f"{log}: line 2 at the end is incomplete, as after a power cut, and is dropped: "
    shown = repr(torn.decode())
    assert (f"{said}{shown}" in caplog.text) == bool(torn.strip())


@pytest.mark.usefixtures("toy_mnist")
def test_broken_log_is_refused(tmp_path, capsys):
    """A broken line before others is an error of one line, and the run does not change."""
    assert train(tmp_path, "--images", "16", "--log-interval", "8") == 0
    log = tmp_path / "log.jsonl"
    log.write_text('{"images": 8, "lo\n' + log.read_text().splitlines(keepends=True)[1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train(tmp_path, "--images", "24", "--resume") == 1
    said = capsys.readouterr().err
    assert f'{log}, line 1: \'{{"images": 8, "lo\' is not a row of JSON with the key' in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("toy_mnist")
def test_new_run_needs_no_old_log(tmp_path):
    """A run that starts anew after a kill before its first checkpoint replaces the log."""
    (tmp_path / "log.jsonl").write_text('x\n{"images": 8}\n')
    assert train(tmp_path, "--images", "8", "--log-interval", "8") == 0
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss_D"]


@pytest.mark.usefixtures("toy_mnist")
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_settings_are_warned_of(tmp_path, caplog, content):
    """Without `options.json` the run continues with the options of its checkpoint."""
    assert train(tmp_path, "--images", "16", "--seed", "3") == 0
    assert "is damaged" not in caplog.text
    (tmp_path / "options.json").write_text(content)
    resume = ["train", "mnist", "--out", str(tmp_path), "--resume", "--quiet", "--images", "24"]
    assert main(resume) == 0
    assert f"{tmp_path / 'options.json'} is damaged" in caplog.text
    options = json.loads((tmp_path / "options.json").read_text())["options"]
    assert (options["seed"], options["batch_size"]) == (3, 8)


@pytest.mark.usefixtures("toy_mnist")
def test_run_is_not_shortened(tmp_path, capsys):
    """Fewer images than were shown are refused, and the options of the run stay."""
    assert train(tmp_path, "--images", "20") == 0  # the last of three batches ends at 24
    before = (tmp_path / "options.json").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--images", "16", "--resume") == 1
    assert "has shown 24 images: a run cannot be shortened to 16" in capsys.readouterr().err
    assert (tmp_path / "options.json").read_bytes() == before
    assert train(tmp_path, "--images", "20", "--resume") == 0


def test_resume_finds_the_folder_of_the_run(tmp_path, monkeypatch):
    """The run stores the absolute path of its images, so a resume works from any directory."""
    rng = np.random.Generator(np.random.Philox(key=[5, 0]))
    for label in "ab":
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(rng.integers(0, 256, (30, 30)).astype(np.uint8))
            picture.save(tmp_path / "pictures" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert train(out, "--images", "8", "--dataset", "pictures", "--size", "28") == 0
    monkeypatch.chdir("/")
    resume = ["train", "mnist", "--out", str(out), "--resume", "--quiet", "--images", "16"]
    assert main(resume) == 0
    assert find_latest_checkpoint(out).name == f"{16:010d}"


@pytest.mark.usefixtures("toy_mnist")
def test_older_runs_resume(tmp_path, capsys):
    """A run that does not store its settings finds its data by name."""
    assert train(tmp_path, "--images", "16", "--log-interval", "8") == 0
    options = json.loads((tmp_path / "options.json").read_text())
    del options["settings"]
    (tmp_path / "options.json").write_text(json.dumps(options))
    resume = ["train", "mnist", "--out", str(tmp_path), "--resume", "--quiet", "--images", "24"]
    assert main(resume) == 0
    checkpoint = find_latest_checkpoint(tmp_path) / "checkpoint.json"
    description = json.loads(checkpoint.read_text())
    checkpoint.write_text(json.dumps(description | {"dataset": "pets/train"}))
    (tmp_path / "options.json").unlink()
    capsys.readouterr()
    assert main(resume) == 1
    assert "does not record where its data are: name the --dataset" in capsys.readouterr().err


@pytest.mark.usefixtures("toy_mnist")
def test_incomplete_first_checkpoint_does_not_count(tmp_path):
    """A run that was killed during its first save can be started again."""
    (tmp_path / "checkpoints" / ".0000000008.77").mkdir(parents=True)
    assert train(tmp_path, "--images", "8") == 0


@pytest.mark.usefixtures("toy_mnist")
@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_refused_resume_changes_nothing(tmp_path, capsys, extra):
    """The error names the option that differs in one line, and options.json does not change."""
    assert train(tmp_path, "--images", "16") == 0
    before = (tmp_path / "options.json").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--images", "24", "--resume", "--seed", "1", *extra) == 1
    said = capsys.readouterr().err
    assert "option seed is 0 there and 1 here" in said
    assert said.count("\n") == 1
    assert (tmp_path / "options.json").read_bytes() == before


@pytest.mark.usefixtures("toy_mnist")
def test_failed_run_prints_one_line(tmp_path, capsys):
    """A run with exploding losses exits with status 1 and prints one line."""
    assert train(tmp_path, "--learning-rate", "1e30") == 1
    said = capsys.readouterr().err
    assert said.startswith("imagemint train: after ")
    assert "no checkpoint was saved yet; a smaller --learning-rate" in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("toy_mnist")
def test_stopped_run_prints_how_to_resume(tmp_path, capsys, monkeypatch):
    """A run that a signal stops prints how to resume, and its status 130 stops a script."""
    step = Monitor.add_step

    def interrupted(self, *losses):
        step(self, *losses)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Monitor, "add_step", interrupted)
    assert train(tmp_path, "--images", "16") == 130
    assert "8 images of 16; --resume continues" in capsys.readouterr().out


def test_missing_data_is_an_error(tmp_path, capsys, monkeypatch):
    """The error lists every location in one line, before anything is written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_MNIST_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert train(tmp_path / "run", "--data", str(tmp_path / "data")) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "data" / "mnist") in said
    assert str(tmp_path / "cache") in said
    assert "http://127.0.0.1:9/" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("toy_mnist")
def test_missing_gpu_is_an_error(tmp_path, capsys):
    """Requesting a GPU without one is an error."""
    assert train(tmp_path, "--device", "cuda") == 1
    assert "PyTorch finds no GPU" in capsys.readouterr().err


@pytest.mark.usefixtures("toy_mnist")
def test_evaluate_prints_the_metrics(tmp_path, judge, capsys, monkeypatch):
    """Each metric is a line with the deviation over seeds and the value of real data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train(tmp_path / "run", "--images", "16") == 0
    capsys.readouterr()
    arguments = ["--classifier", str(judge), "--samples", "100", "--device", "cpu"]
    assert main(["evaluate", str(tmp_path / "run"), *arguments, "--seeds", "2"]) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path / 'run/evaluation'} has the table and the pictures" in printed.err
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "class_accuracy",
        "worst_class_accuracy",
        "frechet_distance",
        "coverage",
        "within_class_variety",
    ]
    assert " ± " in lines[2]
    assert "(real data 1.0000)" in lines[0]
    assert (tmp_path / "run" / "evaluation" / "grid.png").is_file()


@pytest.mark.usefixtures("toy_mnist")
def test_metrics_of_two_judges_are_reported(tmp_path, judge, capsys, monkeypatch):
    """Metrics of the second classifier have its name. Metrics that need no judge appear once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train(tmp_path / "run", "--images", "16") == 0
    second = shutil.copytree(judge, tmp_path / "second")
    capsys.readouterr()
    judges = ["--classifier", str(judge), "--classifier", str(second)]
    arguments = ["evaluate", str(tmp_path / "run"), "--samples", "100", "--device", "cpu"]
    assert main([*arguments, *judges]) == 0
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    plain = [name for name in named if "@" not in name]
    assert named[len(plain) :] == [f"{name}@second" for name in plain if name != "training_copies"]
    trained = read_generator(tmp_path / "run")
    assert [figure.metric for figure in trained.evaluations] == named
    assert main([*arguments, *judges[:2], "--classifier", str(judge)]) == 1
    assert f"two classifiers are called {judge.name}" in capsys.readouterr().err


def test_evaluate_needs_a_judge(tmp_path, capsys):
    """Without classifier and Inception weights an evaluation is an error."""
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "name a --classifier or --inception" in capsys.readouterr().err


def test_classifier_of_a_folder_is_trained(tmp_path, capsys):
    """Any folder of images, given by its path, trains a judge."""
    for label, level in (("dark", 20), ("light", 220)):
        (tmp_path / "shades" / label).mkdir(parents=True)
        for number in range(20):
            image = np.full((10, 12), level + number, np.uint8)
            Image.fromarray(image).save(tmp_path / "shades" / label / f"{number}.png")
    options = ["--dataset", str(tmp_path / "shades"), "--size", "8", "--width", "2"]
    options += ["--epochs", "9", "--batch-size", "6", "--quiet", "--device", "cpu"]
    assert main(["train", "image-classifier", "--out", str(tmp_path / "judge"), *options]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["trained_on"], about["test_accuracy"]) == ("shades/train", 1.0)
    assert load_classifier(tmp_path / "judge", torch.device("cpu"))[1] == about


# --- real digits --------------------------------------------------------------------------------


@pytest.fixture
def first_digits(real_data, tmp_path, monkeypatch):
    """A data folder with the first real digits.

    Only the number of images differs from the original.
    """
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    digests = {}
    for split, count in (("train", 320), ("test", 128)):
        for name in registry._MNIST_FILES[split]:
            whole = datasets.parse_idx(
                gzip.decompress((real_data / "mnist" / name).read_bytes()), name
            )
            header = struct.pack(f">I{whole.ndim}I", 0x0800 + whole.ndim, count, *whole.shape[1:])
            content = header + whole[:count].tobytes()
            digests[name] = hashlib.sha256(content).hexdigest()
            (folder / name).write_bytes(gzip.compress(content))
    monkeypatch.setattr(registry, "_MNIST_SHA256", digests)
    return tmp_path / "data"


@pytest.mark.data
def test_real_digits_from_training_to_evaluation(first_digits, tmp_path, capsys, monkeypatch):
    """Commands train a judge and a generator on real digits, resume it and evaluate it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, judge, data = tmp_path / "run", tmp_path / "judge", ["--data", str(first_digits)]
    options = ["--epochs", "3", "--batch-size", "32", "--quiet", "--device", "cpu"]
    assert main(["train", "mnist-classifier", "--out", str(judge), *data, *options]) == 0
    assert load_classifier(judge, torch.device("cpu"))[1]["test_accuracy"] > 0.5
    assert train(run, "--images", "64", *data) == 0
    assert train(run, "--images", "128", "--resume", *data) == 0
    arguments = ["--classifier", str(judge), "--samples", "100", "--device", "cpu", *data]
    assert main(["evaluate", str(run), *arguments]) == 0
    assert "class_accuracy" in capsys.readouterr().out
    trained = read_generator(run)
    assert (trained.dataset, trained.images_seen) == ("mnist/train", 128)
    assert len(trained.evaluations) == 15
    assert np.isfinite([figure.value for figure in trained.evaluations]).all()

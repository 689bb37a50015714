"""Tests of imagemint.training.evaluation: metrics of a run and of given images."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from imagemint.training import datasets
from imagemint.training.data_options import DataOptions
from imagemint.training.datasets import LabelledImages, stack_digits
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation import Protocol, evaluate, judging, open_extractor, open_source
from imagemint.training.evaluation.measuring import Measured
from imagemint.training.evaluation_report import write_report
from imagemint.training.loop.checkpoints import find_latest_checkpoint
from imagemint.training.trained import read_generator

pytestmark = pytest.mark.usefixtures("toy_mnist")
CPU = torch.device("cpu")
METRICS = [
    "class_accuracy",
    "worst_class_accuracy",
    "frechet_distance",
    "coverage",
    "within_class_variety",
    "training_copies",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "two_sample_accuracy",
    "inception_score",
    "mode_score",
]


@pytest.fixture
def measured(judge):
    """A function that evaluates a source with the toy judge and returns the results by metric."""

    def measure(place, samples=120, *, metrics=METRICS, seed=3, seeds=1, dataset=None, **options):
        extractor, seer = open_extractor(judge, None, CPU)
        protocol = Protocol(samples, seed, seeds, dataset)
        found = evaluate(open_source(str(place), CPU), extractor, seer, protocol, **options)
        assert [figure.metric for figure in found] == metrics
        return {figure.metric: figure for figure in found}

    return measure


@pytest.fixture
def npz(tmp_path):
    """A function that writes images and classes to an .npz file."""

    def write(image, class_id):
        np.savez(tmp_path / "some.npz", image=image, class_id=class_id)
        return tmp_path / "some.npz"

    return write


@pytest.fixture
def renamed_digits(monkeypatch, digits, test_digits):
    """Name of a data set with the same digits, on which the judge was not trained."""
    splits = {"train": digits, "test": test_digits}

    def load(split, _):
        labelled = splits[split]
        labels = (labelled.labels, labelled.class_labels)
        return LabelledImages(f"else/{split}", labelled.images, *labels, "e")

    monkeypatch.setitem(datasets.DATASETS, "else", load)
    return "else"


def test_real_images_score_perfectly(measured, npz, test_digits):
    """The test set measured against itself has perfect accuracy and coverage, and no copies."""
    found = measured(npz(test_digits.images, test_digits.labels))
    assert found["class_accuracy"].value == found["class_accuracy"].reference == 1.0
    assert found["worst_class_accuracy"].value == 1.0
    assert found["frechet_distance"].value == pytest.approx(0, abs=1e-9)
    assert found["frechet_distance"].reference > 0
    assert found["coverage"].value == 1.0
    assert found["coverage"].reference <= 1.0
    assert found["training_copies"].value == found["training_copies"].reference == 0.0
    assert found["precision"].value == found["recall"].value == 1.0
    # Many images have an equal image in the other set.
    assert found["two_sample_accuracy"].value < 0.25
    assert found["kernel_distance"].value == pytest.approx(0, abs=0.1)
    assert found["mode_score"].value == pytest.approx(found["inception_score"].value, rel=0.05)


def test_wrong_classes_lower_the_accuracy(measured, npz, test_digits):
    """Images of one class with the label of another lower the accuracy of that class only."""
    asked = np.where(test_digits.labels == 3, 4, test_digits.labels)
    found = measured(npz(test_digits.images, asked))
    assert found["class_accuracy"].value == pytest.approx(0.9)
    assert found["worst_class_accuracy"].value == 0.5
    assert "worst class, 4" in found["worst_class_accuracy"].protocol


def test_judge_of_other_labels_judges_no_classes(judge, npz, test_digits, tmp_path, caplog):
    """A judge of another column of labels of the same data only computes features."""
    rows = []
    for label, image in zip(test_digits.labels, test_digits.images, strict=True):
        content = io.BytesIO()
        Image.fromarray(image[..., 0]).save(content, "PNG")
        rows.append({"image": content.getvalue(), "odd": int(label) % 2})
    (tmp_path / "toys").mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"toys/{split}.parquet")
    source = open_source(str(npz(test_digits.images, test_digits.labels % 2)), CPU)
    extractor, seer = open_extractor(judge, None, CPU)
    seer.trained_on = "toys/train"
    protocol = Protocol(dataset=str(tmp_path / "toys"))
    reading = DataOptions(label_column="odd")
    found = {
        figure.metric: figure
        for figure in evaluate(source, extractor, seer, protocol, reading=reading)
    }
    assert found["coverage"].value == 1.0
    assert found.keys().isdisjoint({"class_accuracy", "worst_class_accuracy", "mode_score"})
    assert "figures that need its classes are left out" in caplog.text


@pytest.mark.parametrize("word", ["code", "class"])
def test_other_labels_are_codes(judge, npz, test_digits, caplog, word):
    """Labels that differ from those of the data are assigned to classes, as codes are.

    A warning says so if they are not the codes of `infogan`.
    """
    source = open_source(str(npz(test_digits.images, (test_digits.labels + 3) % 10)), CPU)
    source.class_labels = tuple(f"{word} {code}" for code in range(10))
    extractor, seer = open_extractor(judge, None, CPU)
    found = {figure.metric: figure for figure in evaluate(source, extractor, seer, Protocol())}
    assert "class_accuracy" not in found
    assert found["code_class_accuracy"].value == found["code_class_accuracy"].reference == 1.0
    assert "code" not in found["coverage"].method
    assert "(0 = 7, 1 = 8," in found["code_class_accuracy"].protocol
    assert found["modes"].value == 10
    warned = "class 9, are not those of mnist/test, 0, 1," in found["coverage"].protocol
    assert warned == ("matched with them like codes" in caplog.text) == (word == "class")


def test_real_images_are_resized_to_the_model(judge, npz, test_digits):
    """Real images get the size of the model, and the judge must support it."""
    source = open_source(
        str(npz(np.kron(test_digits.images, np.ones((1, 2, 2, 3), np.uint8)), test_digits.labels)),
        CPU,
    )
    with pytest.raises(DatasetError, match=r"the judge does not accept images of \[56, 56, 3\]"):
        evaluate(source, *open_extractor(judge, None, CPU), Protocol())


def test_missing_modes_lower_coverage(measured, npz, test_digits):
    """Half of the classes cover about half of the forty real images that are compared."""
    few = test_digits.labels < 5
    images = np.repeat(test_digits.images[few], 2, axis=0)
    found = measured(npz(images, np.repeat(test_digits.labels[few], 2)))
    assert found["coverage"].value == pytest.approx(0.5, abs=0.2)
    assert found["frechet_distance"].value > found["frechet_distance"].reference
    assert found["precision"].value == 1.0
    assert found["recall"].value == pytest.approx(0.5, abs=0.2)
    assert found["mode_score"].value < 0.9 * found["mode_score"].reference


def test_copies_are_detected(measured, npz, digits, test_digits):
    """Training images with small changes are recognized as copies, whatever their class."""
    images = np.concatenate([test_digits.images[:20], digits.images[:20] // 2 * 2])
    labels = np.concatenate([test_digits.labels[:20], digits.labels[:20]])
    assert measured(npz(images, labels))["training_copies"].value == 0.5


def test_results_of_a_run_are_reported(measured, train, tmp_path):
    """Results name seed, sample size and judge, and belong to exactly these weights."""
    train(tmp_path, images=32)
    found = measured(tmp_path)
    assert read_generator(tmp_path).evaluations == tuple(found.values())
    assert all(figure.sample_size == 120 for figure in found.values())
    protocol = found["class_accuracy"].protocol
    assert "seed 3, indices 0 to 119, classes in turn" in protocol
    assert "judge mnist-classifier, SHA-256" in protocol
    assert "layer features.relu" in protocol
    train(tmp_path, images=40, resume=True)
    assert read_generator(tmp_path).evaluations == ()


@pytest.mark.parametrize(
    ("image", "class_id", "text"),
    [
        (np.zeros((4, 28, 28, 1), np.float32), np.zeros(4, int), "images are float32"),
        (np.zeros((4, 28, 28), np.uint8), np.zeros(4, int), r"uint8 \[4, 28, 28\]"),
        (np.zeros((6, 1, 28, 28), np.uint8), np.zeros(6, int), r"\['N', 28, 28, 1\]"),
        (np.zeros((5, 28, 28, 1), np.uint8), np.zeros(5, int), "at least 6"),
        (np.zeros((6, 28, 28, 1), np.uint8), np.zeros(3, int), "must hold 6 classes"),
        (np.zeros((6, 28, 28, 1), np.uint8), np.full(6, 10), "0 to 9"),
        (np.zeros((6, 28, 28, 1), np.uint8), np.zeros(6), "class_id is float64"),
        (np.zeros((6, 28, 28, 1), np.uint8), np.full(6, "0"), "class_id is <U1"),
    ],
)
def test_incompatible_images_are_refused(measured, npz, image, class_id, text):
    """The error describes images that cannot be compared with the real ones."""
    with pytest.raises(DatasetError, match=f"some.npz: .*{text}"):
        measured(npz(image, class_id))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 torn"])
def test_unreadable_npz_is_refused(measured, tmp_path, content):
    """The error names a file that is not an .npz file."""
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"some.npz: not an .npz file with the arrays image and class_id"
    ):
        measured(tmp_path / "some.npz")


def test_incomplete_npz_is_refused(measured, tmp_path):
    """The error names the missing array."""
    np.savez(tmp_path / "some.npz", image=np.zeros((4, 28, 28, 1), np.uint8))
    with pytest.raises(DatasetError, match="class_id"):
        measured(tmp_path / "some.npz")


def test_missing_sources_are_refused(measured, tmp_path):
    """The error names a missing run or classifier. Without any judge there is an error."""
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        measured(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"holds no classifier \(.*classifier.json: No such file"
    ):
        open_extractor(tmp_path, None, CPU)
    with pytest.raises(CheckpointError, match="name a --classifier or --inception"):
        open_extractor(None, None, CPU)


def test_seeds_give_a_deviation(measured, train, tmp_path):
    """Several seeds are several samples. The result is their mean and standard deviation."""
    train(tmp_path, images=32)
    single = [measured(tmp_path, seed=seed) for seed in (3, 4, 5)]
    found = measured(tmp_path, seeds=3)
    for metric in METRICS:
        values = [figures[metric].value for figures in single]
        assert found[metric].value == pytest.approx(np.mean(values))
        assert found[metric].deviation == pytest.approx(np.std(values, ddof=1))
        assert single[0][metric].deviation is None
    assert found["frechet_distance"].deviation > 0
    assert "seeds 3 to 5, indices 0 to 119" in found["coverage"].protocol
    assert "mean of 3, deviation" in found["coverage"].protocol


def test_checkpoint_is_evaluated_separately(measured, train, tmp_path):
    """An older checkpoint is measured by its own weights and does not change the run's report."""
    train(tmp_path, images=64)
    older, newest = sorted((tmp_path / "checkpoints").iterdir())
    assert newest == find_latest_checkpoint(tmp_path)
    of_older, of_run = measured(older), measured(tmp_path)
    assert of_older["frechet_distance"].value != of_run["frechet_distance"].value
    assert measured(newest) == of_run
    assert read_generator(tmp_path).evaluations == tuple(of_run.values())
    assert not (older / "evaluation.json").exists()


def test_other_data_leave_the_report(measured, train, renamed_digits, tmp_path):
    """Figures against another data set do not take the place of the run's own."""
    train(tmp_path / "run", images=32)
    own = tuple(measured(tmp_path / "run").values())
    assert read_generator(tmp_path / "run").evaluations == own
    measured(tmp_path / "run", dataset=renamed_digits, metrics=METRICS[2:-1])
    assert read_generator(tmp_path / "run").evaluations == own


def test_result_is_cached(measured, npz, test_digits, tmp_path, monkeypatch):
    """The same images under the same protocol are measured once, unless the cache is disabled."""
    first = measured(npz(test_digits.images, test_digits.labels))
    looked = []
    monkeypatch.setattr(
        "imagemint.training.evaluation.judging.measure", lambda *_: looked.append(1) or []
    )
    assert measured(tmp_path / "some.npz") == first
    assert looked == []
    measured(tmp_path / "some.npz", metrics=[], cache=False)
    assert looked == [1]
    measured(npz(test_digits.images[:50], test_digits.labels[:50]), metrics=[])
    assert looked == [1, 1]


def test_cached_result_belongs_to_its_judge_and_data(judge, npz, digits, test_digits, monkeypatch):
    """Without the judge, or beside other data or classes, the same images are measured."""
    looked = []
    monkeypatch.setattr(
        "imagemint.training.evaluation.judging.measure",
        lambda *_: looked.append(1) or [Measured("coverage", 1.0, "as told")],
    )
    source = open_source(str(npz(test_digits.images, test_digits.labels)), CPU)
    extractor, seer = open_extractor(judge, None, CPU)

    def count_measurements(judged_by):
        for _ in range(2):
            evaluate(source, extractor, judged_by, Protocol(dataset="mnist"))
        return len(looked)

    assert count_measurements(seer) == 1
    assert count_measurements(None) == 2
    for split, number in (("train", 3), ("test", 4)):
        splits = {"train": digits, "test": test_digits}
        splits[split] = replace(splits[split], sha256="c" * 64)
        monkeypatch.setitem(datasets.DATASETS, "mnist", lambda split, _, of=splits: of[split])
        assert count_measurements(seer) == number
    names = splits["test"].class_labels[::-1]
    renamed = {split: replace(data, class_labels=names) for split, data in splits.items()}
    monkeypatch.setitem(datasets.DATASETS, "mnist", lambda split, _: renamed[split])
    assert count_measurements(seer) == 5


def test_cached_result_serves_a_moved_run(measured, train, tmp_path):
    """A run that was moved gets its report again without a measurement."""
    train(tmp_path / "a", images=32)
    found = measured(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "evaluation.json").unlink()
    assert measured(tmp_path / "b") == found
    assert read_generator(tmp_path / "b").evaluations == tuple(found.values())


def test_images_and_table_are_written(measured, train, tmp_path):
    """The output has a table, images and curves, which grow with the run."""
    out = tmp_path / "evaluation"
    train(tmp_path, images=32)
    measured(tmp_path, out=out)
    with (out / "history.jsonl").open("a") as history:
        history.write('{"images_s')  # as a power cut leaves it
    train(tmp_path, images=40, resume=True)
    found = measured(tmp_path, out=out)
    names = {path.name for path in out.iterdir()}
    pictures = {"grid.png", "nearest.png", "interpolation.png", "truncation.png", "curves.png"}
    assert names == pictures | {"figures.json", "table.md", "history.jsonl"}
    for name, height in (("grid.png", 280), ("interpolation.png", 280), ("nearest.png", 56)):
        with Image.open(out / name) as picture:
            assert picture.size == (280, height)
    table = (out / "table.md").read_text()
    assert f"| coverage | {found['coverage'].value:.4g} |" in table
    assert table.count("seed 3, indices 0 to 119") == 1
    assert all(f"- {metric}: " in table for metric in METRICS)
    history = [json.loads(row) for row in (out / "history.jsonl").read_text().splitlines()]
    assert [row["images_seen"] for row in history] == [32, 40]


def test_missing_images_are_drawn_for_a_cached_result(measured, npz, test_digits, tmp_path):
    """A cached result still gets its images if there are none."""
    path = npz(test_digits.images, test_digits.labels)
    first = measured(path)
    assert measured(path, out=tmp_path / "out") == first
    assert (tmp_path / "out" / "grid.png").exists()
    assert not (tmp_path / "out" / "interpolation.png").exists()


def test_interrupted_folder_is_written_again(measured, train, tmp_path, monkeypatch, cut_power):
    """A kill or power cut while table and pictures are written does not leave the old ones."""
    out = tmp_path / "evaluation"
    train(tmp_path, images=16)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judging, "write_table", die)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path, out=out)
    assert {path.name for path in out.iterdir()}.isdisjoint({"table.md", "figures.json"})
    measured(tmp_path, out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    cut_power(out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert (out / "table.md").exists()


def test_table_of_other_figures_is_replaced(measured, npz, test_digits, tmp_path):
    """A cached result takes the place of a table of the same images by another protocol."""
    path, out = npz(test_digits.images, test_digits.labels), tmp_path / "out"
    found = measured(path, out=out)
    table = (out / "table.md").read_text()
    others = [replace(figure, value=0.125) for figure in found.values()]
    write_report(out / "figures.json", open_source(str(path), CPU).sha256, others)
    (out / "table.md").write_text("of another judge")
    assert measured(path, out=out) == found
    assert (out / "table.md").read_text() == table


@pytest.fixture
def stacks(monkeypatch, digits, test_digits):
    """Registers toy stacks as Stacked MNIST."""
    splits = {"train": stack_digits(digits, 320), "test": stack_digits(test_digits, 120)}
    monkeypatch.setitem(datasets.DATASETS, "stacked-mnist", lambda split, _: splits[split])
    return splits


STACKED = ["modes", "reverse_kl", *METRICS[2:4], *METRICS[6:]]


@pytest.mark.usefixtures("stacks")
def test_modes_of_stacks_are_counted(measured, npz, test_digits):
    """The digit judge reads each channel. The reference is the floor of a perfect sampler."""
    fresh = stack_digits(test_digits, 500, seed=7)
    path = npz(fresh.images, np.full(len(fresh), -1))
    found = measured(path, metrics=STACKED, dataset="stacked-mnist")
    reached = len(np.unique(fresh.labels))
    assert found["modes"].value == reached
    assert found["modes"].reference == pytest.approx(393.6, abs=4)
    assert found["reverse_kl"].reference > 0.8
    assert found["reverse_kl"].value == pytest.approx(found["reverse_kl"].reference, rel=0.1)
    assert "on each of three channels" in found["modes"].protocol


@pytest.mark.usefixtures("stacks")
def test_lost_modes_are_measured(measured, npz, test_digits):
    """A tenth of the modes gives a count of up to 100 and a divergence of about log 10."""
    sevens = test_digits.labels == 7
    found = stack_digits(test_digits, 400, seed=1)
    images, labels = found.images, found.labels
    images[..., 0] = test_digits.images[sevens][0, ..., 0]
    found = measured(npz(images, np.full(400, -1)), metrics=STACKED, dataset="stacked-mnist")
    assert found["modes"].value == len(np.unique(labels % 100)) <= 100
    assert found["reverse_kl"].value == pytest.approx(np.log(10) + 0.12, abs=0.25)


def test_judge_of_other_classes_gives_features_only(measured, npz, renamed_digits, test_digits):
    """A judge that was trained on other data is used for its features only."""
    path = npz(test_digits.images, test_digits.labels)
    measured(path, metrics=METRICS[2:-1], dataset=renamed_digits)


def test_doubtful_judge_is_reported(measured, npz, test_digits, judge, caplog, tmp_path):  # noqa: PLR0917 - fixtures
    """A weak judge and a small test set give warnings in the log, the table and each protocol."""
    path = npz(test_digits.images, test_digits.labels)
    few = "mnist/test has 60 images only (less than 1,000)"
    assert few in measured(path)["coverage"].protocol
    assert few in caplog.text
    assert "the judge is right" not in caplog.text
    about = json.loads((judge / "classifier.json").read_text())
    weak = tmp_path / "weak"
    shutil.copytree(judge, weak)
    (weak / "classifier.json").write_text(json.dumps(about | {"test_accuracy": 0.35}))
    extractor, seer = open_extractor(weak, None, CPU)
    out = tmp_path / "out"
    evaluate(open_source(str(path), CPU), extractor, seer, Protocol(), out=out)
    text = (out / "table.md").read_text()
    assert "**Warning:** the judge is right about 35.0% of its test images only" in text
    assert "In `grid.png` each row shows ten images of one class." in text
    caplog.clear()
    assert "WARNING: the judge" in evaluate_again(path, weak)[0].protocol
    assert "35.0%" in caplog.text


def evaluate_again(path, judge):
    """Evaluates a source and may find an earlier result."""
    return evaluate(open_source(str(path), CPU), *open_extractor(judge, None, CPU), Protocol())


def test_tiny_test_set_is_refused(judge, npz, monkeypatch, digits, test_digits):
    """Five real images have no neighbourhoods, so the evaluation raises an error."""
    tiny = LabelledImages(
        "mnist/test", test_digits.images[:5], test_digits.labels[:5], digits.class_labels, "t" * 64
    )
    monkeypatch.setitem(
        datasets.DATASETS, "mnist", lambda split, _: tiny if split == "test" else digits
    )
    path = npz(test_digits.images, test_digits.labels)
    with pytest.raises(DatasetError, match="mnist/test has 5 images, too few to compare with"):
        evaluate_again(path, judge)

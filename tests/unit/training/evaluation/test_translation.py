"""Tests of imagemint.training.evaluation.translation: figures, baselines, roll-outs, reports."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from small_translations import SMALL, train

from imagemint.client.cli import main
from imagemint.training import datasets
from imagemint.training.classifier.attributes import AttributeClassifier
from imagemint.training.classifier.networks import (
    DigitClassifier,
    PooledClassifier,
    ResidualClassifier,
)
from imagemint.training.datasets.images import Attribute, LabelledImages
from imagemint.training.datasets.translations import load_pairs, tasks
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.evaluation.translation import (
    Translator,
    evaluate_translation,
    find_baselines,
)
from imagemint.training.evaluation.translation.evaluating import predict
from imagemint.training.evaluation.translation.figures import (
    Truth,
    compute_mean_figure,
    measure_attributes,
    measure_results,
)
from imagemint.training.loop.examples import Examples
from imagemint.training.loop.translation_task import TranslationTask
from imagemint.training.metrics import peak_signal_noise_ratio, sharpness
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.recipes.cyclegan import CycleganRecipe
from imagemint.training.translators import read_translator

CYCLEGAN = CycleganRecipe.model_fields
WORN = np.arange(0, 40, 4)


def people_of(split, seed):
    """Returns forty smooth images on white; every fourth has a dark box in the place of glasses."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    images = ndimage.gaussian_filter(rng.uniform(0, 255, (40, 64, 64, 3)), (0, 3, 3, 0))
    images = np.clip((images - 127) * 4 + 127, 0, 255).astype(np.uint8)
    frame = np.ones((64, 64), np.bool_)
    frame[12:52, 12:52] = False
    images[:, frame] = 255
    bare = images[WORN].copy()
    images[WORN, 22:28, 20:44] = 0
    codes = np.zeros(40, np.int64)
    codes[WORN] = 1
    glasses = Attribute("accessories", ("none", "round"), codes)
    labels = np.arange(40) % 2
    data = LabelledImages(
        f"avatars64/{split}", images, labels, ("a", "b"), f"{seed}", attributes=(glasses,)
    )
    return data, bare


@pytest.fixture
def people(monkeypatch):
    """Replaces avatars64 in `load_pairs` by toy people."""
    splits = {"train": people_of("train", 1), "test": people_of("test", 2)}
    monkeypatch.setitem(datasets.DATASETS, "avatars64", lambda split, _: splits[split][0])
    monkeypatch.setattr(tasks.avatars, "load_bare", lambda split, _: (WORN, splits[split][1]))
    return splits


class TrueJudge(Judge):
    """Sees the box of glasses, and has the activations of an untrained network."""

    def __init__(self):
        torch.manual_seed(0)
        self._model = AttributeClassifier(2, {"accessories": 2}, width=2).eval()
        self.trained_on = "avatars64/train"
        self.description = "toy judge"

    def predict_attributes(self, images):
        """Returns glasses for a dark box."""
        dark = images[:, 22:28, 20:44].mean(axis=(1, 2, 3)) < 10
        return {"accessories": dark.astype(np.int64)}


def by_name(figures):
    """Returns the figures by their metric."""
    return {figure.metric: figure for figure in figures}


def test_perfect_translator_reaches_the_references(people, tmp_path):
    """The true images as results have the floor of every distance; baselines do not."""
    del people
    _, test = (load_pairs("edges", split) for split in ("train", "test"))
    _, truth = test.make_examples(np.arange(40))
    translator = Translator("toy", "12ab", "edges", "avatars64", lambda x: truth[: len(x)])
    found = by_name(evaluate_translation(translator, TrueJudge(), out=tmp_path))
    assert found["psnr"].value == pytest.approx(58.9, abs=0.1)
    assert found["psnr"].deviation == 0
    assert found["ssim"].value == pytest.approx(1, abs=1e-4)
    assert found["ms_ssim"].value == pytest.approx(1, abs=1e-4)
    assert found["feature_distance"].value == 0
    assert found["feature_distance"].reference > 0
    for metric in ("frechet_distance", "kernel_distance", "attributes_kept", "sharpness"):
        assert found[metric].value == pytest.approx(found[metric].reference), metric
    assert found["psnr@mean_image"].value < 25
    assert found["psnr@mean_image"].deviation > 0
    assert found["frechet_distance@mean_image"].value > found["frechet_distance"].value
    assert found["psnr"].sample_size == 40
    assert "rows 0 to 39" in found["psnr"].protocol
    recorded = json.loads((tmp_path / "figures.json").read_text())
    assert recorded["weights_sha256"] == "12ab"
    table = (tmp_path / "table.md").read_text()
    assert "| metric | result | mean_image | real data | images |" in table
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert sheet.width >= 4 * 64


def test_figures_without_judge(people):
    """Without a classifier, only pixels are compared."""
    del people
    translator = Translator("toy", "12ab", "gray", "avatars64", lambda x: x.repeat(3, axis=3))
    found = by_name(evaluate_translation(translator, None))
    assert {name.partition("@")[0] for name in found} == {"psnr", "ssim", "ms_ssim", "sharpness"}
    assert found["psnr@mean_colour"].value > 5


def test_removed_glasses_are_counted(people):
    """Of unpaired data the attribute to be removed is judged apart; round trips have an error."""
    bare = people["test"][1]
    translator = Translator(
        *("toy", "12ab", "glasses", "avatars64"), lambda x: bare[: len(x)], back=lambda x: x
    )
    found = by_name(evaluate_translation(translator, TrueJudge()))
    assert found["glasses_removed"].value == found["glasses_removed"].reference == 1
    assert found["glasses_removed@identity"].value == 0
    assert found["glasses_put_on"].value == 0
    assert found["glasses_put_on"].reference == 1
    sources = people["test"][0].images[WORN]
    expected = np.abs(sources.astype(float) - bare).mean()
    assert found["cycle_error"].value == pytest.approx(expected)


def test_classes_have_no_truth(monkeypatch):
    """Without true targets, results are compared with other images of the target class."""
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    images = ndimage.gaussian_filter(rng.uniform(0, 255, (40, 64, 64, 3)), (0, 3, 3, 0))
    data = LabelledImages(
        "animals/test", images.astype(np.uint8), np.arange(40) % 4 // 3, ("horse", "zebra"), "1"
    )
    monkeypatch.setitem(datasets.DATASETS, "animals", lambda split, _: data)
    judge = TrueJudge()
    judge.trained_on = "animals/train"
    translator = Translator("toy", "12ab", "classes", "animals", lambda x: x, back=lambda x: x)
    figures = {each.metric: each for each in evaluate_translation(translator, judge)}
    own = {name for name in figures if "@" not in name}
    distances = {"frechet_distance", "kernel_distance"}
    assert own == {"sharpness", "target_class", "cycle_error"} | distances
    assert figures["target_class"].sample_size == 10  # no zebra counts twice


def test_holes_are_measured_below_the_mask(people):
    """Recipes that fill holes also remove the glasses of the test split."""
    del people
    translator = Translator("toy", "12ab", "holes", "avatars64", lambda x: x[..., :3])
    found = by_name(evaluate_translation(translator, TrueJudge()))
    assert found["psnr_in_hole"].value < found["psnr"].value
    assert found["psnr_in_hole@telea"].value > found["psnr_in_hole"].value + 3
    assert found["glasses_removed"].value == 1
    assert found["psnr_where_glasses_were@telea"].sample_size == len(WORN)


def test_predictions_feed_on_themselves(people):
    """Each predicted frame becomes the newest one of the next source."""
    del people
    sources = np.zeros((2, 4, 4, 12), np.uint8)
    sources[..., 9:] = 5
    frames = predict(lambda x, _: x[..., -3:] + x[..., :3] + 1, sources, 5, 3)
    assert frames.shape == (2, 5, 4, 4, 3)
    # 0, 0, 0, 5 grow to 6, 7, 8, and then the first 5 and the first 6 come in.
    assert frames[0, :, 0, 0, 0].tolist() == [6, 7, 8, 14, 21]


def test_sequences_are_rolled_out(people):
    """A translator that repeats the last frame has the figures of the baseline, which get worse."""
    del people
    translator = Translator("toy", "12ab", "frames", "avatars64", lambda x: x[..., -3:])
    found = by_name(evaluate_translation(translator, None))
    steps = [found[f"psnr_step_{step}"].value for step in range(1, 11)]
    assert steps[0] > steps[4] > steps[9]
    assert steps == [found[f"psnr_step_{step}@last_frame"].value for step in range(1, 11)]
    assert found["sharpness_step_10"].value == pytest.approx(1, abs=0.5)


def test_baselines_of_every_task(people):
    """Each task has a baseline whose results have the shape of the targets."""
    del people
    rows = np.arange(8)
    names = {}
    for task in tasks.TASKS:
        train, test = (load_pairs(task, split) for split in ("train", "test"))
        sources, truth = test.make_examples(rows)
        for baseline in find_baselines(train, test):
            results = baseline.translate(sources, rows)
            assert (results.dtype, results.shape) == (np.uint8, truth.shape), task
        names[task] = [baseline.name for baseline in find_baselines(train, test)]
    assert names == {
        "edges": ["mean_image"],
        "gray": ["mean_colour"],
        "low-resolution": ["bicubic"],
        "motion-blur": ["identity", "wiener", "wiener_known"],
        "holes": ["mean_fill", "telea"],
        "glasses-mask": ["mean_fill", "telea"],
        "glasses": ["identity"],
        "classes": ["identity"],
        "frames": ["last_frame"],
        "images": ["identity"],
        "left-to-right": ["identity"],
        "right-to-left": ["identity"],
    }


def test_known_blur_is_undone(people):
    """The Wiener filter that knows the blur gains much, and its result is sharper."""
    del people
    train, test = (load_pairs("motion-blur", split) for split in ("train", "test"))
    rows = np.arange(10)
    sources, truth = test.make_examples(rows)
    known = find_baselines(train, test)[2].translate(sources, rows)
    gain = peak_signal_noise_ratio(known, truth) - peak_signal_noise_ratio(sources, truth)
    assert gain.mean() > 5
    assert sharpness(known).mean() > sharpness(sources).mean()


def test_run_is_measured_by_the_command(people, tmp_path, monkeypatch, capsys):
    """`imagemint evaluate RUN` prints every figure, and writes those of the run beside it."""
    del people
    monkeypatch.setattr(tasks, "_BOXES", 0.0)
    pairs, examples = (load_pairs("glasses", split) for split in ("train", "test"))
    recipe = CycleganRecipe(**{name: it for name, it in SMALL.items() if name in CYCLEGAN})
    train(TranslationTask(recipe, pairs, Examples.of(examples)), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "psnr@identity" in printed
    assert "cycle_error" in printed
    recorded = json.loads((tmp_path / "run/evaluation.json").read_text())
    names = {each["metric"] for each in recorded["figures"]}
    assert {"psnr", "ssim", "cycle_error"} <= names
    assert not any("@" in name for name in names)
    assert (tmp_path / "run/evaluation/table.md").is_file()
    evaluations = read_translator(tmp_path / "run").evaluations
    assert {evaluation.metric for evaluation in evaluations} == names


def test_run_is_measured_on_other_data(people, tmp_path, monkeypatch):
    """Images of another size and with other channels are converted to those of the run."""
    del people
    pairs, examples = (load_pairs("gray", split) for split in ("train", "test"))
    fields = TRANSLATION_RECIPES["colorize"].model_fields
    recipe = TRANSLATION_RECIPES["colorize"](
        **{name: it for name, it in SMALL.items() if name in fields}
    )
    train(TranslationTask(recipe, pairs, Examples.of(examples)), tmp_path / "run")
    ramps = np.arange(8 * 28 * 28, dtype=np.uint8).reshape(8, 28, 28, 1)
    gray = LabelledImages("digits/test", ramps, np.zeros(8, np.int64), ("a",), "1")
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda split, _: gray)
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "--device", "cpu", "--dataset", "digits"]) == 0


def test_flat_images_have_no_sharpness():
    """No figure is infinite, which JSON cannot hold."""
    flat = np.full((4, 32, 32, 3), 9, np.uint8)
    data = LabelledImages("flat/test", flat, np.zeros(4, np.int64), ("a",), "1")
    figures = by_name(measure_results(flat + np.uint8(1), Truth(flat, flat, data), None))
    assert "psnr" in figures
    assert "sharpness" not in figures
    assert all(np.isfinite(figure.value) for figure in figures.values())


def test_blurred_results_have_less_sharpness():
    """The sharpness of results is a share of that of the true images."""
    images = np.zeros((4, 32, 32, 3), np.uint8)
    images[:, :, ::2] = 100
    data = LabelledImages("stripes/test", images, np.zeros(4, np.int64), ("a",), "1")
    figures = by_name(measure_results(images // 2, Truth(images, images, data), None))
    assert figures["sharpness"].value == pytest.approx(0.5)


def test_mean_has_its_standard_error():
    """It is the sample deviation divided by the root of the number; one image has none."""
    figure = compute_mean_figure("psnr", np.array([1.0, 2.0, 3.0, 6.0]), "dB")
    assert (figure.value, figure.count) == (3.0, 4)
    assert figure.error == pytest.approx((14 / 3) ** 0.5 / 2)
    assert compute_mean_figure("psnr", np.array([1.0]), "dB").error is None


def test_hidden_attributes_do_not_count(people):
    """An attribute that a picture does not show does not lower the figure of a result."""
    data, _ = people["test"]
    seen = data.attributes[0].codes == 0
    hidden = replace(data, attributes=(replace(data.attributes[0], visible=seen),))
    results = np.full_like(data.images, 255)  # in which the judge recognises no glasses
    wrong, right = (
        next(iter(measure_attributes(results, Truth(results, results, it), TrueJudge())))
        for it in (data, hidden)
    )
    assert "accessories 0.750" in wrong.detail
    assert "accessories 1.000" in right.detail


def test_judge_must_fit(people):
    """A judge of another size is refused, and the error names the size."""
    del people

    class Small(TrueJudge):
        def takes(self, shape):
            return False

    translator = Translator("toy", "12ab", "edges", "avatars64", lambda x: x)
    with pytest.raises(DatasetError, match="64, 64, 3"):
        evaluate_translation(translator, Small())


def test_images_can_be_too_few_to_compare(people):
    """The error says how many there are, and how many are needed."""
    del people
    translator = Translator("toy", "12ab", "edges", "avatars64", lambda x: x)
    with pytest.raises(DatasetError, match=r"5 images of .* can be compared, and at least 6 are"):
        evaluate_translation(translator, TrueJudge(), samples=5)


@pytest.mark.parametrize(
    ("network", "shape", "depths"),
    [
        (AttributeClassifier(2, {}, width=2), (3, 64, 64), 5),
        (DigitClassifier(2), (1, 28, 28), 4),
        (ResidualClassifier(2, width=4), (3, 32, 32), 4),
        (PooledClassifier(2, width=8), (3, 32, 32), 4),
    ],
    ids=["attributes", "digits", "residual", "pooled"],
)
def test_judges_have_activations_at_several_depths(network, shape, depths):
    """Distances use the maps of every ReLU, residual block or stage, from fine to coarse."""
    maps = network.eval().compute_feature_maps(torch.zeros(2, *shape))
    assert len(maps) == depths
    sizes = [map_.shape[2] for map_ in maps]
    assert sizes == sorted(sizes, reverse=True)

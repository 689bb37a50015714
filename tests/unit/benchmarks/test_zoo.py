"""Tests of benchmarks/zoo_*.py: the queue, the records and the page of training runs."""

import itertools
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import zoo_queue
from PIL import Image
from zoo_page import LIST, PAGE, PICTURES, list_curves, order, read_systems, write_list, write_page
from zoo_pictures import Curve, draw_collapse, draw_curves, draw_grids, draw_story
from zoo_queue import Judge, Plan, Queue, Run, StopQueueError, read_plan
from zoo_records import (
    RECORDS,
    WIDEST,
    name_run,
    read_curve,
    read_records,
    set_remark,
    spell_command,
)

from imagemint.training.datasets import IMAGE_SHAPES
from imagemint.training.networks import count_growing_images
from imagemint.training.recipes import RECIPES, TRANSLATION_RECIPES

# --- the page ------------------------------------------------------------------------------------


def test_page_and_list_match_the_records():
    """The command `python benchmarks/zoo.py page` would change neither."""
    records = read_records()
    assert PAGE.read_text() == write_page(records, read_plan())
    assert LIST.read_text() == write_list(records)


def test_every_record_has_its_grid():
    """Each record has a grid of a suitable size, and each data set has a picture."""
    records = read_records()
    names = {record.name for record in records}
    assert names == {path.stem for path in RECORDS.glob("*.json")}
    assert names == {path.stem for path in RECORDS.glob("*.png")}
    for name in names:
        with Image.open(RECORDS / f"{name}.png") as grid:
            assert max(grid.size) <= WIDEST
    assert all((PICTURES / f"{record.dataset}.png").exists() for record in records)


def test_every_recipe_is_explained():
    """The plan has the paper of each recipe and an explanation."""
    systems = read_systems()
    assert systems.keys() == RECIPES.keys()
    assert all(system.text.endswith(".") for system in systems.values())


@pytest.fixture
def records():
    """Records of a short run of dcgan and of two seeds of mnist, with curves."""
    known = {record.name: record for record in read_records()}
    point = {"images": 64_000.0, "cpu_minutes": 2.5, "frechet_over_floor": 3.0, "coverage": 0.5}
    mnist = replace(known["mnist"], curve=[point], cpu_minutes=2.5)
    distance = mnist.figures["frechet_distance"]
    worse = mnist.figures | {"frechet_distance": replace(distance, value=2 * distance.value)}
    other = replace(mnist, seed=1, figures=worse)
    return [replace(known["dcgan"], images=400_000), mnist, other]


def test_table_has_the_range_of_seeds(records):
    """A recipe with several seeds has mean, minimum and maximum. The best is first."""
    lines = write_page(records, Plan((), ())).splitlines()
    rows = [line for line in lines if line.startswith("| [") and line.count("|") > 6]
    assert [row.split("]")[0] for row in rows] == ["| [mnist", "| [dcgan"]
    low = records[1].over_floor
    assert f"| {1.5 * low:.3g} ({low:.3g} to {2 * low:.3g}) |" in rows[0]
    assert "(short)" in rows[1]


def test_list_has_the_run_on_the_data_set_of_the_recipe(records):
    """A run on other data is listed only if there is no other run, and a later seed likewise."""
    elsewhere = replace(records[0], dataset="avatars64", command="imagemint train on other data")
    late = replace(records[0], seed=1, command="imagemint train with another seed")

    def get_command(*known):
        return json.loads(write_list(known))["dcgan"]["command"]

    for order_of_records in itertools.permutations([records[0], elsewhere, late]):
        assert get_command(*order_of_records) == records[0].command
    assert get_command(elsewhere, late) == get_command(late, elsewhere) == late.command
    assert get_command(elsewhere) == elsewhere.command


def test_failed_run_is_marked(records):
    """It stays on the page with its reason."""
    failed = replace(records[0], failure="the samples are all alike")
    page = write_page([failed], Plan((), ()))
    assert "dcgan.py) (ended early) |" in page
    assert f"*In the run:* {failed.remark} Seed 0 ended early: the samples are all alike." in page


def test_runs_without_a_record_are_listed(records):
    """Runs that the queue has not done yet are listed with their length."""
    plan = Plan(
        (), (Run("mnist", 0, ("digits",), {"images": 960_000}), Run("wgan", 2, ("digits",)))
    )
    page = write_page(records, plan)
    assert "- `wgan-seed2`: 1,500,000 images" in page
    assert "- `mnist`:" not in page


@pytest.mark.parametrize(
    ("changed", "is_open"),
    [
        ({"images": 960_255}, False),  # the last batch goes beyond the length
        ({"images": 64_000}, True),
        ({"images": 64_000, "failure": "the samples are all alike"}, False),
        ({"curve": []}, True),  # older than the queue
    ],
)
def test_record_closes_a_run_of_the_queue(records, changed, is_open):
    """A record of a run that reached its length, or failed, is the run of the queue."""
    plan = Plan((), (Run("mnist", 0, ("digits",), {"images": 960_000}),))
    page = write_page([replace(records[1], **changed)], plan)
    assert ("- `mnist`: 960,000 images" in page) is is_open


@pytest.mark.parametrize("metric", ["frechet_distance", "frechet_distance@digits-residual"])
def test_run_of_other_judges_is_open(records, metric):
    """A record that one of the kept judges did not measure does not close the run."""
    plan = Plan((), (Run("mnist", 0, ("digits", "digits-residual"), {"images": 960_000}),))
    assert "## Still to be run" not in write_page([records[1]], plan)
    figure = records[1].figures[metric]
    judges = (figure.setup.judges[0].replace("SHA-256 ", "SHA-256 0"),)
    other = replace(figure, setup=replace(figure.setup, judges=judges))
    changed = replace(records[1], figures=records[1].figures | {metric: other})
    line = "- `mnist`: 960,000 images (measured by judges that are not kept)"
    assert line in write_page([changed], plan).splitlines()
    short = replace(changed, images=64_000, curve=[])
    line = "(the run shown has 64,000, no curve, measured by judges that are not kept)"
    assert line in write_page([short], plan)


def test_run_without_a_snapshot_needs_no_curve(records):
    """The record of a run that ends before its first snapshot closes the run."""
    short = replace(records[1], images=60_000, curve=[])
    plan = Plan((), (Run("mnist", 0, ("digits",), {"images": 60_000}),))
    assert "## Still to be run" not in write_page([short], plan)


def test_run_with_snapshots_of_its_own_needs_a_curve(records):
    """A short run whose entry asks for snapshots is open until its record has their figures."""
    short = replace(records[1], images=60_000, curve=[])
    plan = Plan((), (Run("mnist", 0, (), {"images": 60_000, "snapshot_interval": 20_000}),))
    assert "(no curve)" in write_page([short], plan)


def test_judges_and_command_stand_once(records):
    """Runs with another judge are named; the command and a judge are not repeated."""
    figure = records[1].figures["frechet_distance"]
    other = replace(figure, setup=replace(figure.setup, judges=("judge other",)))
    figures = records[1].figures | {"frechet_distance": other}
    page = write_page([records[0], replace(records[1], figures=figures)], Plan((), ()))
    main, second = (judge.removeprefix("judge ") for judge in records[0].judges)
    assert page.count(main) == 1
    lines = page.splitlines()
    assert f"- judge A: {main}; {second}" in lines
    assert f"- judge B: other; {second}" in lines
    rows = {line.split("]")[0]: line.split(" | ") for line in lines if line.startswith("| [")}
    assert (rows["| [mnist"][2], rows["| [dcgan"][2]) == ("B", "A")
    assert page.count("imagemint evaluate RUN") == 1


def test_pictures_are_drawn(records, tmp_path):
    """Grids and curves become one picture each."""
    draw_grids(records[:2], tmp_path / "grids.png")
    draw_curves(
        [Curve(record, sees_labels=True) for record in records[1:]], tmp_path / "curves.png"
    )
    for name in ("grids", "curves"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture).std() > 0


def test_collapse_is_drawn(records, tmp_path):
    """Digits and coverage of the listing and of both runs become one picture."""
    points = [{"images": n, "modes": n / 100, "coverage": 0.1} for n in (100, 200)]
    (tmp_path / "listing.json").write_text(json.dumps({"listing": points, "recipe": points}))
    run = replace(records[1], curve=[point | {"images": 300.0} for point in points])
    draw_collapse(run, tmp_path / "listing.json", 100, tmp_path / "collapse.png")
    with Image.open(tmp_path / "collapse.png") as picture:
        assert np.asarray(picture).std() > 0


def test_story_needs_its_grids(tmp_path):
    """Grids, images and losses of a run become one picture. A missing grid is an error."""
    (tmp_path / "grids").mkdir()
    Image.fromarray(np.zeros((280, 280), np.uint8)).save(tmp_path / "grids/0000000512.png")
    rows = [{"images": n, "loss_D": 1.0, "loss_G": 2.0} for n in (256, 512)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_story(tmp_path, [0], 512, tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 0
    with pytest.raises(FileNotFoundError, match="no grid from image 1,024 on"):
        draw_story(tmp_path, [0, 1], 512, tmp_path / "story.png")


def test_weak_judge_is_named(records):
    """A table whose judge is right on less than 80 % of its test images says so."""
    figure = records[1].figures["frechet_distance"]
    weak = ("judge image-classifier, SHA-256 00, test accuracy 0.7054, layer features.pool",)
    other = replace(figure, setup=replace(figure.setup, judges=weak))
    figures = {"frechet_distance": other, "coverage": records[1].figures["coverage"]}
    text = "The judge is right on only 0.71 of its test images, so distances are rough."
    assert text in write_page([replace(records[1], figures=figures)], Plan((), ()))
    assert text not in write_page(records, Plan((), ()))


def test_missed_targets_are_named(records):
    """The page names the recipes on mnist that miss a target, with the mean over their seeds."""
    known = {each.name: each for each in read_records()}
    mnist = records[1]

    def change(record, over_floor, **values):
        floor = record.figures["frechet_distance"].reference
        values["frechet_distance"] = over_floor * floor
        changed = {name: replace(record.figures[name], value=x) for name, x in values.items()}
        return replace(record, figures=record.figures | changed)

    met = [
        change(mnist, 20, coverage=0.9, class_accuracy=0.98),
        change(known["dcgan"], 19, coverage=0.95),
        known["vanilla-mnist"],
        replace(known["stacked-mnist"], figures=known["improved"].figures),
    ]
    text = (
        "The target of the distance is missed by {}; that of the coverage by {}; that of the"
        " accuracy by {}."
    )
    assert text.format(*["no recipe"] * 3) in write_page(met, Plan((), ()))
    missed = [
        change(mnist, 10, coverage=0.9, class_accuracy=0.97),
        replace(change(mnist, 40, coverage=0.8, class_accuracy=0.98), seed=1),
        change(known["dcgan"], 21, coverage=0.95),
        change(known["lsgan"], 10, coverage=0.25),
    ]
    found = "`dcgan` (21) and `mnist` (25)", "`lsgan` (0.25) and `mnist` (0.85)", "`mnist` (0.975)"
    assert text.format(*found) in write_page(missed, Plan((), ()))


@pytest.mark.parametrize(
    ("metric", "changed", "is_marked"),
    [
        ("frechet_distance", {"detail": "all against 340 test images"}, True),
        ("frechet_distance", {"detail": "all against 10,000 test images"}, False),
        ("coverage", {"method": "k = 5, 3,000 test images, in feature space"}, True),
        ("coverage", {"method": "k = 5, 3,000 of each, in feature space"}, False),
    ],
)
def test_unequal_numbers_are_marked(records, metric, changed, is_marked):
    """A row with figures of other numbers of test images is marked, and the page says why."""
    dcgan = records[0]
    figures = dcgan.figures | {metric: replace(dcgan.figures[metric], **changed)}
    page = write_page([replace(dcgan, figures=figures)], Plan((), ()))
    assert ("dcgan.py) (short, unequal numbers) |" in page) is is_marked
    assert ("A run marked *unequal numbers*" in page) is is_marked


def test_columns_without_figures_are_omitted(records):
    """A data set whose runs have no class accuracy has no such column."""
    dcgan, mnist, _ = records
    assert "| accuracy |" in write_page([mnist], Plan((), ()))
    assert "| accuracy |" not in write_page([dcgan], Plan((), ()))


def test_curves_are_in_the_order_of_the_table(records):
    """The legend begins with the best run. Runs without a curve are not drawn."""
    dcgan, mnist, other = records
    elsewhere = replace(dcgan, dataset="avatars64")
    curves = list_curves([dcgan, replace(mnist, curve=[]), other, elsewhere])
    names = {dataset: [run.record.name for run in runs] for dataset, runs in curves.items()}
    assert names == {"mnist": ["mnist-seed1", "dcgan"], "avatars64": ["dcgan-avatars64"]}
    assert [each.sees_labels for each in curves["mnist"]] == [True, False]


# --- records -------------------------------------------------------------------------------------


def test_command_has_options_that_differ_from_the_recipe():
    """Options at their defaults are omitted."""
    options = {name: field.default for name, field in RECIPES["dcgan"].model_fields.items()}
    about = {"recipe": "dcgan", "options": options | {"images": 7, "batch_size": 3}}
    command = "imagemint train dcgan --out runs/dcgan --images 7 --batch-size 3"
    assert spell_command(about | {"dataset": "mnist/train", "precision": "fp32"}) == command
    elsewhere = about | {"dataset": "emoji64/train", "precision": "bf16"}
    assert spell_command(elsewhere) == f"{command} --dataset emoji64 --precision bf16"


def test_remark_is_set_in_the_record(tmp_path):
    """The remark of a record changes, and nothing else."""
    (path,) = RECORDS.glob("dcgan.json")
    (tmp_path / path.name).write_text(path.read_text())
    set_remark("dcgan", "Broken strokes.", tmp_path)
    content = json.loads((tmp_path / path.name).read_text())
    assert content == json.loads(path.read_text()) | {"remark": "Broken strokes."}
    with pytest.raises(FileNotFoundError):
        set_remark("dc", "Broken strokes.", tmp_path)


def test_curve_sums_the_cpu_time():
    """Each point has the CPU minutes of all rows up to it, if they are known."""
    rows = [{"images": 10, "cpu_s": 30.0}, {"images": 20, "cpu_s": 90.0, "frechet_over_floor": 2.0}]
    assert read_curve(rows) == [{"images": 20, "cpu_minutes": 2.0, "frechet_over_floor": 2.0}]
    del rows[0]["cpu_s"]
    assert read_curve(rows) == [{"images": 20, "frechet_over_floor": 2.0}]


def test_names_of_runs_are_distinct():
    """Another data set and another seed are in the name, and defaults are not."""
    assert name_run("dcgan", "mnist", 0) == "dcgan"
    assert Run("dcgan", 0, (), {"dataset": "/data/pets"}).name == "dcgan-pets"
    assert name_run("progressive", "avatars64", 2) == "progressive-avatars64-seed2"
    assert Run("srgan", 0, (), {"dataset": "cifar10"}).name == "srgan-cifar10"
    assert Run("srgan", 0, (), {"dataset": "cifar10"}, "srresnet").name == "srresnet"


def test_better_recipes_come_first(records):
    """The order is that of the mean Frechet distance."""
    dcgan, mnist, other = records
    assert order({"dcgan": [dcgan], "mnist": [mnist, other]}) == [[mnist, other], [dcgan]]


# --- the queue -----------------------------------------------------------------------------------


def test_plan_is_valid():
    """Every entry has an existing recipe, judges of the plan and existing options."""
    plan = read_plan()
    assert {run.recipe for run in plan.generators} <= RECIPES.keys()
    assert {run.recipe for run in plan.translators} == TRANSLATION_RECIPES.keys()
    assert len({run.name for run in plan.runs}) == len(plan.runs)
    judges = {judge.name for judge in plan.judges}
    for run in plan.runs:
        assert run.judges
        assert set(run.judges) <= judges
        recipes = TRANSLATION_RECIPES if run.is_translator else RECIPES
        assert run.options.keys() <= recipes[run.recipe].model_fields.keys() | {
            "dataset",
            "precision",
            "snapshot_interval",
        }


def test_planned_networks_grow_to_the_full_size():
    """Each planned run of `progressive` goes on after its networks are fully grown."""
    runs = [run for run in read_plan().runs if run.recipe == "progressive"]
    assert {run.dataset for run in runs} == {"mnist", "avatars64"}
    for run in runs:
        given = {key: run.options[key] for key in ("images", "stage_images") if key in run.options}
        recipe = RECIPES[run.recipe](**given)
        size = IMAGE_SHAPES[run.dataset][0]
        assert count_growing_images(size, recipe.stage_images) < 0.6 * recipe.images


@pytest.fixture
def imagemint(tmp_path):
    """A function that makes a command to replace `imagemint`. It records its arguments."""

    def write(body):
        script = tmp_path / "imagemint.py"
        script.write_text(
            "import json, os, pathlib, signal, sys\n"
            f"with open({str(tmp_path / 'calls')!r}, 'a') as calls:\n"
            "    print(json.dumps(sys.argv[1:]), file=calls)\n"
            "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1]) if '--out' in sys.argv"
            " else None\n" + textwrap.dedent(body)
        )
        return [sys.executable, str(script)]

    return write


def read_calls(folder):
    """Returns the recorded calls as lists of arguments."""
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


ENDS_WELL = """
if sys.argv[1] == "train":
    (out / "checkpoints/0000000064").mkdir(parents=True, exist_ok=True)
    (out / "classifier.json").write_text("{}")
"""
PLAN = Plan(
    (Judge("one", "mnist-classifier"), Judge("two", "mnist-classifier", {"mirror": False})),
    (Run("dcgan", 3, ("one", "two"), {"images": 64}),),
)


def test_queue_trains_measures_and_records_once(tmp_path, imagemint):
    """Judges are trained before runs, and finished work is not repeated."""
    recorded = []
    command = imagemint(ENDS_WELL)
    queue = Queue(PLAN, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command)
    queue.run()
    queue.run()
    verbs = [call[:2] for call in read_calls(tmp_path)]
    folder = tmp_path / "runs/dcgan-seed3"
    assert verbs == [
        ["train", "mnist-classifier"],
        ["train", "mnist-classifier"],
        ["train", "dcgan"],
        ["evaluate", str(folder)],
    ]
    assert "--no-mirror" in read_calls(tmp_path)[1]
    assert read_calls(tmp_path)[2][-6:-2] == ["--seed", "3", "--images", "64"]
    assert read_calls(tmp_path)[3].count("--classifier") == 2
    assert recorded == [(folder, PLAN.runs[0], "")]
    assert [said for _, said in queue.list_status()] == ["recorded"]


def test_translators_are_trained_and_recorded(tmp_path, imagemint):
    """A translator gets the first judge if its losses need one. Both kinds of runs are recorded."""
    runs = (
        Run("pix2pix", 0, ("one",)),
        Run("srgan", 0, ("one",), {"perceptual_after": 9}, "late"),
        Run("srgan", 0, ("one",), {"perceptual_weight": 0.0}, "without"),
    )
    recorded = []
    plan, command = Plan(PLAN.judges, runs), imagemint(ENDS_WELL)
    Queue(plan, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command).run()
    assert recorded == [(tmp_path / "runs" / run.name, run, "") for run in runs]
    judge = str(tmp_path / "runs/judges/one")
    calls = read_calls(tmp_path)[1:]
    trained = [call[call.index("--seed") :] for call in calls if call[0] == "train"]
    assert trained == [
        ["--seed", "0"],
        ["--seed", "0", "--perceptual-after", "9", "--judge", judge],
        ["--seed", "0", "--perceptual-weight", "0.0"],
    ]
    assert [call[-2:] for call in calls if call[0] == "evaluate"] == [["--classifier", judge]] * 3


def test_judge_that_is_kept_is_not_trained(tmp_path, imagemint):
    """The queue measures with the judges of the repository where it has them."""
    (tmp_path / "kept/one").mkdir(parents=True)
    (tmp_path / "kept/one/classifier.json").write_text("{}")
    command = imagemint(ENDS_WELL)
    queue = Queue(
        PLAN, tmp_path / "runs", lambda *_: None, judges=tmp_path / "kept", imagemint=command
    )
    queue.run()
    calls = read_calls(tmp_path)
    assert [call[:2] for call in calls[:2]] == [["train", "mnist-classifier"], ["train", "dcgan"]]
    assert "--no-mirror" in calls[0]
    judges = [str(tmp_path / "kept/one"), str(tmp_path / "runs/judges/two")]
    assert calls[-1][-4:] == ["--classifier", judges[0], "--classifier", judges[1]]
    assert calls[1][-1] == judges[0]


def test_extended_run_resumes(tmp_path, imagemint):
    """A run whose length grew in the plan continues from its checkpoint and is recorded again."""
    recorded = []
    command = imagemint(ENDS_WELL)
    for images in (64, 128):
        run = Run("dcgan", 0, ("one",), {"images": images})
        plan = Plan(PLAN.judges, (run,))
        Queue(plan, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command).run()
    trained = [call for call in read_calls(tmp_path) if call[:2] == ["train", "dcgan"]]
    assert ["--resume" in call for call in trained] == [False, True]
    assert [job.options["images"] for _, job, _ in recorded] == [64, 128]


def test_precision_fits_the_machine(tmp_path, imagemint, monkeypatch):
    """A run planned in bf16 starts in what the machine computes fast, and goes on in its own."""
    command, given = imagemint(ENDS_WELL), []
    for images, chosen, ratio in (
        *((64, "fp32", 1.5), (128, "fp32", 0.5)),
        *((64, "fp32", 0.5), (128, "fp32", 0.5)),
        (64, "bf16", 1.5),
    ):
        monkeypatch.setattr(zoo_queue, "choose_precision", lambda _, chosen=chosen: chosen)
        monkeypatch.setattr(zoo_queue, "compare_precisions", lambda _, ratio=ratio: ratio)
        run = Run("dcgan", len(given) // 2, ("one",), {"images": images, "precision": "bf16"})
        Queue(Plan(PLAN.judges, (run,)), tmp_path / "runs", lambda *_: 0, imagemint=command).run()
        trained = [call for call in read_calls(tmp_path) if call[:2] == ["train", "dcgan"]]
        given.append(trained[-1][trained[-1].index("--precision") + 1])
    assert given == ["fp32", "auto", "bf16", "auto", "bf16"]


def test_run_that_fails_is_recorded_with_its_reason(tmp_path, imagemint):
    """The queue continues, and the record has the last line of the run."""
    recorded = []
    command = imagemint(
        ENDS_WELL
        + """
        if sys.argv[1:2] == ["train"] and sys.argv[2] == "dcgan":
            print("imagemint train: the samples are all alike", file=sys.stderr)
            sys.exit(1)
        """.replace("\n        ", "\n")
    )
    queue = Queue(PLAN, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command)
    queue.run()
    assert [failure for *_, failure in recorded] == ["imagemint train: the samples are all alike"]
    assert [said for _, said in queue.list_status()] == [
        "ended early: imagemint train: the samples are all alike"
    ]


def test_signal_stops_the_run_and_then_the_queue(tmp_path, imagemint):
    """SIGTERM to the queue reaches the run once. The run saves and ends and is not recorded."""
    recorded = []
    command = imagemint(
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getppid(), signal.SIGTERM)
        signal.sigwait([signal.SIGTERM])
        sys.exit(130)
        """
    )
    queue = Queue(PLAN, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command)
    with pytest.raises(StopQueueError):
        queue.run()
    assert len(read_calls(tmp_path)) == 1
    assert recorded == []


def test_signal_reaches_a_run_that_just_starts(tmp_path, imagemint, monkeypatch):
    """A signal between the start of a process and the note of it stops this process too."""
    command = imagemint(
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        got = signal.sigtimedwait([signal.SIGTERM], 60)
        sys.exit(130 if got else 0)
        """
    )
    ends = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **options):
            # It must not end by the signal before it waits for it.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            super().__init__(*arguments, **options)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            signal.raise_signal(signal.SIGTERM)

        def wait(self, *arguments):
            ends.append(super().wait(*arguments))
            return ends[-1]

    monkeypatch.setattr(subprocess, "Popen", Watched)
    with pytest.raises(StopQueueError):
        Queue(PLAN, tmp_path / "runs", lambda *_: None, imagemint=command).run()
    assert ends == [130]


@pytest.mark.parametrize("content", [b"", b'{"job": {"recipe"', b"\0" * 40])
def test_torn_note_counts_as_none(tmp_path, imagemint, content):
    """After a power cut the run is resumed and recorded again, which changes nothing."""
    recorded = []
    queue = Queue(
        *(PLAN, tmp_path / "runs", lambda *told: recorded.append(told)),
        imagemint=imagemint(ENDS_WELL),
    )
    queue.run()
    note = tmp_path / "runs/dcgan-seed3/queue.json"
    note.write_bytes(content)
    queue.run()
    assert recorded == [(note.parent, PLAN.runs[0], "")] * 2
    assert "--resume" in read_calls(tmp_path)[-2]
    assert [said for _, said in queue.list_status()] == ["recorded"]
    assert {path.name for path in note.parent.iterdir()} >= {"queue.json", "queue.log"}


def test_run_that_was_stopped_alone_stops_the_queue(tmp_path, imagemint):
    """A run that someone else has stopped is neither recorded nor done."""
    recorded = []
    command = imagemint(f"{ENDS_WELL}\nif sys.argv[2] == 'dcgan':\n    sys.exit(130)\n")
    queue = Queue(PLAN, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command)
    with pytest.raises(StopQueueError):
        queue.run()
    assert (recorded, [said for _, said in queue.list_status()]) == ([], ["at 64 images"])


def test_killed_run_stops_the_queue(tmp_path, imagemint):
    """A run without memory, for example, is not recorded as one that failed, and continues."""
    recorded = []
    command = imagemint(
        ENDS_WELL
        + """
        if sys.argv[1:3] == ["train", "dcgan"] and "--resume" not in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        """.replace("\n        ", "\n")
    )
    queue = Queue(PLAN, tmp_path / "runs", lambda *told: recorded.append(told), imagemint=command)
    with pytest.raises(RuntimeError, match=r"train dcgan .*: killed by signal 9"):
        queue.run()
    assert (recorded, [said for _, said in queue.list_status()]) == ([], ["at 64 images"])
    queue.run()
    assert recorded == [(tmp_path / "runs/dcgan-seed3", PLAN.runs[0], "")]


def test_damaged_checkpoint_does_not_stop_the_queue(tmp_path, imagemint):
    """A checkpoint that a resume has set aside does not count."""
    checkpoints = tmp_path / "runs/dcgan-seed3/checkpoints"
    (checkpoints / "0000000064.damaged").mkdir(parents=True)
    queue = Queue(PLAN, tmp_path / "runs", lambda *_: None, imagemint=imagemint(ENDS_WELL))
    assert [said for _, said in queue.list_status()] == ["not started"]
    (checkpoints / "0000000032").mkdir()
    assert [said for _, said in queue.list_status()] == ["at 32 images"]
    queue.run()
    assert "--resume" in read_calls(tmp_path)[2]


def test_selected_recipes_run(tmp_path, imagemint):
    """With names the queue does these runs and trains the judges that they need."""
    plan = Plan(PLAN.judges, (*PLAN.runs, Run("wgan", 0, ("two",))))
    Queue(plan, tmp_path / "runs", lambda *_: None, imagemint=imagemint(ENDS_WELL)).run(["wgan"])
    assert [call[1] for call in read_calls(tmp_path)][:2] == ["mnist-classifier", "wgan"]


def test_runs_are_chosen_by_recipe_or_by_name():
    """The name of a recipe stands for all of its runs, that of a run for itself alone."""
    runs = (Run("msg", 0, ()), Run("msg", 0, (), {"dataset": "avatars64"}), Run("wgan", 1, ()))
    plan = Plan((), runs)
    assert plan.choose(["msg"]) == [*runs[:2]]
    assert plan.choose(["msg-avatars64", "wgan-seed1"]) == [*runs[1:]]
    assert plan.choose([]) == [*runs]


def test_unknown_run_is_refused():
    """A name with a typing error must not end the queue as if all were done."""
    with pytest.raises(ValueError, match="no run or recipe of the plan is called wgam"):
        Plan((), (Run("wgan", 0, ()),)).choose(["wgan", "wgam"])

"""Tests of `imagemint dataset`: summaries, the dry run, verification and the card."""

import builtins
import contextlib
import hashlib
import io
import json
import re
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from imagemint.client import Filter
from imagemint.client.cli import main
from imagemint.dataset.plan import Plan
from imagemint.dataset.progress import Progress
from imagemint.dataset.verification import choose_shards

FIRST = "train-000000000-000000019.npz"


def test_summary_and_checksums_are_written(make, tmp_path, capsys):
    """The last line has the counts, and SHA256SUMS has the digest of every other file."""
    assert make(tmp_path) == 0
    said = capsys.readouterr().out
    assert "50 images of tiny@1 (variant fp32), seed 7, npz" in said
    listed = dict(
        reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines()
    )
    found = {path.name: path for path in tmp_path.iterdir() if path.name != "SHA256SUMS"}
    assert listed.keys() == found.keys()
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name]


def test_progress_shows_images_bytes_and_time(make, tmp_path, capsys, monkeypatch):
    """The progress bar on stderr counts images and bytes and estimates the time left."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert make(tmp_path) == 0
    last = capsys.readouterr().err.split("\r")[-1]
    assert "50.0/50.0" in last
    assert "images/s" in last
    assert "0.0 MB" in last


def test_progress_prints_lines_without_a_terminal(make, tmp_path, capsys):
    """A log gets one plain line every 30 s, and none with --no-progress."""
    times = iter([0.0, 10.0, 20.0, 30.0, 40.0, 60.0])
    with Progress(1000, show=True, clock=lambda: next(times)) as progress:
        progress.skip(400)
        progress.add_bytes(2_000_000)
        for _ in range(4):
            progress.add_images(30)
    assert capsys.readouterr().err == (
        "imagemint dataset: 460 of 1,000 images (46%), 3 images/s, 2.0 MB, about 180 s left\n"
        "imagemint dataset: 520 of 1,000 images (52%), 2 images/s, 2.0 MB, about 200 s left\n"
    )
    times = iter([0.0, 30.0])
    Progress(1000, show=False, clock=lambda: next(times)).add_images(1)
    assert make(tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_progress_does_not_count_the_check_of_existing_images(capsys, monkeypatch):
    """A bar and a line that show only existing images have no speed, however long they took."""
    times = iter([0.0, 100.0, 200.0])
    with Progress(1000, show=True, clock=lambda: next(times)) as progress:
        progress.skip(400)
        progress.skip(100)
    assert capsys.readouterr().err.splitlines() == [
        "imagemint dataset: 400 of 1,000 images (40%), 0 images/s, 0.0 MB, time left unknown",
        "imagemint dataset: 500 of 1,000 images (50%), 0 images/s, 0.0 MB, time left unknown",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    times = iter([0.0, 100.0, 200.0])
    with Progress(1000, show=True, clock=lambda: next(times)) as progress:
        progress.skip(400)
        progress.skip(100)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "500/1.00k" in shown
    assert "? images/s" in shown


def test_plan_can_be_read(make, tmp_path):
    """The file imagemint.json has the complete plan."""
    assert make(tmp_path, classes="3,7", truncation=None) == 0
    content = (tmp_path / "imagemint.json").read_bytes()
    plan = Plan.parse(content, "imagemint.json")
    assert plan.to_json() == content
    assert plan.classes == (3, 7)
    assert [(shard.first_index, shard.count) for shard in plan.list_shards()] == [
        (0, 20),
        (20, 20),
        (40, 10),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan.pop("seed"), "not the plan of a data set"),
        (lambda plan: plan.update(format_version=2), "format version 2"),
        (lambda plan: plan.update(surprise=1), "not the plan of a data set"),
    ],
)
def test_invalid_plan_is_refused(make, refusal, tmp_path, change, said):
    """A plan that this release cannot read is an error with the name of the file."""
    assert make(tmp_path) == 0
    plan = json.loads((tmp_path / "imagemint.json").read_text())
    change(plan)
    (tmp_path / "imagemint.json").write_text(json.dumps(plan))
    assert said in refusal(tmp_path)


def test_card_has_the_header_of_the_hub(make, tmp_path):
    """The YAML header has licence, class names, sizes and files."""
    assert make(tmp_path, format="parquet") == 0
    _, header, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(header)
    assert said["license"] == "apache-2.0"
    assert said["size_categories"] == ["n<1K"]
    info = said["dataset_info"]
    assert info["splits"][0]["num_examples"] == 50
    size = sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    assert info["dataset_size"] == size
    names = info["features"][1]["dtype"]["class_label"]["names"]
    assert names == {str(n): str(n) for n in range(10)}
    assert said["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert "synthetic" in body
    assert "trainedAlgorithmicMedia" in body


def test_dry_run_writes_nothing(make, tmp_path, capsys):
    """The dry run prints the size, the shards and the time."""
    assert make(tmp_path / "set", count=10**6, dry_run=True) == 0
    said = capsys.readouterr().out
    assert "50,000 shards of 20 images" in said
    assert "bytes" in said
    assert not (tmp_path / "set").exists()


def test_card_of_arrays_names_no_files(make, tmp_path):
    """Hugging Face `datasets` does not read npz: the card only describes it."""
    assert make(tmp_path) == 0
    said = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n", 2)[1])
    assert said["size_categories"] == ["n<1K"]
    assert said.keys().isdisjoint({"configs", "dataset_info"})


@pytest.mark.parametrize("dry_run", [None, True])
def test_idle_workers_are_named(make, tmp_path, capsys, dry_run):
    """Fewer shards than --workers is a line on stderr, with a size of shards that helps."""
    assert make(tmp_path, workers=5, shard_size=100, dry_run=dry_run) == 0
    said = capsys.readouterr()
    assert said.err == (
        "imagemint dataset: 1 shard of 100 images keeps 1 of 5 workers busy; --shard-size 10 gives "
        "more work\n"
    )
    if dry_run:
        assert " in 1 shard of 100 images" in said.out
        assert " in 1 process," in said.out


def test_dry_run_refuses_what_the_run_refuses(make, tmp_path, capsys):
    """A folder with another plan is refused; a complete data set needs no time."""
    assert make(tmp_path) == 0
    assert make(tmp_path, seed=8, dry_run=True) == 1
    assert "holds another data set" in capsys.readouterr().err
    assert make(tmp_path, dry_run=True) == 0
    assert "is complete" in capsys.readouterr().out


def test_dry_run_counts_finished_images(make, interrupt_before_sums, tmp_path, capsys):
    """The time is that of the missing shards."""
    interrupt_before_sums(tmp_path)
    (tmp_path / FIRST).unlink()
    assert make(tmp_path, dry_run=True) == 0
    assert "30 images are finished" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{}, {"model": "judged", "scores": True}])
@pytest.mark.parametrize("format_name", ["webdataset", "parquet", "imagefolder", "npz"])
def test_all_images_are_verified(make, models, tmp_path, format_name, settings):
    """Every image is generated again, and the bytes are equal."""
    assert make(tmp_path, format=format_name, **settings) == 0
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}", "--all"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(verify) == 0
    assert "50 images of 3 of 3 shards were made again" in said.getvalue()


def test_sample_is_verified(make, models, tmp_path, capsys):
    """A sample consists of a few complete shards."""
    assert make(tmp_path) == 0
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}"]
    assert main([*verify, "--sample=1"]) == 0
    assert "1 of 3 shards" in capsys.readouterr().out


def test_sample_has_enough_images_and_can_be_repeated(make, models, tmp_path, capsys):
    """The small last shard does not count as a full one, and a seed names the choice."""
    assert make(tmp_path, count=41) == 0  # shards of 20, 20 and 1 images
    capsys.readouterr()
    plan = Plan.parse((tmp_path / "imagemint.json").read_bytes(), "imagemint.json")
    choices = {seed: choose_shards(plan, 20, seed) for seed in range(20)}
    assert all(sum(each.count for each in chosen) >= 20 for chosen in choices.values())
    assert len({tuple(each.number for each in chosen) for chosen in choices.values()}) > 1
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}", "--sample=20"]
    assert main(verify) == 0
    seed = re.search(r"--sample-seed (\d+)", said := capsys.readouterr().out)
    assert main([*verify, f"--sample-seed={seed[1]}"]) == 0
    assert capsys.readouterr().out == said


def test_verification_detects_other_images(make, models, tmp_path, capsys):
    """A shard of other images is detected even if the checksums match it."""
    assert make(tmp_path / "set") == 0
    assert make(tmp_path / "other", seed=8) == 0
    forged = (tmp_path / "other" / FIRST).read_bytes()
    digests = [
        hashlib.sha256(content).hexdigest()
        for content in ((tmp_path / "set" / FIRST).read_bytes(), forged)
    ]
    (tmp_path / "set" / FIRST).write_bytes(forged)
    sums = tmp_path / "set/SHA256SUMS"
    sums.write_text(sums.read_text().replace(*digests))
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path / 'set'}"]
    assert main([*verify, "--all"]) == 1
    assert f"{FIRST} differs from the images that its plan makes" in capsys.readouterr().err


def test_verification_detects_other_scores(make, models, tmp_path, capsys):
    """A changed line of the file of scores is detected even if its checksum matches."""
    assert make(tmp_path, format="imagefolder", model="judged", scores=True) == 0
    path = tmp_path / "train/metadata.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    lines[30] = lines[30].replace(b'"rejected": 0', b'"rejected": 1')
    forged = b"".join(lines)
    path.write_bytes(forged)
    sums = tmp_path / "SHA256SUMS"
    digests = [hashlib.sha256(each).hexdigest() for each in (content, forged)]
    sums.write_text(sums.read_text().replace(*digests))
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}"]
    assert main([*verify, "--all"]) == 1
    assert "metadata.jsonl differs from the images" in capsys.readouterr().err


def test_plan_of_an_older_release_is_continued(make, tmp_path, contents):
    """A plan that does not name its columns keeps its files: no metadata.jsonl is added."""
    settings = {"format": "imagefolder", "model": "told", "classes": None}
    assert make(tmp_path / "new", **settings) == 0
    plan = json.loads((tmp_path / "new/imagemint.json").read_text())
    assert plan.pop("columns") == ["text"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/imagemint.json").write_text(json.dumps(plan, indent=2) + "\n")
    assert make(tmp_path / "old", **settings) == 0
    new, old = contents(tmp_path / "new"), contents(tmp_path / "old")
    assert new.keys() - old.keys() == {"train/metadata.jsonl"}
    assert all(old[name] == new[name] for name in old if name.endswith(".png"))


def test_foreign_file_of_scores_is_kept(make, tmp_path, contents, capsys):
    """A metadata.jsonl that the data set did not write is refused; its own one is taken over."""
    settings = {"format": "imagefolder", "model": "judged", "scores": True}
    assert make(tmp_path / "set", **settings) == 0
    whole, path = contents(tmp_path / "set"), tmp_path / "set/train/metadata.jsonl"
    for foreign, status in ((b"mine", 1), (path.read_bytes(), 0)):
        (tmp_path / "set/SHA256SUMS").unlink(missing_ok=True)
        path.write_bytes(foreign)
        assert make(tmp_path / "set", **settings) == status
        assert path.read_bytes() == foreign
    assert "metadata.jsonl is not the file that this data set has" in capsys.readouterr().err
    assert contents(tmp_path / "set") == whole


def test_verification_needs_a_complete_set(models, tmp_path, capsys):
    """A folder without a plan is an error."""
    verify = ["dataset", "--local", f"--repository={models}", f"--verify={tmp_path}"]
    assert main(verify) == 1
    assert "holds no data set" in capsys.readouterr().err


def test_bytes_do_not_depend_on_the_workers(make, contents, tmp_path):
    """One and two workers write the same bytes."""
    assert make(tmp_path / "one", format="webdataset") == 0
    assert make(tmp_path / "two", format="webdataset", workers=2) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--model, --count, --out is required"),
        (["--verify=x", "--out=x"], "--verify excludes --out"),
        (["--verify=x", "--repair"], "--verify excludes --out, --dry-run and --repair"),
        (
            ["--verify=x", "--count=5", "--first-index=7"],
            "takes --count, --first-index from",
        ),
        (["--model=a", "--count=1", "--out=x", "--repair", "--dry-run"], "--repair excludes"),
        (["--model=a", "--count=0", "--out=x"], "count"),
        (["--model=a", "--count=5", f"--first-index={2**64 - 1}", "--out=x"], "above 2^64"),
        (["--model=a", "--count=1", "--out=x", "--scores", f"--first-index={2**48}"], "2^48"),
        (["--model=a", "--count=5", "--out=x", "--format=zip"], "webdataset"),
    ],
)
def test_wrong_use_is_refused(capsys, flags, said):
    """Each wrong setting is one line with exit status 2."""
    assert main(["dataset", *flags]) == 2
    assert said in capsys.readouterr().err


def test_missing_engine_is_reported(refusal, tmp_path, monkeypatch):
    """--local without the server extra says what to install."""
    original = builtins.__import__

    def find(name, *rest):
        if name == "imagemint.dataset" and rest[2] == ("local",):
            raise ModuleNotFoundError(name="onnx")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", find)
    assert "[server]" in refusal(tmp_path / "set")


def test_missing_ray_leaves_no_folder(refusal, tmp_path, monkeypatch):
    """--engine ray without its extra says what to install, before anything is written."""
    monkeypatch.delitem(sys.modules, "imagemint.dataset.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "[ray]" in refusal(tmp_path / "set", engine="ray")
    assert not (tmp_path / "set").exists()


def test_repeated_class_gets_more_images(make, tmp_path):
    """Classes have the shares in which they are named."""
    assert make(tmp_path, classes="3,3,7") == 0
    with np.load(tmp_path / FIRST) as first:
        assert first["class_id"].tolist() == [3, 3, 7] * 6 + [3, 3]


def test_filter_keeps_count_and_classes(make, tmp_path):
    """Each index has an image that passes with its scores, and the plan has the filter."""
    kept = {"min_class_confidence": 0.5, "max_tries": 1000}
    assert make(tmp_path / "all", model="judged") == 0
    assert make(tmp_path / "kept", model="judged", **kept) == 0
    with np.load(tmp_path / "kept" / FIRST) as kept, np.load(tmp_path / "all" / FIRST) as every:
        assert kept["class_id"].tolist() == every["class_id"].tolist()
        assert kept["index"].tolist() == every["index"].tolist()
        assert kept["class_confidence"].min() >= 0.5
        assert kept["rejected"].max() > 0
        same = kept["rejected"] == 0
        assert (kept["image"][same] == every["image"][same]).all()
        assert "class_confidence" not in every
    content = (tmp_path / "kept/imagemint.json").read_bytes()
    plan = Plan.parse(content, "imagemint.json")
    assert plan.to_json() == content
    assert plan.image_filter == Filter(0.5, max_tries=1000)
    assert "class confidence of at least 0.5" in (tmp_path / "kept/README.md").read_text()
    assert b"image_filter" not in (tmp_path / "all/imagemint.json").read_bytes()


def test_scores_change_no_image(make, tmp_path):
    """--scores adds the scores and rejects no image."""
    assert make(tmp_path / "all", model="judged") == 0
    assert make(tmp_path / "scored", model="judged", scores=True) == 0
    with np.load(tmp_path / "scored" / FIRST) as scored, np.load(tmp_path / "all" / FIRST) as every:
        assert (scored["image"] == every["image"]).all()
        assert scored["realness"].shape == (20,)
        assert not scored["rejected"].any()


def test_scores_stand_beside_the_pictures(make, tmp_path):
    """Parquet has columns of scores, and the JSON in a tar has the same numbers as an npz."""
    kept = {"model": "judged", "min_class_confidence": 0.5, "max_tries": 1000}
    for name in ("npz", "parquet", "webdataset", "imagefolder"):
        assert make(tmp_path / name, format=name, **kept) == 0
    with np.load(tmp_path / "npz" / FIRST) as arrays:
        names = ("class_confidence", "realness", "training_distance", "rejected")
        wanted = [
            dict(zip(names, row, strict=True))
            for row in zip(*(arrays[n].tolist() for n in names), strict=True)
        ]
    table = pq.read_table(next((tmp_path / "parquet/data").glob("train-00000-*")))
    assert table.select(names).to_pylist() == wanted
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert [features[name]["dtype"] for name in names] == ["float32"] * 3 + ["int64"]
    with tarfile.open(next((tmp_path / "webdataset").glob("*000-*.tar"))) as tar:
        said = [json.load(tar.extractfile(f"{index:09d}.json")) for index in range(len(wanted))]
    assert [{name: each[name] for name in names} for each in said] == wanted


def test_filter_needs_a_critic(refusal, tmp_path):
    """The error names the missing score before anything is written."""
    said = refusal(tmp_path / "new", min_class_confidence=0.5)
    assert "tiny@1 has no class_confidence; its scores: none" in said
    assert not (tmp_path / "new").exists()


def test_filter_that_rejects_everything_is_an_error(refusal, tmp_path):
    """The error has the scores that were found."""
    said = refusal(tmp_path, model="judged", min_class_confidence=1, max_tries=3)
    assert "passes the filter with max_tries 3" in said
    assert "class_confidence up to 0." in said


def test_more_tries_continue_a_data_set(make, refusal, contents, tmp_path):
    """A filter that ran out of tries continues with more of them; fewer are another data set."""
    kept = {"model": "judged", "min_class_confidence": 0.5, "shard_size": 1, "format": "webdataset"}
    out = tmp_path / "set"
    assert "passes the filter with max_tries 1" in refusal(out, max_tries=1, **kept)
    finished = {path: path.stat().st_ino for path in out.glob("*.tar")}
    assert finished
    assert make(out, max_tries=1000, dry_run=True, **kept) == 0
    assert make(out, max_tries=1000, **kept) == 0
    assert make(tmp_path / "whole", max_tries=1000, **kept) == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert all(path.stat().st_ino == inode for path, inode in finished.items())
    assert ": max_tries 1000, not 999;" in refusal(out, max_tries=999, **kept)
    before = contents(out)
    assert make(out, **kept) == 0  # what is left open is taken from the plan
    assert make(out, max_tries=1000, **kept) == 0
    assert contents(out) == before

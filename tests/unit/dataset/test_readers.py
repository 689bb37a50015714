"""Tests that unmodified third-party readers load the data sets.

They run in a process of their own, because they import many packages and emit warnings.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from imagemint.client import Serial

COUNT = 50

HUGGING_FACE = """
import json, sys
from datasets import load_dataset
kind, folder = sys.argv[1:]
if kind == "card":
    loaded = load_dataset(folder, split="train")
elif kind == "parquet":
    loaded = load_dataset("parquet", data_files=folder + "/data/*.parquet", split="train")
else:
    loaded = load_dataset(kind, data_dir=folder, split="train")
image = loaded[13].pop("image")
print(json.dumps({
    "rows": len(loaded),
    "names": getattr(loaded.features.get("label"), "names", None),
    "labels": loaded["label"][:] if "label" in loaded.features else None,
    "size": image.size,
    "mode": image.mode,
    "serial": loaded[13].get("serial"),
    "row": {name: value for name, value in loaded[13].items() if name != "image"},
}))
"""

WEBDATASET = """
import glob, json, sys
import webdataset
shards = sorted(glob.glob(sys.argv[2] + "/*.tar"))
loaded = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
samples = [(picture.size, label, said["serial"])
           for picture, label, said in loaded.to_tuple("png", "cls", "json")]
print(json.dumps({"rows": len(samples), "size": samples[0][0],
                  "labels": [each[1] for each in samples], "serial": samples[13][2]}))
"""


@pytest.fixture
def read(tmp_path):
    """A function that runs a reader and returns what it found."""

    def run(program, *arguments):
        environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("kind", ["parquet", "card"])
def test_hugging_face_loads_parquet(make, read, tmp_path, kind):
    """Files alone, and the folder with its card, load with names in the schema."""
    assert make(tmp_path / "set", format="parquet") == 0
    found = read(HUGGING_FACE, kind, tmp_path / "set")
    serial = "tiny@1/7/13?class=3"
    assert found == {
        "rows": COUNT,
        "names": list("0123456789"),
        "labels": list(range(10)) * 5,
        "size": [6, 4],
        "mode": "L",
        "serial": serial,
        "row": {"label": 3, "serial": serial, "index": 13},
    }


def test_hugging_face_loads_scores_of_parquet(make, read, tmp_path):
    """The card lists the columns of scores, which the library compares with the files."""
    assert make(tmp_path / "set", format="parquet", model="judged", scores=True) == 0
    files, card = (read(HUGGING_FACE, kind, tmp_path / "set") for kind in ("parquet", "card"))
    assert card == files
    assert card["row"].keys() >= {"class_confidence", "realness", "training_distance", "rejected"}


@pytest.mark.parametrize("kind", ["imagefolder", "card"])
def test_hugging_face_loads_scores_and_captions_of_class_folders(make, read, tmp_path, kind):
    """The library reads metadata.jsonl, in which the class is a column."""
    assert make(tmp_path / "scored", format="imagefolder", model="judged", scores=True) == 0
    assert make(tmp_path / "arrays", shard_size=COUNT, model="judged", scores=True) == 0
    scored = read(HUGGING_FACE, kind, tmp_path / "scored")
    assert scored["rows"] == COUNT
    assert sorted(scored["labels"]) == sorted("0123456789" * 5)
    index = scored["row"]["index"]
    assert scored["row"]["serial"] == f"judged@1/7/{index}?class={index % 10}"
    assert scored["row"]["label"] == str(index % 10)
    with np.load(tmp_path / "arrays" / "train-000000000-000000049.npz") as arrays:
        for name in ("class_confidence", "realness", "training_distance", "rejected"):
            assert scored["row"][name] == arrays[name][index]
    assert make(tmp_path / "told", format="imagefolder", model="told", classes=None) == 0
    told = read(HUGGING_FACE, kind, tmp_path / "told")["row"]
    assert Serial.parse(told["serial"]).caption == told["text"]


def test_hugging_face_loads_class_folders(make, read, tmp_path):
    """Labels come from the names of the folders."""
    assert make(tmp_path / "set", format="imagefolder") == 0
    found = read(HUGGING_FACE, "imagefolder", tmp_path / "set")
    assert found["rows"] == COUNT
    assert found["names"] == list("0123456789")
    assert sorted(found["labels"]) == sorted(list(range(10)) * 5)


def test_webdataset_loads_tars(make, read, tmp_path):
    """Pictures, classes and serials are read in order."""
    assert make(tmp_path / "set", format="webdataset") == 0
    found = read(WEBDATASET, "webdataset", tmp_path / "set")
    assert found == {
        "rows": COUNT,
        "size": [6, 4],
        "labels": list(range(10)) * 5,
        "serial": "tiny@1/7/13?class=3",
    }

"""Tests that unmodified third-party readers load the data sets.

They run in a process of their own, because they import many packages and emit warnings.
"""

import json
import os
import subprocess
import sys

import pytest

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
image = loaded[13]["image"]
print(json.dumps({
    "rows": len(loaded),
    "names": loaded.features["label"].names,
    "labels": loaded["label"][:],
    "size": image.size,
    "mode": image.mode,
    "serial": loaded[13].get("serial"),
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
    assert found == {
        "rows": COUNT,
        "names": list("0123456789"),
        "labels": list(range(10)) * 5,
        "size": [6, 4],
        "mode": "L",
        "serial": "tiny@1/7/13?class=3",
    }


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

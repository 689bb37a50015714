"""Rounds the weights of a classifier to 16 bits, so that its file has half the size.

Networks compute in float32 as before; only the weights have fewer digits. The accuracies in
`classifier.json` are measured again.

    python benchmarks/judges/halve.py runs/avatars-judge benchmarks/judges/avatars
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets import load_dataset

CPU = torch.device("cpu")


def main() -> None:
    """Writes the rounded classifier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("IMAGEMINT_DATA"))
    parser.add_argument("--per-class", type=int, help="test images to measure; default: all")
    options = parser.parse_args()
    path = options.out / "classifier.safetensors"
    options.out.mkdir(parents=True)
    weights = load_file(options.classifier / path.name)
    save_file({n: w.half() if w.is_floating_point() else w for n, w in weights.items()}, path)
    metadata = json.loads((options.classifier / "classifier.json").read_text())
    metadata |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "weights": "float16"}
    (options.out / "classifier.json").write_text(json.dumps(metadata, indent=2) + "\n")

    name = metadata["tested_on"].partition("/")[0]
    test = load_dataset(name, "test", options.data, per_class=options.per_class)
    model, _ = load_classifier(options.out, CPU)
    _, predicted = model.judge(test.images)
    metadata |= {"test_accuracy": float((predicted == test.labels).mean())} | model.report(test)
    (options.out / "classifier.json").write_text(json.dumps(metadata, indent=2) + "\n")


if __name__ == "__main__":
    main()

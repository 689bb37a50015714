#!/bin/sh
# Exports a balanced data set as Parquet and opens it with Hugging Face `datasets`.
# It can be interrupted at any moment: run it again with the same arguments, and it continues.
#
#   examples/dataset_export/export.sh FOLDER [COUNT]
#
# IMAGEMINT_SERVER (default 127.0.0.1:8001) and MODEL (default mnist) choose the images.
set -eu
folder=$1
count=${2:-10000}
imagemint dataset --model "${MODEL:-mnist}" --count "$count" --classes balanced --seed 7 \
  --format parquet --out "$folder"

# The folder is a data set as the hub has them; its README.md is the card.
python3 - "$folder" << 'PYTHON'
import sys
from pathlib import Path

import datasets

digits = datasets.load_dataset("parquet", data_files=str(Path(sys.argv[1]) / "data/*.parquet"))["train"]
print(f"{len(digits)} images of {digits.features['label'].names}")
print(digits[0])
PYTHON

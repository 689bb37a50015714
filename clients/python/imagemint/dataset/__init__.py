"""Data sets of images by serial number: each index once, resumable, the same bytes everywhere.

plan.py          the plan: everything that determines its bytes
sources.py       sources of the pixels: servers, or the engine in this process (local.py)
formats/         webdataset, parquet, imagefolder and npz shards
folder.py        files of a data set on disk, complete or absent (remote.py: object stores)
scratch.py       temporary folders, also of processes that were killed
sums.py          the files of a complete data set, in SHA256SUMS
shards.py        makes one shard
making.py        makes the missing shards, in this process or in several (workers.py)
verification.py  makes images of a finished data set again, and compares
card.py          the README of a data set
engine_source.py the engine as a source of images for training
interrupts.py    the end by Ctrl-C or SIGTERM
command.py       the command `imagemint dataset`
"""

from imagemint.dataset.errors import DatasetError, OtherPlan, SourceChanged
from imagemint.dataset.plan import Plan, Shard

__all__ = ["DatasetError", "OtherPlan", "Plan", "Shard", "SourceChanged"]

"""Data sets of images by serial number: each index once, resumable, the same bytes everywhere.

plan.py          what a data set is: everything that determines its bytes
sources.py       where pixels come from: servers, or the engine in this process (local.py)
formats/         webdataset, parquet, imagefolder and npz shards
folder.py        files of a data set on disk: complete, or not there (remote.py: object stores)
shards.py        makes one shard
making.py        makes what is missing, in this process or in several (workers.py)
verification.py  makes images of a finished data set again, and compares
card.py          the README of a data set
engine_source.py the engine as a source of images for training
command.py       the command `imagemint dataset`
"""

from imagemint.dataset.errors import DatasetError, OtherPlan, SourceChanged
from imagemint.dataset.plan import Plan, Shard

__all__ = ["DatasetError", "OtherPlan", "Plan", "Shard", "SourceChanged"]

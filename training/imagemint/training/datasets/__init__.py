"""Labelled images in memory: published data sets, and files and folders of any usual layout."""

from imagemint.training.datasets.classes import read_labels_file
from imagemint.training.datasets.download import find_cache_directory
from imagemint.training.datasets.folder import load_folder
from imagemint.training.datasets.formats import parse_idx
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.listing import ReadOptions
from imagemint.training.datasets.parquet import parse_image_parquet
from imagemint.training.datasets.registry import DATASETS, IMAGE_SHAPES, load_dataset
from imagemint.training.datasets.stacked import stack_digits
from imagemint.training.datasets.subsets import select_per_class

__all__ = [
    "DATASETS",
    "IMAGE_SHAPES",
    "LabelledImages",
    "ReadOptions",
    "Split",
    "find_cache_directory",
    "load_dataset",
    "load_folder",
    "parse_idx",
    "parse_image_parquet",
    "read_labels_file",
    "select_per_class",
    "stack_digits",
]

"""The option of benchmarks that read data sets."""

import argparse
import os
from pathlib import Path


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data``, the folder of the data sets."""
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("IMAGEMINT_DATA"),
        help="folder of the data sets; default: IMAGEMINT_DATA, else the user's cache",
    )

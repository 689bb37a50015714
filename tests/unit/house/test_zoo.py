"""The page of all recipes shows what was recorded, and nothing else."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from imagemint.training.recipes import RECIPES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("zoo_script", ROOT / "benchmarks/zoo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_page_and_list_are_written_from_the_records(zoo: ModuleType):
    """`python benchmarks/zoo.py page` would change neither."""
    assert zoo.PAGE.read_text() == zoo.page(zoo.records())
    assert zoo.LIST.read_text() == zoo.listed(zoo.records())


def test_records_are_of_recipes_and_each_has_its_picture(zoo: ModuleType):
    """No record of a recipe that is gone; a grid of fit size beside each."""
    names = {path.stem for path in zoo.RECORDS.glob("*.json")}
    assert names == {each.recipe for each in zoo.records()} <= RECIPES.keys()
    assert names == {path.stem for path in zoo.PICTURES.glob("*.png")}
    for name in names:
        with Image.open(zoo.PICTURES / f"{name}.png") as grid:
            assert max(grid.size) <= zoo.WIDEST


def test_command_of_a_run_names_what_differs_from_the_recipe(zoo: ModuleType):
    """Options at their defaults are left out; the rest stands as on the command line."""
    options = {name: field.default for name, field in RECIPES["dcgan"].model_fields.items()}
    about = {"recipe": "dcgan", "options": options | {"images": 7, "batch_size": 3}}
    assert zoo.command_of(about) == (
        "imagemint train dcgan --out runs/dcgan --images 7 --batch-size 3"
    )

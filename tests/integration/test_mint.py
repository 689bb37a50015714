"""Tests that `imagemint mint` draws the pictures of a server, byte by byte."""

import pytest

from imagemint.client.cli import main
from imagemint.pictures.origin import read_picture

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("model", "truncation"),
    [
        ("digits", None),
        ("plain", None),
        ("bounded", None),
        ("bounded", 0.5),
        ("styled", None),
        ("styled", 0.5),
        ("people", 0.5),
    ],
)
async def test_serials_give_the_pictures_of_the_server(  # noqa: PLR0917 - fixtures
    client, models, tmp_path, capsys, model, truncation
):
    """A file needs its serial number and the bundle alone, for every kind of model."""
    pictures = await client.encoded(model, 5, seed=2**64 - 1, truncation=truncation)
    expected = {picture.serial: picture.data for picture in pictures}
    command = ["mint", *expected, f"--repository={models}", f"--out={tmp_path}"]
    assert main(command) == 0
    found = [path.read_bytes() for path in tmp_path.iterdir()]
    assert {read_picture(each).serials[0]: each for each in found} == expected
    paths = capsys.readouterr().out.splitlines()
    assert main(["mint", *paths, "--check", f"--repository={models}"]) == 0

"""Tests of the page with the accessibility rules of axe, in a real Chromium."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from made_sources import draw
from page_visits import CHROMIUM, MS, wait_for_images
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.async_api import expect
from tiny_bundles import write_bundle, write_sums
from tiny_translators import write_translator

from imagemint.engine.serial import hash_source

AXE = "axe-core@4.11.0"
PHONE = {"width": 390, "height": 844}
# axe runs in the page, which its policy would forbid
OPTIONS = {"bypass_csp": True, "reduced_motion": "reduce", "color_scheme": "dark"}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A model of digits, and one that translates pictures and has examples."""
    directory = tmp_path_factory.mktemp("gallery")
    write_bundle(directory, "digits", 1)
    lines = write_translator(directory, "lines", size=(8, 8))
    write_samples(lines / "samples.png")
    write_sums(lines)
    return directory


def write_samples(path):
    """Writes a sheet as the exporter does: source, result and truth, four such in a row."""
    sheet = np.full((12, 122, 3), 255, np.uint8)
    for number in range(12):
        sheet[2:10, 2 + 10 * number : 10 + 10 * number] = draw(number // 3, 8, 8)
    about = PngInfo()
    about.add_text("Model", "lines@1: source, result, truth")
    Image.fromarray(sheet).save(path, pnginfo=about)


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core from npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--silent", "--no-save", "--no-audit", "--prefix", folder, AXE]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip(f"npm has no {AXE}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


async def find_violations(page):
    """Returns the violations that axe finds on the page."""
    found = await page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]
    ]


async def find_width_beyond(page):
    """Returns by how many pixels the page is wider than the window."""
    return await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")


async def test_page_is_accessible(visit, shop, axe):
    """Axe finds no violation on page, viewer and dialog, dark, light and on a phone."""
    page = await visit(shop, "#model=digits&count=9", **OPTIONS)
    await wait_for_images(page)
    await page.evaluate(axe)
    assert not await find_violations(page)
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(PHONE)
    assert not await find_violations(page)
    assert await find_width_beyond(page) <= 0, "the page scrolls sideways"
    await page.locator(".tile").first.click()
    assert not await find_violations(page)
    await page.keyboard.press("Escape")
    await page.locator("#key-button").click()
    assert not await find_violations(page)


async def test_translation_is_accessible(visit, shop, axe):
    """So it is for the drop zone, without and with a result, dark, light and on a phone.

    An example of the model's sample sheet is translated, with its own pixels as the source.
    """
    page = await visit(shop, "#model=lines", **OPTIONS)
    await expect(page.locator("#examples button")).to_have_count(4, timeout=MS)
    await page.evaluate(axe)
    assert not await find_violations(page)
    await page.locator("#examples button").nth(1).click()
    serial = f"lines@1/0/0?source={hash_source(draw(1, 8, 8))}"
    await expect(page.locator("#result-caption")).to_have_text(serial, timeout=MS)
    await expect(page.locator("#m-model")).to_have_text(re.compile(r"\d m?s$"))
    assert not await find_violations(page)
    await page.emulate_media(color_scheme="light")
    assert not await find_violations(page)
    await page.set_viewport_size(PHONE)
    assert not await find_violations(page)
    assert await find_width_beyond(page) <= 0, "the page scrolls sideways"
    await page.locator("summary", has_text="Samples of translations").click()
    await expect(page.locator("#card details img")).to_have_attribute(
        "alt", "Samples of lines: sources with their results"
    )

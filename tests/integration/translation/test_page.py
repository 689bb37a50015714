"""Tests of the drop zone of the page in a real Chromium."""

import asyncio
import os
import re
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import pytest_asyncio
from made_sources import draw, to_file
from page_visits import CHROMIUM, MS
from PIL import Image
from playwright.async_api import async_playwright, expect

from imagemint.engine.batch import Batch
from imagemint.engine.serial import hash_source

SOURCE = draw(1)
# Chromium resolves it to loopback, and treats it like any host without TLS.
OUTER_HOST = "gan.test"

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def page(translating_app):
    """The page of the server. At the end, it must not have thrown an error."""
    faults = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--no-proxy-server",
                f"--host-resolver-rules=MAP {OUTER_HOST} 127.0.0.1",
            ],
        )
        page = await browser.new_page()
        page.set_default_timeout(MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(translating_app.http_url + "#model=fixed")
        yield page
        await browser.close()
    assert not faults


def upload(pixels, name="drawing.png"):
    """Returns a file in the form for uploads of Playwright."""
    return {"name": name, "mimeType": "image/png", "buffer": to_file(pixels)}


async def choose_model(page, name):
    """Selects a model in the form."""
    await page.locator(f".model:has(input[value={name}])").click()


@asynccontextmanager
async def run_proxy(app):
    """Runs a reverse proxy without TLS that writes its own `Host`; yields the address outside."""
    port = urlsplit(app.http_url).port

    async def copy(reader, writer):
        while data := await reader.read(2**16):
            writer.write(data.replace(f"Host: {OUTER_HOST}".encode(), b"Host: inner.test"))
            await writer.drain()
        writer.close()

    async def connect(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True
        )

    proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
    yield f"http://{OUTER_HOST}:{proxy.sockets[0].getsockname()[1]}/"
    proxy.close()


async def test_page_translates_behind_a_plain_proxy(page, translating_app):
    """The browser does not say where the form is from, and the server does not know its host."""
    async with run_proxy(translating_app) as url:
        outside = await page.context.browser.new_page()
        await outside.goto(url + "#model=fixed")
        await expect(outside.locator("#translate")).to_be_visible(timeout=MS)
        async with outside.expect_request("**/*:translate") as sent:
            await outside.locator("#source-file").set_input_files(upload(SOURCE))
        await expect(outside.locator("#result-caption")).to_contain_text("fixed@1", timeout=MS)
        assert "sec-fetch-site" not in await (await sent.value).all_headers()
        await outside.close()


async def test_source_and_result_are_side_by_side(page, backends, tmp_path):
    """A selected picture is translated at once; the result has its serial and can be saved."""
    await expect(page.locator("#translate")).to_be_visible(timeout=MS)
    await expect(page.locator("#walk")).to_be_hidden()
    await expect(page.locator("#seed-field")).to_be_hidden()
    await expect(page.locator("#drop-hint")).to_contain_text(re.compile("8 . 6 pixels"))
    await page.locator("#source-file").set_input_files(upload(SOURCE))
    serial = f"fixed@1/0/0?source={hash_source(SOURCE)}"
    await expect(page.locator("#result-caption")).to_have_text(serial, timeout=MS)
    await expect(page.locator("#source-caption")).to_have_text("drawing.png")
    async with page.expect_download() as saved:
        await page.locator("#save-result").click()
    expected = backends["fixed"].run(Batch(source=SOURCE[np.newaxis]))[0]
    with Image.open(await (await saved.value).path()) as picture:
        assert np.array_equal(np.asarray(picture), expected)


async def test_dropped_picture_is_translated(page):
    """A dropped picture of another size is adjusted as the form says."""
    await choose_model(page, "free")
    await expect(page.locator("#drop-hint")).to_contain_text("multiples of 4 pixels")
    content = list(to_file(draw(2, 21, 30)))
    transfer = await page.evaluate_handle(
        """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
          return transfer;
        }""",
        content,
    )
    await page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    await expect(page.locator("#source-caption")).to_have_text("dropped.png")
    await expect(page.locator("#source-file")).to_have_value("")  # it named the picture before
    await expect(page.locator("#result-caption")).to_have_text(
        re.compile("^free@1/0/0"), timeout=MS
    )
    assert await page.evaluate("document.querySelector('#result-picture img').naturalWidth") == 28
    await page.locator("#fit").select_option("refuse")
    await page.locator("#mint").click()
    await expect(page.locator("#form-error")).to_contain_text("multiples of 4", timeout=MS)


async def test_changed_file_is_asked_for_again(page, tmp_path):
    """The browser does not read a file that has changed since it was chosen; the page says so."""
    await choose_model(page, "fixed")
    path = tmp_path / "drawing.png"
    path.write_bytes(to_file(SOURCE))
    await page.locator("#source-file").set_input_files(path)
    serial = f"fixed@1/0/0?source={hash_source(SOURCE)}"
    await expect(page.locator("#result-caption")).to_have_text(serial, timeout=MS)
    path.write_bytes(to_file(draw(7)))
    os.utime(path, (0, 0))
    await page.locator("#mint").click()
    await expect(page.locator("#translate-note")).to_have_text(
        "drawing.png has changed or is gone. Choose it again.", timeout=MS
    )
    await expect(page.locator("#notice")).to_be_hidden()
    await expect(page.locator("#source-file")).to_be_focused()
    await expect(page.locator("#source-file")).to_have_value("")  # the same file is a change then
    await page.locator("#source-file").set_input_files(path)
    serial = f"fixed@1/0/0?source={hash_source(draw(7))}"
    await expect(page.locator("#result-caption")).to_have_text(serial, timeout=MS)


async def test_frames_and_mask_are_asked_for(page):
    """A model of several frames with a mask says what is missing, and gets all of it."""
    await choose_model(page, "sequence")
    await page.locator("#source-file").set_input_files([upload(SOURCE)] * 2)
    await expect(page.locator("#translate-note")).to_contain_text("the model takes 3", timeout=MS)
    mask = np.where(draw(3, depth=1) < 128, np.uint8(0), np.uint8(255))
    frames = {number: draw(number) for number in (10, 9, 2)}
    files = [upload(pixels, f"frame{number}.png") for number, pixels in frames.items()]
    await page.locator("#source-file").set_input_files(files)
    await expect(page.locator("#translate-note")).to_contain_text("Choose a mask", timeout=MS)
    await page.locator("#mask-file").set_input_files(upload(mask))
    source = np.concatenate([*(frames[number] for number in (2, 9, 10)), mask], axis=-1)
    serial = f"sequence@1/0/0?source={hash_source(source)}"
    await expect(page.locator("#result-caption")).to_have_text(serial, timeout=MS)


async def test_answer_to_an_older_source_is_not_shown(page):
    """If the source changes and is not complete, the page waits for the rest of it."""
    await choose_model(page, "sequence")
    await page.locator("#mask-file").set_input_files(upload(draw(3, depth=1)))
    may_go_on = asyncio.Event()

    async def hold(route):
        await may_go_on.wait()
        await route.continue_()

    await page.route("**/*:translate", hold)
    frames = [upload(draw(number), f"{number}.png") for number in range(3)]
    async with page.expect_request("**/*:translate"):
        await page.locator("#source-file").set_input_files(frames)
    await page.locator("#source-file").set_input_files(frames[:2])
    may_go_on.set()
    await expect(page.locator("#stop")).to_be_hidden(timeout=MS)
    await expect(page.locator("#result-caption")).to_have_text("")
    await expect(page.locator("#translate-note")).to_contain_text("the model takes 3")
    await page.unroute("**/*:translate")


async def test_too_large_picture_is_refused(page):
    """The page says so, and offers no further attempt, which would fail as well.

    Before, it says which sizes the model takes.
    """
    await choose_model(page, "double")
    await expect(page.locator("#drop-hint")).to_have_text(
        "PNG, JPEG or WebP. The model takes pictures of up to 32 \u00d7 24 pixels, in"
        " multiples of 4 pixels, and makes them 2 times as wide and high."
    )
    await choose_model(page, "free")
    # The file alone is within the limit of the server, and the request with it is not.
    file = upload(SOURCE)
    file["buffer"] += bytes(4 * 2**20 - len(file["buffer"]))
    await page.locator("#source-file").set_input_files(file)
    notice = page.locator("#notice")
    await expect(notice).to_contain_text("The picture is too large", timeout=MS)
    await expect(notice.locator("button")).to_have_count(0)


async def test_too_large_file_is_not_sent(page):
    """The page knows the largest request of the server, and says how large the file is."""
    await choose_model(page, "free")
    noise = np.random.default_rng(1).integers(0, 256, (1_250, 1_250, 3), np.uint8)
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    await page.locator("#source-file").set_input_files(upload(noise, "photo.png"))
    await expect(page.locator("#translate-note")).to_have_text(
        "4.7 MB chosen; the server takes up to 4.2 MB. Choose a smaller file.", timeout=MS
    )
    async with page.expect_request("**/*:translate"):
        await page.locator("#source-file").set_input_files(upload(SOURCE))
    assert [url.rpartition("/")[2] for url in sent if "translate" in url] == ["free:translate"]


async def test_result_of_another_model_is_cleared(page):
    """A change of the model keeps the source, and not the result of the model before."""
    await choose_model(page, "free")
    await page.locator("#fit").select_option("crop")
    await page.locator("#source-file").set_input_files(upload(SOURCE))
    await expect(page.locator("#result-caption")).to_have_text(
        re.compile("^free@1/0/0"), timeout=MS
    )
    await choose_model(page, "fixed")
    await expect(page.locator("#source-caption")).to_have_text("drawing.png")
    await expect(page.locator("#result-caption")).to_have_text("")
    await expect(page.locator("#save-result")).to_be_hidden()


async def test_other_models_mint_again(page):
    """For a model without a source, the page has its grid again."""
    await choose_model(page, "digits")
    await expect(page.locator("#translate")).to_be_hidden()
    await expect(page.locator(".tile img").first).to_be_visible(timeout=MS)
    await expect(page.locator("#count-field")).to_be_visible()

"""Tests of the page in a real Chromium, from generation to errors."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from held_backend import WAIT_S
from page_visits import CHROMIUM, wait_for_images
from PIL import Image
from playwright.async_api import expect
from tiny_bundles import write_bundle, write_sums

from imagemint.server.access.api_keys import compute_digest

KEY = f"imk_{'page':k<43}"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Two versions of a model, a model without classes, and one with truncation."""
    directory = tmp_path_factory.mktemp("gallery")
    write_bundle(directory, "digits", 1)
    write_bundle(directory, "digits", 2, weights_seed=1)
    write_bundle(directory, "plain", conditional=False, size=(5, 3, 3))
    write_bundle(directory, "bounded", truncation="threshold")
    write_bundle(directory, "people", captions=True)
    return directory


async def test_page_generates_on_load(visit, shop):
    """The page shows models and images, and its address has the request."""
    page = await visit(shop, "#model=digits&seed=5&count=16&class=7")
    await wait_for_images(page)
    await expect(page.locator(".tile img")).to_have_count(16)
    await expect(page.locator(".model")).to_have_count(4)
    await expect(page.locator("#status-text")).to_have_text("Ready")
    label = await page.locator(".tile").nth(3).get_attribute("aria-label")
    assert label == "Class 7, image 3, serial digits@2/5/3?class=7"
    await page.locator("#seed").fill("6")
    await page.locator("#mint").click()
    await expect(page.locator(".tile").first).to_have_attribute("title", "digits@2/6/0?class=7")
    assert "seed=6" in page.url
    await expect(page.locator("#m-rate")).to_have_text(re.compile(r"^[\d,]+/s$"))
    await expect(page.locator("#card")).to_contain_text("digits@2")


async def test_fields_follow_the_model(visit, shop):
    """Each model has its own fields, and serials have the truncation."""
    page = await visit(shop, "#model=plain&count=4")
    await wait_for_images(page)
    await expect(page.locator("#class-field")).to_be_hidden()
    await expect(page.locator("#truncation-field")).to_be_hidden()
    await page.locator(".model", has_text="bounded").click()
    await expect(page.locator("#truncation-field")).to_be_visible()
    await page.locator("#truncation").fill("0.5")
    await page.locator("#mint").click()
    await expect(page.locator(".tile").first).to_have_attribute(
        "title", re.compile(r"^bounded@1/42/0\?class=\d&truncation=0.5$")
    )


async def test_form_stays_while_a_model_loads(visit, shop):
    """New lists of models change nothing that the visitor has chosen."""
    page = await visit(shop, "#model=digits&version=2&count=4&class=3")
    await wait_for_images(page)
    states = ["MODEL_STATE_LOADING"]

    async def add_model(route):
        answer = await route.fetch()
        content = await answer.json()
        model = next(each for each in content["models"] if each["name"] == "plain")
        versions = [{**model["versions"][0], "state": states[-1]}]
        content["models"].append({**model, "name": "later", "versions": versions})
        await route.fulfill(response=answer, json=content)

    await page.route("**/v1/models?*", add_model)
    await page.locator("#key-button").click()
    await page.locator("#key-form button[value=save]").click()  # the page reads the models again
    later = page.locator(".model", has_text="later")
    await expect(later).to_contain_text("still loading")
    await page.locator(".chip", has_text="5").click()
    await page.locator("#version").select_option("1")
    await page.locator("#compare").select_option("2")
    await page.locator("input[name=class][value='6']").focus()
    await page.keyboard.press("Space")
    states.append("MODEL_STATE_READY")
    await expect(later).to_contain_text("no classes")
    await expect(page.locator("input[name=class][value='6']")).to_be_checked()
    await expect(page.locator("input[name=class][value='6']")).to_be_focused()
    await expect(page.locator("#version")).to_have_value("1")
    await expect(page.locator("#compare")).to_have_value("2")
    await page.locator("#mint").click()
    await expect(page.locator(".tile").first).to_have_attribute("title", "digits@1/42/0?class=6")


async def test_address_is_kept(visit, shop):
    """Any number of images and any truncation come from the address, also when it changes."""
    page = await visit(shop, "#model=bounded&count=5&truncation=3.123&class=7")
    await wait_for_images(page)
    await expect(page.locator(".tile img")).to_have_count(5)
    await expect(page.locator("#truncation-value")).to_have_text("3.123")
    first = page.locator(".tile").first
    await expect(first).to_have_attribute("title", "bounded@1/42/0?class=7&truncation=3.123")
    await expect(page.locator("#unmet")).to_be_hidden()
    await page.evaluate("location.hash = '#model=digits&version=9&seed=8&count=4&class=77'")
    await expect(first).to_have_attribute("title", re.compile("^digits@2/8/0"))
    await expect(page.locator("#unmet")).to_have_text(
        "digits has no version 9 that serves; this is version 2. digits has no class 77."
    )
    await page.evaluate("location.hash = '#model=nosuch&count=5000&seed=1'")
    await expect(page.locator("#unmet")).to_contain_text("There is no model “nosuch”")
    await expect(page.locator("#unmet")).to_contain_text("at most 1,000 images")
    await page.locator(".model", has_text="plain").click()
    await expect(page.locator("#unmet")).to_be_hidden()


async def test_layout_fits_small_windows(visit, shop):
    """The button stays in sight, the name beside its buttons, and choices and borders visible."""
    page = await visit(shop, "#model=digits&count=4", viewport={"width": 1366, "height": 480})
    await expect(page.locator(".chip")).to_have_count(12)
    await expect(page.locator("#mint")).to_be_in_viewport(ratio=1)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        colours = await page.evaluate(
            """() => {
              const field = getComputedStyle(document.getElementById("seed"));
              const panel = getComputedStyle(document.getElementById("controls"));
              return [field.borderTopColor, field.backgroundColor, panel.backgroundColor];
            }"""
        )
        line, *grounds = [compute_luminance(colour) for colour in colours]
        for ground in grounds:
            assert (max(line, ground) + 0.05) / (min(line, ground) + 0.05) >= 3
    await page.emulate_media(forced_colors="active")
    for kind in (".model", ".chip"):
        await expect(page.locator(f"{kind}:has(:checked)")).to_have_css("outline-style", "solid")
    await page.set_viewport_size({"width": 375, "height": 700})
    name = await page.locator("h1").evaluate(
        "(each) => { const text = new Range(); text.selectNodeContents(each);"
        " return text.getBoundingClientRect().right; }"
    )
    assert name <= (await page.locator("#key-button").bounding_box())["x"]


def compute_luminance(colour):
    """Returns the relative luminance of `rgb(...)`, as WCAG 2 defines it."""
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def test_caption_can_be_entered(visit, shop):
    """A model with captions has a field for one. Images have theirs and can be generated again."""
    page = await visit(shop, "#model=people&count=4")
    await wait_for_images(page)
    await page.locator("#caption").fill("Red hair, round glasses")
    await page.locator("#mint").click()
    first = page.locator(".tile").first
    await expect(first).to_have_attribute(
        "title", "people@1/42/0?caption=red%20hair%20round%20glasses"
    )
    await first.click()
    await page.locator("#remint").click()
    await expect(page.locator("#viewer-note")).to_contain_text("Generated again: the same image")
    await page.keyboard.press("Escape")
    await page.locator("#caption").fill("purple hair")
    await page.locator("#mint").click()
    await expect(page.locator("#form-error")).to_contain_text("purple")
    caption = page.locator("#caption")
    await expect(caption).to_have_attribute("aria-describedby", "caption-hint form-error")
    await expect(caption).to_have_attribute("aria-invalid", "true")
    await expect(caption).to_be_focused()
    await expect(page.locator("[role=alert]:visible")).to_have_count(1)


async def test_viewer_verifies_the_serial(visit, shop):
    """The serial alone gives the same pixels, and its URL can be copied."""
    page = await visit(shop, "#model=digits&version=1&count=9&seed=3&class=1")
    await wait_for_images(page)
    await page.locator(".tile").nth(4).click()
    await expect(page.locator("#viewer-serial")).to_have_text("digits@1/3/4?class=1")
    await page.locator("#remint").click()
    await expect(page.locator("#viewer-note")).to_have_text(
        "Generated again: the same image. 24 of 24 pixels are equal."
    )
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.locator("#copy-url").click()
    await expect(page.locator("#viewer-note")).to_have_text("The URL is copied.")
    url = await page.evaluate("() => navigator.clipboard.readText()")
    assert url == f"{shop.http_url}v1/models/digits/versions/1/images/3/4.png?class=1"
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as web:
        picture = (await web.get(url)).content
    async with page.expect_download() as saved:
        await page.locator("#download").click()
    download = await saved.value
    assert download.suggested_filename == "digits-1-3-4-class=1.png"
    assert Path(await download.path()).read_bytes() == picture  # noqa: ASYNC240 - a small file


async def test_versions_can_be_compared(visit, shop):
    """Two versions have the same seeds.

    An image marks its counterpart, and the viewer shows both.
    """
    page = await visit(shop, "#model=digits&version=2&compare=1&count=9&class=balanced")
    await wait_for_images(page)
    await expect(page.locator(".pane h2")).to_have_text(["digits@2", "digits@1"])
    panes = page.locator(".pane")
    await panes.nth(0).locator(".tile").nth(2).hover()
    await expect(panes.nth(1).locator(".tile").nth(2)).to_have_class(re.compile("twin"))
    await panes.nth(0).locator(".tile").nth(2).click()
    await expect(page.locator("#twin-caption")).to_have_text("version 1")
    assert page.url.endswith("#model=digits&version=2&seed=42&count=9&class=balanced&compare=1")


async def test_images_can_be_interpolated(visit, shop):
    """All frames between two selected images are shown and can be saved."""
    page = await visit(shop, "#model=digits&version=1&count=9&class=2", reduced_motion="reduce")
    await wait_for_images(page)
    await page.locator("#slot-a").click()
    await page.locator(".tile").nth(3).click()
    await page.locator(".tile").nth(7).click()
    await page.locator("#walk-to").click()
    await page.keyboard.press("Escape")
    await expect(page.locator("#slot-a")).to_have_attribute(
        "aria-label", "A: Class 2, image 3, serial digits@1/42/3?class=2"
    )
    await expect(page.locator("#slot-b")).to_have_attribute(
        "aria-label", "B: Class 2, image 7, serial digits@1/42/7?class=2"
    )
    await page.locator("#walk-play").click()
    await expect(page.locator("#walk-hint")).to_contain_text("60 images between A and B")
    await expect(page.locator("#walk-position")).to_have_value("59")
    await page.locator("#walk-position").fill("0")
    await expect(page.locator("#walk-position")).to_have_attribute(
        "aria-valuetext", "Frame 1 of 60"
    )
    async with page.expect_download() as saved:
        await page.locator("#walk-save").click()
    path = await (await saved.value).path()
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        assert picture.n_frames > 2  # the encoder joins equal frames


async def test_walk_is_loaded_once(visit, shop):
    """Further clicks while the frames come load nothing, and the images of old ends are freed."""
    page = await visit(shop, "#model=digits&version=1&count=9", reduced_motion="reduce")
    await wait_for_images(page)
    await expect(page.locator("#slot-a img")).to_be_visible()
    held = asyncio.Queue()
    await page.route("**:interpolate", held.put_nowait)
    await page.locator("#walk-play").click()
    await held.get()
    await page.locator("#walk-play").click()
    await page.evaluate(COUNT_URLS)
    await page.locator("#walk-random").click()  # takes the place of the one under way
    second = await held.get()
    await page.locator("#walk-play").click()
    await second.continue_()
    await expect(page.locator("#walk-hint")).to_contain_text("60 images between A and B")
    await expect(page.locator("#walk-position")).to_have_value("59")
    assert held.empty()
    assert await page.evaluate("() => document.urls.size") == 0


COUNT_URLS = """() => {
  document.urls = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => {
    const url = createObjectURL.call(URL, blob);
    document.urls.add(url);
    return url;
  };
  URL.revokeObjectURL = (url) => {
    document.urls.delete(url);
    revokeObjectURL.call(URL, url);
  };
}"""


async def test_keyboard_navigation_works(visit, shop):
    """The grid has one Tab stop. Arrows move, Enter opens, and Escape returns."""
    page = await visit(shop, "#model=digits&count=9")
    await wait_for_images(page)
    await page.locator(".tile").first.focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowDown")
    columns = await page.evaluate(
        "() => Number(document.querySelector('.grid').style.getPropertyValue('--columns'))"
    )
    focused = page.locator(".tile").nth(1 + columns)
    await expect(focused).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#viewer")).to_be_visible()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Escape")
    await expect(page.locator(".tile").nth(2 + columns)).to_be_focused()
    before = await page.locator("#seed").input_value()
    for key in ("n", "Shift+N"):
        await page.keyboard.press(key)
        await expect(page.locator("#seed")).not_to_have_value(before)
        await expect(page.locator(".tile").nth(2 + columns)).to_be_focused()
        await expect(page.locator(".tile[tabindex='0']")).to_have_count(1)
        before = await page.locator("#seed").input_value()
    await wait_for_images(page)
    await page.locator("input[name=class]:checked").focus()
    await page.keyboard.press("n")
    await expect(page.locator("#seed")).to_have_value(before)
    address = page.url
    await page.locator(".skip").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#stage")).to_be_focused()
    assert page.url == address


async def test_invalid_seed_is_shown_at_the_form(visit, shop):
    """No request is sent, and a phone does not scroll to the images."""
    phone = {"width": 375, "height": 700}
    page = await visit(shop, "#model=digits&count=4", viewport=phone)
    await wait_for_images(page)
    await page.locator("#seed").fill("many")
    await page.locator("#mint").click()
    await expect(page.locator("#form-error")).to_contain_text("A seed is a whole number")
    seed = page.locator("#seed")
    await expect(seed).to_have_attribute("aria-invalid", "true")
    await expect(seed).to_have_attribute("aria-describedby", "form-error")
    await expect(seed).to_be_focused()
    await expect(seed).to_be_in_viewport()
    await seed.fill("3")
    await page.locator("#mint").click()
    await expect(page.locator(".tile").first).to_have_attribute("title", re.compile("@2/3/0"))
    await expect(seed).not_to_have_attribute("aria-invalid", "true")
    await expect(page.locator("#form-error")).to_be_hidden()


async def test_full_queue_is_retried(visit, held_site):
    """The page says that the queue is full, waits for the server's retry time, and continues."""
    backend = held_site.backends["digits"]
    page = await visit(held_site, "#model=digits&count=36")
    await backend.begun()
    await expect(page.locator("#progress")).to_contain_text("Waiting in the queue")
    others = [await visit(held_site, "#model=digits&count=36") for _ in range(2)]
    for other in others:
        await expect(other.locator("#status-text")).to_have_text("Ready")
    notice = others[-1].locator("#notice")
    await expect(notice).to_contain_text("The queue is full")
    await expect(notice.locator("button")).to_contain_text("by itself in")
    backend.release()
    for each in (page, *others):
        await wait_for_images(each)


async def test_countdown_is_not_read_aloud(visit, shop):
    """A screen reader would read the notice again each second. The name of the button stays."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    await page.route(
        "**:streamGenerate", lambda route: route.fulfill(status=429, json={"retry_delay_s": 600})
    )
    await page.locator("#mint").click()
    button = page.locator("#notice").get_by_role("button", name="Try again", exact=True)
    await expect(button).to_have_text(re.compile(r"^Try again \(by itself in \d+ s\)$"))


async def test_retries_end(visit, shop):
    """After five attempts by itself, the page leaves further ones to the visitor."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    sent = []

    async def refuse(route):
        sent.append(route.request.url)
        await route.fulfill(status=429, json={"retry_delay_s": 0, "detail": f"No {len(sent)}."})

    await page.route("**:streamGenerate", refuse)
    again, notice = page.locator("#mint"), page.locator("#notice")
    for attempts in (6, 12):
        await again.click()
        await expect(notice).to_contain_text(f"No {attempts}.")
        again = notice.get_by_role("button")
        await expect(again).to_have_text("Try again")
        await page.evaluate(ROUND_TRIP)
        assert len(sent) == attempts


async def test_countdown_ends_with_its_notice(visit, shop):
    """An attempt that is no longer announced is not made."""
    page = await visit(shop, "#model=digits&count=4")
    await page.clock.install()
    await page.reload()
    await wait_for_images(page)
    await page.route(
        "**:streamGenerate", lambda route: route.fulfill(status=429, json={"retry_delay_s": 600})
    )
    await page.locator("#mint").click()
    await expect(page.locator("#notice")).to_contain_text("by itself in")
    await page.unroute("**:streamGenerate")
    await page.locator("#mint").click()
    await wait_for_images(page)
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    await page.clock.fast_forward(700_000)
    await page.evaluate(ROUND_TRIP)
    await page.evaluate(ROUND_TRIP)
    assert not [url for url in sent if url.endswith(":streamGenerate")]


async def test_server_that_comes_back_is_used(visit, shop):
    """If there are no images, the page generates them by itself when the server answers again."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    for address in ("**/readyz", "**:streamGenerate"):
        await page.route(address, lambda route: route.abort())
    await page.locator("#mint").click()
    await expect(page.locator("#notice")).to_contain_text("No answer from the server")
    await expect(page.locator("#status-text")).to_have_text("No answer")
    await expect(page.locator(".tile")).to_have_count(0)
    for address in ("**:streamGenerate", "**/readyz"):
        await page.unroute(address)
    await expect(page.locator(".tile img")).to_have_count(4)
    await expect(page.locator("#status-text")).to_have_text("Ready")
    await expect(page.locator("#notice")).to_be_hidden()


async def test_answers_of_proxies_are_shown(visit, shop):
    """They are no problem details, and may be cut off."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    answers = [
        {"status": 502, "json": {"message": "no upstream"}},
        {"status": 504, "body": "null"},
        {"status": 200, "body": '{"batch": {'},
    ]
    await page.route("**:streamGenerate", lambda route: route.fulfill(**answers.pop(0)))
    notice = page.locator("#notice")
    for text in ("The server answered 502.", "The server answered 504.", "The connection was cut."):
        await page.locator("#mint").click()
        await expect(notice).to_contain_text(text)
    await page.unroute("**:streamGenerate")
    await notice.get_by_role("button").focus()
    await page.keyboard.press("Enter")
    await wait_for_images(page)
    await expect(page.locator("#stage")).to_be_focused()


async def test_answer_to_an_older_request_is_not_shown(visit, shop):
    """What is under way when another one begins says nothing any more."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    await page.evaluate(KEEP_PROGRESS)
    await page.route("**:streamGenerate", lambda _: None)  # is never answered
    async with page.expect_request("**:streamGenerate"):
        await page.locator("#mint").click()
    async with page.expect_event("requestfailed"), page.expect_request("**:streamGenerate"):
        await page.locator("#mint").click()
    await expect(page.locator("#progress")).to_contain_text("Waiting in the queue")
    assert not [text for text in await page.evaluate("document.said") if "Stopped" in text]
    await page.locator("#stop").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#progress")).to_contain_text("Stopped after 0 images")
    await expect(page.locator("#mint")).to_be_focused()
    await page.unroute("**:streamGenerate")
    await page.locator("#mint").click()
    await wait_for_images(page)
    held = asyncio.Queue()
    await page.route("**/images/**", held.put_nowait)
    await page.locator(".tile").first.click()
    await page.locator("#remint").click()
    first = await held.get()
    await page.locator("#next").click()
    async with page.expect_response("**/images/**"):
        await first.fulfill(status=500, json={"detail": "of the first image"})
    await page.evaluate(ROUND_TRIP)
    await expect(page.locator("#viewer-note")).to_have_text("")


KEEP_PROGRESS = """() => {
  document.said = [];
  const progress = document.querySelector("#progress");
  const keep = () => document.said.push(progress.textContent);
  new MutationObserver(keep).observe(progress, { childList: true });
}"""
# A request of its own, after which the page knows the answers before.
ROUND_TRIP = "() => fetch('readyz').then((response) => response.text())"


async def test_drain_and_disconnection_are_shown(visit, serve_http, gallery):
    """The page shows that the server drains and that it is gone."""
    app = await serve_http(gallery, drain_delay_s=3.0)
    page = await visit(app, "#model=digits&count=4")
    await wait_for_images(page)
    await app._rpc.leave()
    await expect(page.locator("#status")).to_have_attribute("data-state", "waiting")
    await app._http.stop()
    await expect(page.locator("#status-text")).to_have_text("No answer")
    await page.locator("#mint").click()
    notice = page.locator("#notice")
    await expect(notice).to_have_text(
        "No answer from the serverThe server does not answer.Try again"
    )
    await expect(page.locator(".tile")).to_have_count(0)
    await expect(page.locator("#walk")).to_be_hidden()


async def test_key_can_be_entered(visit, serve_http, gallery, tmp_path):
    """Without a key the page asks for one and then works."""
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nname = "page"\nsha256 = "{compute_digest(KEY)}"\n')
    app = await serve_http(gallery, api_keys=keys)
    page = await visit(app, "#count=4")
    await expect(page.locator("#notice")).to_contain_text("requires an API key")
    await expect(page.locator("#models")).to_have_text("No models to show.")
    await expect(page.locator("#mint")).to_be_disabled()

    async def enter(key):
        await page.locator("#key-button").click()
        await page.locator("#key").fill(key)
        await page.locator("#key-form button[value=save]").click()

    await enter("imk_typed…")
    await expect(page.locator("#notice")).to_contain_text("The key has characters that no key has")
    held = asyncio.Queue()
    await page.route("**/v1/models?*", held.put_nowait)
    await enter("imk_wrong")
    wrong = await held.get()
    await enter(KEY)
    await (await held.get()).continue_()
    await wait_for_images(page)
    await expect(page.locator("#notice")).to_be_hidden()
    async with page.expect_response("**/v1/models?*"):
        await wrong.continue_()
    await page.evaluate(ROUND_TRIP)
    await expect(page.locator("#notice")).to_be_hidden()


async def test_page_works_without_storage_and_metrics(visit, serve_http, gallery):
    """Blocked site data cost only what the browser would keep, and no request fails."""
    app = await serve_http(gallery)
    page = await visit(app, "#model=plain&count=4")
    failed = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    await page.add_init_script(
        """for (const area of ["localStorage", "sessionStorage"]) {
          Object.defineProperty(window, area, {get() { throw new DOMException("blocked"); }});
        }"""
    )
    await page.reload()
    await wait_for_images(page)
    await page.locator("#theme-button").click()
    await expect(page.locator("#theme-button")).to_have_text("Theme: light")
    await page.locator("#theme-button").click()
    await expect(page.locator("#theme-button")).to_have_text("Theme: dark")
    assert not failed
    await page.locator("summary", has_text="Samples").click()
    await expect(page.locator("#card details").first).to_contain_text("The bundle has no samples.")


async def test_empty_repository_is_shown(visit, serve_http, tmp_path):
    """A server without models is not shown as an error."""
    (tmp_path / "nothing").mkdir()
    app = await serve_http(tmp_path / "nothing", load_models=[], model_control="explicit")
    page = await visit(app)
    await expect(page.locator("#notice")).to_contain_text("No models")


@asynccontextmanager
async def run_cutter(app):
    """Runs a way to a server that cuts each answer with a mark after its head; yields it."""
    site = SimpleNamespace(http_url="", mark=b"")

    async def send(reader, writer):
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()

    async def answer(reader, writer):
        while data := await reader.read(2**16):
            is_cut = site.mark and site.mark in data
            head, gap, _ = data.partition(b"\r\n\r\n")
            writer.write(head + gap if is_cut else data)
            if is_cut:
                break
        writer.close()

    async def connect(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection(
            "127.0.0.1", urlsplit(app.http_url).port
        )
        await asyncio.gather(
            send(reader, inner_writer), answer(inner_reader, writer), return_exceptions=True
        )

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as server:
        site.http_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield site


async def test_cut_answers_are_shown(visit, shop):
    """If the server goes away in the middle of an answer, the page says so, and can try again."""
    async with run_cutter(shop) as site:
        page = await visit(site, "#model=digits&version=1&count=4&class=1")
        await wait_for_images(page)
        await page.locator(".tile").first.click()
        site.mark = b"image/png"
        await page.locator("#remint").click()
        await expect(page.locator("#viewer-note")).to_have_text("The connection was cut.")
        await page.keyboard.press("Escape")
        site.mark = b'"models"'
        await page.reload()
        notice = page.locator("#notice")
        await expect(notice).to_contain_text("The connection was cut.")
        site.mark = b""
        await notice.get_by_role("button", name="Try again").click()
        await wait_for_images(page)
        await expect(notice).to_be_hidden()


async def test_foreign_answers_are_shown(visit, shop):
    """A proxy that asks for a login answers with a page of its own, and the status of success."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    login = {"status": 200, "content_type": "text/html", "body": "<p>Log in</p>\n"}
    await page.locator(".tile").first.click()
    await page.route("**/images/**", lambda route: route.fulfill(**login))
    await page.locator("#remint").click()
    await expect(page.locator("#viewer-note")).to_have_text("The answer is not one of imagemint.")
    await page.keyboard.press("Escape")
    for address in ("**:streamGenerate", "**/v1/models?*"):
        await page.route(address, lambda route: route.fulfill(**login))
    notice = page.locator("#notice")
    await page.locator("#mint").click()
    await expect(notice).to_contain_text("The answer is not one of imagemint")
    await page.reload()
    await expect(page.locator("#models")).to_have_text("No models to show.")
    await expect(notice).to_contain_text("The answer is not one of imagemint")


async def test_notices_about_the_models_end(visit, serve_http, gallery, tmp_path):
    """A notice that the models cannot be listed ends when they are, also beside images."""
    page = await visit(await serve_http(gallery), "#model=digits&count=4")
    await wait_for_images(page)
    await page.route(
        "**/v1/models?*", lambda route: route.fulfill(status=503, json={"detail": "Not now."})
    )
    await page.locator("#key-button").click()
    await page.locator("#key-form button[value=save]").click()  # the page reads the models again
    notice = page.locator("#notice")
    await expect(notice).to_contain_text("Not now.")
    await page.unroute("**/v1/models?*")
    await notice.get_by_role("button", name="Try again").click()
    await expect(notice).to_be_hidden()
    await expect(page.locator(".tile img")).to_have_count(4)


async def test_open_viewer_outlives_the_grid(visit, shop):
    """The shown image can be saved after the page has generated others, such as by itself."""
    page = await visit(shop, "#model=digits&version=1&count=4&seed=3&class=1")
    await wait_for_images(page)
    await page.locator(".tile").nth(2).click()
    await page.evaluate("location.hash = '#model=digits&version=1&count=4&seed=4&class=1'")
    await expect(page.locator(".tile").first).to_have_attribute("title", re.compile("@1/4/0"))
    await wait_for_images(page)
    async with page.expect_download() as saved:
        await page.locator("#download").click()
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as web:
        url = f"{shop.http_url}v1/models/digits/versions/1/images/3/2.png?class=1"
        picture = (await web.get(url)).content
    path = await (await saved.value).path()
    assert Path(path).read_bytes() == picture  # noqa: ASYNC240 - a small file


async def test_viewer_keeps_the_focus_at_its_ends(visit, shop):
    """At the last image, the button for the next one keeps the focus, and the arrows work."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    await page.locator(".tile").nth(2).click()
    await page.locator("#next").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#viewer-serial")).to_have_text(re.compile("@2/42/3"))
    await expect(page.locator("#next")).to_be_disabled()
    await expect(page.locator("#next")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#viewer-serial")).to_have_text(re.compile("@2/42/2"))
    await expect(page.locator("#next")).to_be_enabled()


async def test_hint_of_an_old_walk_ends(visit, shop):
    """What the page says of a walk is not about other images that are chosen later."""
    page = await visit(shop, "#model=digits&version=1&count=4&class=2", reduced_motion="reduce")
    await wait_for_images(page)
    hint = page.locator("#walk-hint")
    await page.locator("#walk-play").click()
    await expect(hint).to_contain_text("60 images between A and B")
    await page.locator(".tile").nth(3).click()
    await page.locator("#walk-from").click()
    await page.keyboard.press("Escape")
    await expect(hint).to_contain_text("Press Walk")


def list_as(states):
    """Returns a route that lists the models of a server in other states, by name."""

    async def answer(route):
        response = await route.fetch()
        content = await response.json()
        for model in content["models"]:
            if state := states.get(model["name"]):
                model["defaultVersion"] = ""
                model["versions"] = [{**each, "state": state} for each in model["versions"]]
        await route.fulfill(response=response, json=content)

    return answer


async def test_refused_request_is_sent_once_while_a_model_loads(visit, shop):
    """Later lists of the models neither repeat a request that was refused nor move the focus."""
    page = await visit(shop, "#model=digits&count=4")
    await wait_for_images(page)
    await page.route("**/v1/models?*", list_as({"plain": "MODEL_STATE_LOADING"}))
    await page.evaluate("history.replaceState(null, '', '#model=people&count=4&caption=purple')")
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    await page.reload()
    await expect(page.locator("#form-error")).to_contain_text("purple")
    await page.locator("#seed").focus()
    for _ in range(2):
        async with page.expect_response("**/v1/models?*"):
            pass
    await page.evaluate(ROUND_TRIP)
    await expect(page.locator("#seed")).to_be_focused()
    assert len([url for url in sent if url.endswith(":streamGenerate")]) == 1
    await page.unroute_all(behavior="wait")


async def test_first_model_that_is_ready_is_shown(visit, serve_http, gallery):
    """A model that nobody chose and that does not get ready keeps nobody from the others."""
    app = await serve_http(gallery)
    page = await visit(app, "#model=digits&count=4")
    await wait_for_images(page)
    states = dict.fromkeys(("bounded", "digits", "people", "plain"), "MODEL_STATE_LOADING")
    await page.route("**/v1/models?*", list_as(states))
    await page.evaluate("history.replaceState(null, '', '#count=4')")
    await page.reload()
    notice = page.locator("#notice")
    await expect(notice).to_contain_text("The models are loading")
    await expect(notice).to_have_role("status")
    said = "document.querySelector('#notice strong')"
    await page.evaluate(f"() => {{ document.said = {said}; }}")
    async with page.expect_response("**/v1/models?*"):
        pass
    await page.evaluate(ROUND_TRIP)
    assert await page.evaluate(f"document.said === {said}")  # not read aloud again
    states.clear()
    states["bounded"] = "MODEL_STATE_FAILED"
    await expect(page.locator(".tile").first).to_have_attribute("title", re.compile("^digits@2"))
    await expect(notice).to_be_hidden()
    await wait_for_images(page)
    await page.locator(".model", has_text="bounded").click()
    await expect(page.locator("#card")).to_contain_text("Not ready")
    await expect(page.locator(".tile")).to_have_count(0)  # they are of another model
    await expect(page.locator("#progress")).to_have_text("")
    await page.evaluate("history.replaceState(null, '', '#model=bounded')")
    await page.reload()
    await expect(notice).to_contain_text("The model is not ready")


MARKUP = '<img src="x" onerror="document.hit = 1">'


async def test_strange_manifest_is_shown(visit, serve_http, tmp_path):
    """Texts of a bundle are no markup."""

    def edit(manifest):
        manifest.title = manifest.license = manifest.class_labels[0] = MARKUP
        manifest.evaluations.add(metric=MARKUP, value=123.45, reference=0.0, sample_size=2)

    bundle = write_bundle(tmp_path / "models", "strange", edit_manifest=edit)
    (bundle / "card.md").write_text(
        f"# {MARKUP}\n\n- {MARKUP}\n\n| {MARKUP} |\n|-|\n| {MARKUP} |\n"
    )
    write_sums(bundle)
    page = await visit(await serve_http(tmp_path / "models"), "#count=4&class=0")
    await wait_for_images(page)
    figures = page.locator("#card table").nth(1).locator("tbody tr")
    await expect(figures).to_have_text([f"{MARKUP}123.50"])
    await page.locator("summary", has_text="The whole card").click()
    await expect(page.locator(".card-text")).to_contain_text(MARKUP)
    await page.locator(".tile").first.click()
    await expect(page.locator("#viewer-title")).to_have_text(f"{MARKUP}, image 0")
    assert await page.evaluate("document.hit === undefined")


async def test_any_number_of_images_fits(visit, shop):
    """A prime number of images has tiles of the usual size, and not one row or one column."""
    page = await visit(shop, "#model=plain&count=37")
    await wait_for_images(page)
    width = (await page.locator(".tile").first.bounding_box())["width"]
    assert 60 < width < 200

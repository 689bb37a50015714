"""Takes docs/images/page.webp and translate.webp, screenshots of the page with the shipped models.

Run it after a visible change of the page. It needs chromium on the PATH.

    python scripts/site/take_screenshot.py
"""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

PICTURES = Path(__file__).parents[2] / "docs/images"
COMMAND = Path(sys.executable).with_name("imagemint")
_WAIT_MS = 120_000
_QUALITY = 85


def show_grid(page: Page, url: str) -> None:
    """Shows sixty-four people, and the path between two of them."""
    page.set_viewport_size({"width": 1440, "height": 1080})
    page.goto(f"{url}#model=avatars&seed=42&count=64")
    expect(page.locator(".model", has_text="still loading")).to_have_count(0)
    expect(page.locator(".tile img")).to_have_count(64)
    page.locator("#slot-a").click()
    page.locator(".tile").nth(4).click()
    page.locator(".tile").nth(19).click()
    page.locator("#walk-to").click()
    page.keyboard.press("Escape")
    page.locator("#walk-play").click()
    expect(page.locator("#walk-hint")).to_contain_text("60 images between A and B")
    expect(page.locator("#walk-position")).to_have_value("59")
    page.locator("#walk-position").fill("32")
    page.evaluate("scrollTo(0, 0)")


def show_translation(page: Page, url: str) -> None:
    """Shows a line drawing beside the person that the model makes of it."""
    page.set_viewport_size({"width": 1440, "height": 960})
    page.goto(f"{url}#model=sketch")
    page.reload()  # of another fragment alone, the page shows the model that it showed
    expect(page.locator(".model", has_text="still loading")).to_have_count(0)
    page.locator("#examples button").nth(1).click()
    page.get_by_role("button", name="Translate").click()
    expect(page.locator("#translate-note")).to_contain_text("Translated in")
    page.evaluate("scrollTo(0, 0)")


def save(page: Page, name: str) -> None:
    """Writes what the window shows."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.save(PICTURES / name, quality=_QUALITY, method=6)


def main() -> None:
    """Starts a server and a browser, and writes the pictures."""
    addresses = [f"--{kind}-address=127.0.0.1:0" for kind in ("grpc", "http", "metrics")]
    server = subprocess.Popen(
        [COMMAND, "serve", "--log-format=json", *addresses], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None  # noqa: S101 - for the type checker
    lines = map(json.loads, server.stderr)
    ready = next(line for line in lines if line["event"] == "ready")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(color_scheme="dark", reduced_motion="reduce")
            page.set_default_timeout(_WAIT_MS)
            expect.set_options(timeout=_WAIT_MS)
            show_grid(page, ready["http_url"])
            save(page, "page.webp")
            show_translation(page, ready["http_url"])
            save(page, "translate.webp")
    finally:
        server.terminate()
        server.communicate()


if __name__ == "__main__":
    main()

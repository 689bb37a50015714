"""Chromium, and pages that no test may break. Imported by name."""

import shutil

from playwright.async_api import expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MS = 30_000
expect.set_options(timeout=MS)  # for all tests: the default of 5 s is short on a busy machine


async def wait_for_images(page):
    """Waits for the end of the stream."""
    await expect(page.locator("#progress")).to_contain_text("Generated", timeout=MS)


def record_console_error(line, faults):
    """Records errors on the console except for failed requests, which tests cause."""
    if line.type == "error" and "Failed to load resource" not in line.text:
        faults.append(line.text)


def check_host(request, app, faults):
    """Records requests to other hosts than the server."""
    if not request.url.startswith((app.http_url, "blob:", "data:")):
        faults.append(request.url)

"""Fixtures: servers with HTTP on loopback and their clients."""

import pytest
import pytest_asyncio
from http_clients import EVERYWHERE, browse
from page_visits import CHROMIUM, MS, check_host, record_console_error
from playwright.async_api import async_playwright

from imagemint.server.app import App
from imagemint.server.settings import ServeSettings


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site(models):
    """A server over `models` for tests of one module."""
    app = App(ServeSettings(repository=models, http_metrics=True, **EVERYWHERE))
    await app.start()
    yield app
    await app.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def web(site):
    """An HTTP client of `site`."""
    async with browse(site) as client:
        yield client


@pytest.fixture
def serve_http(serve):
    """A function that starts servers with HTTP."""

    async def start(repository, *kind, **settings):
        return await serve(repository, *kind, **EVERYWHERE | settings)

    return start


@pytest_asyncio.fixture(loop_scope="module")
async def held_site(serve_http, models, tmp_path, held_kind):
    """A server with one held instance of `digits`, batches of 8 and a queue of 20."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/digits").symlink_to(models / "digits")
    sizes = {"instances": 1, "max_batch_images": 8, "max_queue_images": 20}
    app = await serve_http(tmp_path / "one", held_kind, max_images_per_request=20, **sizes)
    backend = app.backends["digits"]
    await backend.begun()  # the warm-up
    backend.batches.clear()
    backend.hold()
    return app


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop(gallery):
    """A server over `gallery`."""
    app = App(ServeSettings(repository=gallery, http_metrics=True, **EVERYWHERE))
    await app.start()
    yield app
    await app.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chromium():
    """A browser for all tests."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(chromium):
    """A function that opens pages. No page may raise an exception or contact another host."""
    contexts, faults = [], []

    async def open_page(app, fragment="", **options):
        context = await chromium.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: record_console_error(line, faults))
        page.on("request", lambda request: check_host(request, app, faults))
        await page.goto(app.http_url + fragment)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert not faults

"""GET /docs works without the internet: in tests of its files, and in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import httpx
import pytest

from service.http.routes import ENDPOINTS
from tests.support.service_harness import live_store, serving
from tests.support.service_process import process, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.anyio
async def test_the_page_names_only_files_that_the_service_serves(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys="reader-key") as (client, _):
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy

        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 4
        for link in links:
            assert re.fullmatch(r"docs/[a-z.-]+", link)
            file = await client.get(f"/{link}")
            assert file.status_code == 200
            assert file.headers["x-content-type-options"] == "nosniff"
            kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[link.rpartition(".")[2]]
            assert file.headers["content-type"].partition(";")[0] == kind
            assert "max-age" in file.headers["cache-control"]
            again = await client.get(f"/{link}", headers={"If-None-Match": file.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


@pytest.mark.anyio
async def test_the_style_loads_no_font_image_or_style_from_elsewhere(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        style = (await client.get("/docs/swagger-ui.css")).text
    addresses = re.findall(r"url\(\s*[\"']?([^)\"']+)", style)
    assert addresses
    assert [address for address in addresses if not address.startswith("data:")] == []
    assert "@import" not in style


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_without_internet_shows_every_operation_and_tries_one(tmp_path: Path) -> None:
    from playwright.sync_api import Request, sync_playwright

    live_store(tmp_path)
    requested: list[str] = []
    complaints: list[str] = []

    def note(request: Request) -> None:
        requested.append(request.url)

    with process(tmp_path, "-m", "service") as (_, url), sync_playwright() as playwright:
        wait_for(f"{url}/health/ready", 200)
        # Any name but this machine's own leads nowhere, so a file from elsewhere would be missing.
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[offline, "--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("request", note)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}/docs")
        page.wait_for_selector(".opblock")
        shown = page.locator(".opblock").count()

        page.locator("#operations-recommendations-recommend .opblock-summary").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        status = page.locator(".live-responses-table .response-col_status").last
        status.wait_for()
        answered = status.inner_text()
        page.locator("#operations-items-upload_items .opblock-summary").first.click()
        page.locator("#operations-items-upload_items .opblock-section-request-body").get_by_text("Toy Story").wait_for()
        page.screenshot(path=tmp_path / "docs.png", full_page=True)
        browser.close()

    assert shown == len(ENDPOINTS)
    assert answered.startswith("200")
    assert complaints == []
    assert {httpx.URL(each).host for each in requested if each.startswith("http")} == {"127.0.0.1"}

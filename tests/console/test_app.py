"""The console as a process, in a real browser without internet: every page, two widths, hostile titles, no service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from console.pages.frame import NAVIGATION
from tests.support.console_browser import CHROMIUM, NO_CHROMIUM, START_S, WIDTHS, Visit, browsing, console
from tests.support.service_harness import live_store
from tests.support.service_process import free_port, process, wait_for

HOSTILE = (
    "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>" + "long " * 300
)
RIGHT_TO_LEFT = "שלום עולם \u202e right to left"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    live_store(folder)
    with process(folder, "-m", "tests.support.placing_service", DEADLINE_MS="20000") as (_, url):
        wait_for(f"{url}/health/ready", 200, START_S)
        for item_id, title in (("bad", HOSTILE), ("rtl", RIGHT_TO_LEFT)):
            body = {"title": title, "categories": [title[:256]], "attributes": {"note": title}}
            assert httpx.put(f"{url}/items/{item_id}", json=body, timeout=60).status_code == 200
        events = [{"user_id": "u1", "item_id": item_id} for item_id in ("item-3", "bad", "rtl")]
        assert httpx.post(f"{url}/events", json=events, timeout=60).status_code == 200
        variants = [{"name": "control", "share": 0.5}, {"name": "new", "share": 0.5, "rules": {"k": 3}}]
        experiment = {"description": HOSTILE[:1000], "variants": variants}
        assert httpx.put(f"{url}/experiments/e1", json=experiment, timeout=60).status_code == 200
        rules = {
            "description": HOSTILE[:1000],
            "experiment": "e1",
            "filter": {"deny": [RIGHT_TO_LEFT]},
            "boosts": [{"nats": 1, "categories": [HOSTILE[:256]]}],
        }
        assert httpx.put(f"{url}/placements/home", json=rules, timeout=60).status_code == 200
        yield url


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_works_without_internet_and_without_complaints(service: str, width: int) -> None:
    with console(service, "--allow-changes") as address, browsing(address, width) as visit:
        for path, shown in (
            ("/", "All is well"),
            ("/ask?user=u1", "The model searched for this answer"),  # or kept from the other width
            ("/codes?user=u1", "User's probability"),
            ("/codes?colour=exposure", "All items"),
            ("/ask?user=u1&beside=candidate", "No version is the candidate"),
            ("/items?query=long", "onerror"),
            ("/item?id=bad", "onerror"),
            ("/item?id=rtl", "right to left"),
            ("/new-item", "Audience"),
            ("/placements", "onerror"),
            ("/placement?name=home", "onerror"),
            ("/experiments", "onerror"),
            ("/experiment?name=e1", "onerror"),
            ("/experiment", "Variant 2"),
            ("/models", "No version is tried"),
            ("/users?id=u1", "3"),
        ):
            visit.open(path)
            visit.wait_for_text(shown)
            assert "taken over" not in visit.page.title(), path
            overflow = visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert overflow <= 0, (path, overflow)
            assert visit.page.locator("h1").count() == 1
        assert visit.asked == {"127.0.0.1"}
        assert visit.complaints == []


def test_all_is_reached_by_keyboard(service: str) -> None:
    with console(service) as address, browsing(address, 1280) as visit:
        visit.open("/")
        press_tab_until_the_end(visit)  # where a browser begins is its own affair; behind the end comes the first
        reached = press_tab_until_the_end(visit)
        assert reached[0] == "Skip to main content"
        assert [name for name in reached if name in dict(NAVIGATION).values()] == [name for _, name in NAVIGATION]
        visit.page.get_by_role("link", name="Items").focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/items")


def test_pages_say_that_the_service_is_away() -> None:
    with console(f"http://127.0.0.1:{free_port()}") as address, browsing(address, 390) as visit:
        paths = (
            "/",
            "/items",
            "/codes",
            "/item?id=1",
            "/placements",
            "/placement?name=a",
            "/experiments",
            "/models",
            "/users?id=1",
        )
        for path in paths:
            visit.open(path)
            assert "The service cannot be reached" in visit.text(), path
        assert visit.complaints == []


def press_tab_until_the_end(visit: Visit) -> list[str]:
    """Go from element to element, each of which shows that it has the focus; return their texts."""
    reached: list[str] = []
    for _ in range(100):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement === document.body"):
            return reached
        reached.append(visit.page.evaluate("document.activeElement.textContent.trim()"))
        style = "getComputedStyle(document.activeElement)"
        assert visit.page.evaluate(f"[{style}.outlineStyle, {style}.boxShadow]") != ["none", "none"], reached
    raise AssertionError(f"the focus never comes to an end: {reached}")

"""What axe-core finds wrong with pages, in a real browser: nothing, in both themes and in every state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model_store.bundle.registry import ModelStore
from tests.support.bundles import publish_small
from tests.support.console_browser import CHROMIUM, NO_CHROMIUM, START_S, browsing, console
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store
from tests.support.service_process import free_port, process, wait_for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

PAGES = (
    *(
        "/",
        "/ask",
        "/ask?user=u1",
        "/ask?user=u1&beside=candidate",
        "/codes",
        "/codes?user=u1&colour=user",
        "/codes?colour=exposure",
        "/codes?colour=drift",
        "/items",
        "/items?query=no-such-item",
    ),
    *("/item?id=item-3", "/item?id=no-such-item", "/new-item", "/placements", "/placement?name=home", "/placement"),
    *("/experiments", "/experiment?name=e1", "/experiment", "/models", "/users", "/users?id=u1"),
)
EMPTY = ("/", "/ask", "/codes", "/items", "/new-item", "/placements", "/experiments", "/models", "/users?id=nobody")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    live_store(folder)
    with process(folder, "-m", "tests.support.placing_service", DEADLINE_MS="20000") as (_, url):
        wait_for(f"{url}/health/ready", 200, START_S)
        with httpx.Client(base_url=url, timeout=60) as client:
            variants = [{"name": "control", "share": 0.5}, {"name": "new", "share": 0.5, "rules": {"k": 3}}]
            client.put("/experiments/e1", json={"variants": variants})
            boost = {"nats": 1, "categories": ["category-1"], "until": 2_000_000_000}
            rules = {"experiment": "e1", "boosts": [boost], "pins": [{"position": 1, "item": "item-3"}]}
            assert client.put("/placements/home", json=rules).status_code == 200
            client.post("/events", json=[{"user_id": "u1", "item_id": f"item-{row}"} for row in (3, 4)])
            client.post("/recommend", json={"user_id": "u1", "placement": "home"})
        yield url


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_has_a_fault(service: str, theme: str) -> None:
    with console(service, "--allow-changes") as address, browsing(address, 1280, theme) as visit:
        for path in PAGES:
            visit.open(path)
            assert visit.faults() == [], path

        visit.open("/placement?name=home")
        visit.page.get_by_label("Items wanted").fill("4")
        visit.page.get_by_label("Items wanted").press("Tab")
        visit.page.get_by_role("button", name="Try these rules").click()
        visit.wait_for_text("Answers that change")
        visit.wait()
        assert visit.faults() == []

        visit.page.get_by_role("button", name="Delete").click()
        visit.wait_for_text("first take it out of the shop")
        # The library fixes the body while a dialog is open; axe-core then takes the dimmed page for their ground.
        assert visit.faults(without="color-contrast") == []
        assert visit.complaints == []


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_trials_of_models_have_no_fault_and_fit(tmp_path: Path, width: int, theme: str) -> None:
    live_store(tmp_path)
    store = ModelStore(tmp_path)
    store.set_alias("candidate", publish_small(store, 1), 0.5)
    store.set_alias("shadow", publish_small(store, 2), 1.0)
    with process(tmp_path, "-m", "tests.support.placing_service", DEADLINE_MS="20000") as (_, url):
        wait_for(f"{url}/health/ready", 200, START_S)
        with console(url) as address, browsing(address, width, theme) as visit:
            visit.open("/models")
            visit.wait_for_text("The shadow is loaded")
            assert visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
            assert visit.faults() == []
            visit.page.get_by_role("button", name="Refresh").focus()
            visit.page.keyboard.press("Enter")
            visit.wait()

            for beside in ("candidate", "shadow"):
                visit.open(f"/ask?item=item-3&beside={beside}")
                visit.wait_for_text(f"The live version and the {beside}")
                visit.wait()
                assert visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
                assert visit.faults() == []
            assert visit.complaints == []


def test_pages_of_a_service_without_a_model_have_no_fault(tmp_path: Path) -> None:
    with process(tmp_path, "-m", "tests.support.placing_service") as (_, url):
        wait_for(f"{url}/health/live", 200, START_S)
        with console(url, "--allow-changes") as address, browsing(address, 1280) as visit:
            for path in EMPTY:
                visit.open(path)
                assert visit.faults() == [], path
            assert visit.complaints == []


def test_pages_go_on_while_redis_is_down(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path / "models")
    settings = {"REDIS_URL": own_redis.url, "LIVE_CHECK_S": "0.2", "DEADLINE_MS": "20000"}
    with process(tmp_path / "models", "-m", "tests.support.placing_service", **settings) as (_, url):
        wait_for(f"{url}/health/ready", 200, START_S)
        httpx.put(f"{url}/placements/home", json={"k": 3}, timeout=60)
        own_redis.kill()
        with console(url, "--allow-changes") as address, browsing(address, 390, "dark") as visit:
            for path, shown in (
                ("/", "The store is away"),
                ("/ask?item=item-3", "The model searched for this answer"),
                ("/items", "Title 0"),
                ("/placements", "3 items"),
                ("/placement?name=home", "Try it before you save"),
                ("/experiments", "There is no experiment yet"),
                ("/models", "No version is tried"),
                ("/users?id=u1", "Try again"),
            ):
                visit.open(path)
                visit.wait_for_text(shown)
                assert visit.faults() == [], path
            assert visit.complaints == []


def test_the_service_is_away_and_no_page_has_a_fault() -> None:
    with console(f"http://127.0.0.1:{free_port()}") as address, browsing(address, 390, "dark") as visit:
        for path in ("/", "/placements", "/experiments", "/experiment?name=e1", "/models", "/new-item"):
            visit.open(path)
            assert visit.faults() == [], path
        assert visit.complaints == []

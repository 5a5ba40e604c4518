"""The command ``etegrec-serve import-history``: files, versions, mistakes, and a service that runs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.bundle.histories import HISTORIES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.console import run
from service.cli import app
from service.store.base import History, ImportProgress
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.bundles import NOON, bundle_files, description, small_histories
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store
from tests.support.service_process import process, wait_for

CSV = """USER_ID;sku;event_time;Event;price
ann;a;1970-01-01 00:00:30;view;1
bob;x;1970-01-01 00:00:10;Transaction;2
ann;b;1970-01-01 00:00:10;purchase;3
ann;"c;d";1970-01-01T00:00:20;add_to_cart;4
"""


def command(*arguments: str) -> int:
    return run(app, "etegrec-serve", list(arguments))


async def stored(folder: Path, *users: str) -> list[History]:
    store = EmbeddedStore(folder / "events")
    found = [await store.history(user) for user in users]
    await store.close()
    return found


def test_a_shops_file_is_imported_by_time_with_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live_store(tmp_path)
    file = tmp_path / "log.csv"
    file.write_text(CSV)
    assert command("import-history", str(file), "--store", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"users": 2, "written_users": 2, "written_interactions": 4}
    assert asyncio.run(stored(tmp_path, "ann", "bob")) == [
        History(["b", "c;d", "a"], b"pbv"),
        History(["x"], b"p"),
    ]
    assert command("--store", str(tmp_path), "import-history", str(file)) == 0
    assert capsys.readouterr().out.startswith("0 interactions came into the histories of 0 of 2 users")


def test_parquet_with_other_names_and_numbers_as_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.parquet"
    pq.write_table(pa.table({"who": [7, 7], "what": [1, 2], "when": [20, 10], "event": ["swipe", None]}), file)
    named = ("--user", "who", "--item", "what", "--timestamp", "when")
    assert command("import-history", str(file), "--store", str(tmp_path), *named) == 0
    assert asyncio.run(stored(tmp_path, "7")) == [History(["2", "1"], b"--")]


def test_a_file_without_times_counts_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item\nu,b\nu,a\n")
    assert command("import-history", str(file), "--store", str(tmp_path)) == 0
    assert asyncio.run(stored(tmp_path, "u")) == [History(["b", "a"], b"--")]


def test_lines_that_cannot_be_used_are_skipped_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item\nu,b\n,a\n")
    assert command("import-history", str(file), "--store", str(tmp_path), "--skip-bad") == 0
    assert "1 lines cannot be used: skipped, such as log.csv line 3: user id is empty" in capsys.readouterr().err
    assert asyncio.run(stored(tmp_path, "u")) == [History(["b"], b"-")]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("who,item\nu,a\n", [], "log.csv has no user column with a usual name; its columns are who, item"),
        ("user,item\nu,a\n", ["--event", "kind"], "log.csv has no column 'kind'"),
        ("user,item\nu,a\n,b\n", [], "log.csv line 3: user id is empty"),
        ("user,item,time\nu,a,noon\n", [], "log.csv line 2: timestamp is neither Unix time nor ISO 8601"),
        ("user,item\n", [], "holds no interactions"),
        ("user,item\nu,a\n", ["--version", "v"], "a file and --version exclude each other"),
    ],
)
def test_mistakes_are_named(
    text: str, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text)
    assert command("import-history", str(file), "--store", str(tmp_path), *options) in (3, 4)
    shown = capsys.readouterr().err
    assert message in shown
    assert "fix: " in shown


def test_a_version_is_imported_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ModelStore(tmp_path)
    files = {**bundle_files(0), HISTORIES: small_histories({"ann": [("item-1", 1, 3)]})}
    version = publish(store, files, description(), NOON)
    store.promote(version)
    bare = publish(store, bundle_files(1), description(), NOON.replace(minute=1))
    assert command("import-history", "--store", str(tmp_path)) == 0
    assert asyncio.run(stored(tmp_path, "ann")) == [History(["item-1"], b"p")]

    async def progress() -> ImportProgress:
        opened = EmbeddedStore(tmp_path / "events")
        found = await opened.import_progress(version)
        await opened.close()
        return found

    assert asyncio.run(progress()) == ImportProgress(1, is_complete=True)
    assert command("import-history", "--store", str(tmp_path), "--version", bare) == 5
    assert f"version {bare} has no {HISTORIES}" in capsys.readouterr().err


def test_the_embedded_store_of_a_running_service_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live_store(tmp_path)
    file = tmp_path / "log.csv"
    file.write_text("user,item\nu,a\n")
    with process(tmp_path, "-m", "service") as (_, url):
        wait_for(f"{url}/health/ready", 200)
        assert command("import-history", str(file), "--store", str(tmp_path)) == 7
    shown = capsys.readouterr().err
    assert re.search("the service runs and has the embedded store open.*\n.*stop it during the import", shown)


@pytest.mark.redis
@pytest.mark.anyio
async def test_with_redis_a_file_is_imported_while_the_service_runs(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_store(tmp_path)
    file = tmp_path / "log.csv"
    file.write_text(CSV)
    monkeypatch.setenv("ETEGREC_REDIS_URL", own_redis.url)
    store = RedisStore(own_redis.url, timeout_ms=10_000)
    async with store.importing() as is_mine:
        assert is_mine
        assert await asyncio.to_thread(command, "import-history", str(file), "--store", str(tmp_path)) == 7
    assert "a replica imports histories now" in capsys.readouterr().err
    assert await asyncio.to_thread(command, "import-history", str(file), "--store", str(tmp_path)) == 0
    assert (await store.history("ann")).item_ids == ["b", "c;d", "a"]
    await store.close()

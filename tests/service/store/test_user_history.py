"""Histories in memory: order, cap and merging; and what the log keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import StoreReadOnly
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import HistoryLine
from model_store.events.history_entry import UserInteractions
from service.store.base import Forgotten, History, Imported, ImportProgress
from service.store.embedded_store import EmbeddedStore
from service.store.user_history import Interaction, UserHistory
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.anyio

DAY = 86_400


def past(user: str, *interactions: tuple[int, str]) -> UserInteractions:
    times, items = zip(*interactions, strict=True)
    return UserInteractions(user, list(items), list(times), "p" * len(items))


def test_a_history_says_what_came_and_what_it_had_already() -> None:
    history = UserHistory([Interaction(5, "v", "a"), Interaction(7, "~", "b")])
    imported = [Interaction(1, "-", "b"), Interaction(4, "-", "a"), Interaction(5, "p", "a"), Interaction(5, "-", "c")]
    merged, came = history.merged(imported, cap=10)
    assert [(each.timestamp, each.item_id) for each in merged.interactions()] == [
        (4, "a"),
        (5, "c"),
        (5, "a"),
        (7, "b"),
    ]
    assert came == 2
    assert history.merged(imported, cap=3)[1] == 1
    assert history.merged(imported, cap=2)[1] == 0


async def test_states_of_earlier_releases_are_read(tmp_path: Path) -> None:
    state = event_log.state_path(tmp_path, 1)
    tmp_path.mkdir(exist_ok=True)
    line = HistoryLine(user_id="u", item_ids=("a", "b"), newest=20)
    state.write_bytes(event_log.encode_line(line))
    store = EmbeddedStore(tmp_path)
    assert store.corrupt_values == 0
    assert await store.history("u") == History(["a", "b"], b"~~")
    await store.record([Event(event_id="e", user_id="u", item_id="c", timestamp=10)])
    assert (await store.history("u")).item_ids == ["c", "a", "b"]
    await store.close()


async def test_imports_tombstones_and_progress_survive_restarts_and_compaction(tmp_path: Path) -> None:
    for restart in range(3):
        store = EmbeddedStore(tmp_path, clock=lambda: 1000.0, segment_bytes=200)
        if not restart:
            await store.import_histories([past("u", (1, "a"), (2, "b")), past("v", (1, "a"))])
            await store.save_import_progress("v1", ImportProgress(2, is_complete=True))
            await store.forget("v")
        await store.record([Event(event_id=f"e{restart}", user_id="w", item_id="c", timestamp=restart)])
        assert await store.history("u") == History(["a", "b"], b"pp")
        assert await store.import_histories([past("v", (1, "a"), (1000, "b"))]) == Imported(0, 0)
        assert await store.import_progress("v1") == ImportProgress(2, is_complete=True)
        await store.close()


async def test_an_erased_user_is_in_no_file_any_more(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await store.import_histories([past("secret-user", (1, "a")), past("v", (1, "a"))])
    assert await store.forget("secret-user") == Forgotten(1, 0)
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".log", ".state")]
    assert b"".join(files).count(b"secret-user") == 1  # the line that says so
    await store.close()


async def test_erasing_on_a_full_disk_holds_against_imports(tmp_path: Path) -> None:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    with small_disk(mount_point, 4 * 1024 * 1024) as disk:
        if disk is None:
            pytest.skip("this machine mounts no tmpfs for us")
        store = EmbeddedStore(disk.path / "events")
        await store.import_histories([past("u", (1, "a")), past("v", (1, "a"))])
        disk.fill()
        with pytest.raises(StoreReadOnly):
            await store.check()
        with pytest.raises(StoreReadOnly):
            await store.import_histories([past("w", (1, "a"))])
        assert (await store.forget("u")).history == 1
        await store.close()
        store = EmbeddedStore(disk.path / "events")
        disk.clear()
        await store.check()
        assert await store.import_histories([past("u", (1, "a")), past("w", (1, "a"))]) == Imported(1, 1)
        await store.close()


async def test_users_who_were_idle_for_too_long_are_not_imported(tmp_path: Path) -> None:
    now = 100.0 * DAY

    def opened() -> EmbeddedStore:
        return EmbeddedStore(tmp_path, user_ttl_s=30 * DAY, clock=lambda: now)

    store = opened()
    imports = [past("gone", (69 * DAY, "a")), past("idle", (1, "a"), (90 * DAY, "b")), past("untimed", (0, "a"))]
    assert await store.import_histories(imports) == Imported(2, 3)
    await store.close()
    now = 119.0 * DAY
    store = opened()
    assert [len((await store.history(user)).item_ids) for user in ("gone", "idle", "untimed")] == [0, 2, 1]
    await store.close()
    now = 121.0 * DAY
    store = opened()
    assert [len((await store.history(user)).item_ids) for user in ("gone", "idle", "untimed")] == [0, 0, 1]
    await store.close()

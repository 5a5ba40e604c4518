"""Two replicas want the same place for different items at the same moment: the stream decides, alike for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.catalogue.manager import Line, Written
from service.errors import CatalogueIsFull
from service.schemas.items import ItemBody
from service.service import Service
from tests.service.catalogue.test_manager import Replicas, same_place
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ROOM = 8**3 - 40
Pair = tuple[Service, Service]


@pytest.fixture
async def pair(tmp_path: Path, redis_server: RedisServer, prefix: str) -> AsyncIterator[Pair]:
    live_store(tmp_path / "store")
    replicas = Replicas(tmp_path / "store", redis_server.url, prefix)
    async with replicas.one() as a, replicas.one() as b, asyncio.timeout(120):
        yield a, b


async def put_at_once(pair: Pair, titles: dict[str, str]) -> dict[str, Written | BaseException]:
    """Every item is put, by either replica in turn, all at the same time."""
    puts = [
        pair[at % 2].catalogue.put(item_id, ItemBody(title=title)) for at, (item_id, title) in enumerate(titles.items())
    ]
    return dict(zip(titles, await asyncio.gather(*puts, return_exceptions=True), strict=True))


def codes(service: Service, item_id: str) -> list[int] | None:
    assert service.models.current is not None
    catalogue = service.models.current.catalogue
    row = catalogue.row(item_id)
    return None if row is None else catalogue.codes[row].tolist()


async def test_items_that_want_the_same_codes_get_different_ones_and_the_same_on_both_replicas(pair: Pair) -> None:
    alike = {f"twin-{number}": "the same words" for number in range(12)}
    found = await put_at_once(pair, alike)
    await same_place(*pair)
    assert all(isinstance(written, Written) for written in found.values())
    for written, item_id in zip(found.values(), alike, strict=True):
        assert isinstance(written, Written)
        assert written.model.catalogue.codes[written.row].tolist() == codes(pair[0], item_id) == codes(pair[1], item_id)
    assert len({tuple(codes(pair[0], item_id) or ()) for item_id in alike}) == len(alike)


async def test_the_last_places_go_to_whoever_comes_first_in_the_stream_on_both_replicas(pair: Pair) -> None:
    lines = [Line(at, ItemBody(title=f"{at}").change(f"filler-{at}")) for at in range(ROOM - 2)]
    await pair[0].catalogue.put_all(lines)
    await same_place(*pair)
    wanted = {f"late-{number}": f"title {number}" for number in range(8)}
    found = await put_at_once(pair, wanted)
    await same_place(*pair)
    placed = [item_id for item_id, written in found.items() if isinstance(written, Written)]
    assert len(placed) == 2
    assert all(isinstance(each, Written | CatalogueIsFull) for each in found.values())
    for service in pair:
        assert [item_id for item_id in wanted if codes(service, item_id) is not None] == placed
    latest = (await pair[0].store_client.store.catalogue.read_latest()).changes
    order = [change.item_id for change in latest if change.item_id in wanted]
    assert set(order[:2]) == set(placed)  # the losers that reached the stream came later

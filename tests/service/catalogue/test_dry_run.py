"""A dry run adds an item for whoever asked, and for nobody else, also when real items come afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.app import create_app
from service.catalogue.dry_run import add_unstored
from service.errors import CatalogueIsFull, InvalidFields
from service.schemas.items import StoredItem
from tests.support.bundles import small_catalogue
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store, loaded_model, running, until

pytestmark = pytest.mark.anyio

TRAINED = len(small_catalogue())


async def test_the_answering_catalogue_stays_as_it_is_and_grows_as_if_nothing_had_been(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01), coders=hash_coder)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        replica = loaded_model(app.state.service).replica
        assert replica is not None
        added = add_unstored(replica, StoredItem(title="only tried"))
        assert added.row == TRAINED
        added.replica.catalogue.check_integrity()
        tried = added.replica.catalogue.item_ids[added.row]
        assert len(replica.catalogue) == TRAINED
        assert replica.catalogue.row(tried) is None

        put = (await client.put("/items/n1", json={"title": "only tried"})).json()
        assert put["codes"] == added.replica.catalogue.codes[added.row].tolist()
        catalogue = loaded_model(app.state.service).catalogue
        catalogue.check_integrity()
        assert (catalogue.row("n1"), catalogue.row(tried)) == (TRAINED, None)
        assert added.replica.catalogue.row("n1") is None


async def test_an_item_that_cannot_join_is_refused(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01), coders=hash_coder)
    async with running(app):
        await until(lambda: app.state.service.models.current is not None)
        replica = loaded_model(app.state.service).replica
        assert replica is not None
        with pytest.raises(InvalidFields):
            add_unstored(replica, StoredItem(title="refused"))
        while replica.room:
            replica = add_unstored(replica, StoredItem(title=f"item {replica.room}")).replica
        with pytest.raises(CatalogueIsFull):
            add_unstored(replica, StoredItem(title="one too many"))

"""Metrics about the process and the catalogue show what is the case now."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from service.service import Service
from service.telemetry.telemetry import Telemetry
from tests.support.service_harness import live_store, metric, serving

pytestmark = pytest.mark.anyio

STATES = ("trained", "new", "hidden")


def items(service: Service) -> dict[str, float]:
    return {state: metric(service, "etegrec_catalogue_items", state=state) for state in STATES}


async def test_an_item_that_is_hidden_and_brought_back_changes_its_state(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        assert service.models.current is not None
        catalogue = service.models.current.catalogue
        before = items(service)
        assert before == {"trained": len(catalogue), "new": 0, "hidden": 0}

        path = f"/items/{catalogue.item_ids[0]}"
        assert (await client.delete(path)).status_code == 200
        assert items(service) == {"trained": len(catalogue) - 1, "new": 0, "hidden": 1}
        assert (await client.patch(path, json={"hidden": False})).status_code == 200
        assert items(service) == before


def test_every_item_is_in_one_state() -> None:
    telemetry = Telemetry()
    is_hidden = np.array([False, True, False, False, True, True, False])
    telemetry.show_items(is_hidden, trained=3)
    shown = {
        state: telemetry.registry.get_sample_value("etegrec_catalogue_items", {"state": state}) for state in STATES
    }
    assert shown == {"trained": 2, "new": 2, "hidden": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process about itself in /proc")
def test_a_process_tells_its_start_and_its_memory() -> None:
    registry = Telemetry().registry
    started = registry.get_sample_value("process_start_time_seconds")
    memory = registry.get_sample_value("process_resident_memory_bytes")
    assert started is not None
    assert memory is not None
    assert 0 < time.time() - started < 7 * 86400
    pages = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1])
    assert memory == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)

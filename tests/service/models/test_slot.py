"""A slot before any model came."""

from __future__ import annotations

import pytest

from service.errors import NotReady
from service.models.slot import ModelSlot
from service.settings import Settings
from service.telemetry.telemetry import Telemetry


def test_an_empty_slot_has_no_problem_and_answers_nobody() -> None:
    slot = ModelSlot(Settings(), Telemetry())
    assert (slot.problem, slot.current, slot.queued) == ("", None, 0)
    with pytest.raises(NotReady), slot.lease():
        raise AssertionError("nothing may be answered")

"""The schema of the chart's settings follows the settings of the service: names, kinds, what is left out."""

from __future__ import annotations

import json
import re

import pytest

from deploy.make_settings_schema import KINDS, SCHEMA, kind_of, own_variables, shared_settings, with_definitions
from service.settings import Settings


def test_the_kind_of_a_text_follows_the_type() -> None:
    fields = Settings.model_fields
    assert kind_of(fields["tracing"]) == {"enum": ["true", "false"]}
    assert kind_of(fields["engine"]) == {"enum": ["onnx", "torch", "fake"]}
    assert kind_of(fields["max_batch"]) == kind_of(fields["queue_size"]) == KINDS[int]
    assert kind_of(fields["fresh_boost"]) == KINDS[float]


@pytest.mark.parametrize("text", ["0", "-1.5", ".5", "1e6", "2.5E-3"])
def test_numbers_are_taken_as_people_write_them(text: str) -> None:
    pattern = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]["numberText"]["pattern"]
    assert re.search(pattern, text)
    float(text)


def test_stale_definitions_are_replaced_and_all_else_stays() -> None:
    stored = SCHEMA.read_text(encoding="utf-8")
    stale = stored.replace('"ETEGREC_QUEUE_SIZE"', '"ETEGREC_QEUE_SIZE"')
    assert stale != stored
    assert with_definitions(stale) == stored


def test_a_schema_without_its_place_for_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="0 definitions settings"):
        with_definitions("{}")


def test_variables_of_the_feed_and_of_every_program_may_be_given_to_a_part() -> None:
    assert {"ETEGREC_INGEST_BROKERS", "ETEGREC_DEBUG", "ETEGREC_TRACING"} <= set(own_variables()) - set(
        shared_settings()
    )

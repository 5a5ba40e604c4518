"""The bills of materials are valid CycloneDX and name all that the images install."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest

from supply_chain import sbom
from supply_chain.lock_file import LOCKS, PROJECT, lock_path, read_lock

SCHEMAS = Path(cyclonedx.schema.__file__).parent / "_res"


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.SNAPSHOT.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sbom")
    assert sbom.main([str(folder)]) == 0
    return {name: json.loads((folder / f"{PROJECT}-{name}.cdx.json").read_text()) for name in LOCKS}


@pytest.mark.parametrize("image", LOCKS)
def test_it_is_valid(written: dict[str, dict[str, Any]], image: str) -> None:
    parts = {name: schema(name) for name in ("spdx", "jsf-0.82")}
    registry = jsonschema_rs.Registry(
        [(f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", part) for name, part in parts.items()]
    )
    validator = jsonschema_rs.validator_for(schema("bom-1.6"), registry=registry)
    assert not [error.message for error in validator.iter_errors(written[image])]
    assert not validator.is_valid(written[image] | {"serialNumber": "not one"})


@pytest.mark.parametrize("image", LOCKS)
def test_it_names_every_package_with_version_hashes_and_licence(written: dict[str, dict[str, Any]], image: str) -> None:
    pins = {pin.name: pin for pin in read_lock(lock_path(image))}
    components = {each["name"]: each for each in written[image]["components"]}
    assert set(components) == set(pins)
    for name, component in components.items():
        assert component["purl"] == f"pkg:pypi/{name}@{pins[name].version}"
        assert {each["content"] for each in component["hashes"]} == set(pins[name].hashes)
        assert component["licenses"]


@pytest.mark.parametrize("image", LOCKS)
def test_everything_is_reached_from_the_project(written: dict[str, dict[str, Any]], image: str) -> None:
    edges = {each["ref"]: each.get("dependsOn", []) for each in written[image]["dependencies"]}
    assert written[image]["metadata"]["component"]["bom-ref"] == PROJECT
    reached = {PROJECT}
    waiting = [PROJECT]
    while waiting:
        following = set(edges[waiting.pop()]) - reached
        reached |= following
        waiting += following
    assert reached == {PROJECT, *(each["bom-ref"] for each in written[image]["components"])}


def test_the_same_lock_file_gives_the_same_number(written: dict[str, dict[str, Any]]) -> None:
    again = sbom.bill_of_materials("service")
    assert again.serial_number.urn == written["service"]["serialNumber"]
    assert len({each["serialNumber"] for each in written.values()}) == len(LOCKS)

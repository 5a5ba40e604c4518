from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore
from model_store.errors import ConfigError, ModelStoreError
from model_store.namespace import NAMESPACE_ENV, check_namespace, configured_namespace, place_of
from service.settings import Settings
from tests.support.bundles import publish_small


@pytest.mark.parametrize("name", ["", "a", "shop-a", "shop_2", "0", "x" * 40])
def test_names_that_may_be_used(name: str) -> None:
    assert check_namespace(name) == name
    assert Settings(namespace=name).namespace == name


@pytest.mark.parametrize("name", ["Shop", "a:b", "a/b", "..", "{a}", "-a", "_a", "a b", "ä", "x" * 41, "a\n", "*"])
def test_other_names_are_refused_with_the_setting_and_the_characters_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAMESPACE_ENV, name)
    for read in (configured_namespace, Settings.load):
        with pytest.raises(ConfigError, match=r"^ETEGREC_NAMESPACE: ") as refused:
            read()
        assert "small letters (a-z), digits, - and _" in refused.value.hint


def test_the_name_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAMESPACE_ENV, raising=False)
    assert configured_namespace() == Settings.load().namespace == ""
    (tmp_path / "etegrec_namespace").write_text("shop-b\n")
    monkeypatch.setenv("ETEGREC_SECRETS_DIR", str(tmp_path))
    assert configured_namespace() == Settings.load().namespace == "shop-b"
    monkeypatch.setenv(NAMESPACE_ENV, "")
    assert configured_namespace() == Settings.load().namespace == ""
    monkeypatch.setenv(NAMESPACE_ENV, "shop-a")
    assert configured_namespace() == Settings.load().namespace == "shop-a"


def test_each_shop_has_a_place_of_its_own() -> None:
    assert place_of("", "s3://bucket/models") == "s3://bucket/models"
    assert place_of("a", "s3://bucket/models/") == "s3://bucket/models/_namespaces/a"
    assert Settings(store="m").events_path == "m/events"
    assert Settings(store="m", namespace="a").events_path == "m/_namespaces/a/events"


def test_versions_of_one_shop_are_none_of_another(tmp_path: Path) -> None:
    shops = {name: ModelStore(tmp_path, namespace=name) for name in ("", "a", "b")}
    versions = {name: publish_small(store, seed) for seed, (name, store) in enumerate(shops.items())}
    shops["a"].promote(versions["a"])
    assert {name: store.versions() for name, store in shops.items()} == {
        name: [version] for name, version in versions.items()
    }
    assert {name: store.live() for name, store in shops.items()} == {"": None, "a": versions["a"], "b": None}
    assert shops[""].gc(keep=0, leftovers_older_than_s=0).removed == (versions[""],)
    assert shops["a"].versions() == [versions["a"]]


def test_a_mistyped_name_is_met_with_the_likely_one(tmp_path: Path) -> None:
    ModelStore(tmp_path, namespace="shop-a").create()
    with pytest.raises(ModelStoreError, match=r"did you mean .*_namespaces/shop-a"):
        ModelStore(tmp_path, namespace="shp-a").require()

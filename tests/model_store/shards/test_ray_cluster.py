"""Without Ray the runner names the package that is missing; on Ray it is tested by what uses it."""

from __future__ import annotations

import sys

import pytest

from model_store.errors import ConfigError
from model_store.shards.ray_cluster import RayCluster


@pytest.mark.skipif("ray" in sys.modules, reason="ray is imported already")
def test_the_extra_is_named_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as missing:
        RayCluster("auto")
    assert missing.value.hint == "install etegrec[scale]"

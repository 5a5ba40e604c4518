"""A model store on each kind of file system."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore


@pytest.fixture(params=["path", "file URL", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelStore]:
    """The same store on each kind of file system."""
    urls = {
        "path": str(tmp_path / "models"),
        "file URL": f"file://{tmp_path}/models",
        "memory": f"memory://models-{uuid.uuid4().hex}",
    }
    opened = ModelStore(urls[request.param])
    yield opened
    if request.param == "memory":
        opened.root.remove_all()

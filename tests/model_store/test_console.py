"""Conventions that all commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from model_store.console import new_app, run


@pytest.mark.parametrize("url", ["s3://bucket/runs/x", "gs://bucket", "file:///data/x", "abfs://box@account/x"])
def test_a_url_is_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    app = new_app("Write.")
    monkeypatch.setenv("WRITE_LOG", "log.txt")

    @app.command()
    def write(
        out: Path, source: str = "s3://may/be", log: Annotated[Path | None, typer.Option(envvar="WRITE_LOG")] = None
    ) -> None:
        """Write something."""
        out.mkdir(parents=True)

    assert run(app, "write", [url]) == 3
    words = capsys.readouterr().err
    assert f"{url} is a URL, and a path on this machine is needed" in words
    assert "mount the bucket" in words
    assert not list(tmp_path.iterdir())

    assert run(app, "write", ["s3", "--log", "C:/x"]) == 0
    assert (tmp_path / "s3").is_dir()
    monkeypatch.setenv("WRITE_LOG", url)
    assert run(app, "write", ["else"]) == 3

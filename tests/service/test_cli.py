from __future__ import annotations

from pathlib import Path

import pytest

from model_store.console import run
from service.cli import app


def test_a_mistyped_model_store_is_neither_waited_for_nor_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    assert run(app, "etegrec-serve", ["--store", str(tmp_path / "modles")]) == 5
    assert f"modles does not exist (did you mean {tmp_path / 'models'}?)" in capsys.readouterr().err
    assert not (tmp_path / "modles").exists()

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from model_store.bundle.manifest import Origin
from model_store.bundle.storage import Folder
from model_store.bundle.withheld import (
    HELD_BACK,
    MAX_REASON,
    MAX_WITHHELD,
    ROLLED_BACK,
    WITHHELD,
    WITHHELD_LIMIT,
    Withheld,
    read_withheld,
    write_withheld,
)
from model_store.errors import ConfigError, ModelStoreError

ORIGIN = Origin("data", "a" * 64)


def rolled_back(version: str = "v1", reason: str = "", origin: Origin | None = ORIGIN) -> Withheld:
    return Withheld.now(version, ROLLED_BACK, reason, origin)


def written(times: int = 1, **changes: str) -> bytes:
    """A file of a version, so many times, with some of its fields changed."""
    entry = rolled_back().model_dump(mode="json") | changes
    return json.dumps({"format": "etegrec-withheld-v1", "versions": [entry] * times}).encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    assert read_withheld(folder) == ()
    entries = (rolled_back("v2", "clicks fell"), Withheld.now("v1", HELD_BACK, "too good", None))
    write_withheld(folder, entries)
    assert read_withheld(folder) == entries
    assert json.loads((tmp_path / WITHHELD).read_text())["format"] == "etegrec-withheld-v1"


def test_the_oldest_are_forgotten_first_and_the_file_stays_readable(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    longest = "\N{GRINNING FACE}" * MAX_REASON
    entries = tuple(rolled_back(f"v{number}" + "x" * 55, longest) for number in range(MAX_WITHHELD + 2))
    write_withheld(folder, entries)
    assert read_withheld(folder) == entries[:MAX_WITHHELD]
    assert (tmp_path / WITHHELD).stat().st_size < WITHHELD_LIMIT


def test_a_newer_release_may_say_more(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    write_withheld(folder, (rolled_back(),))
    content = json.loads((tmp_path / WITHHELD).read_text())
    content["versions"][0]["by"] = "ann"
    (tmp_path / WITHHELD).write_text(json.dumps(content | {"more": 1}))
    assert [one.version for one in read_withheld(folder)] == ["v1"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"format": "etegrec-withheld-v2", "versions": []}', "format"),
        (b'{"format": "etegrec-withheld-v1", "versions": [{"version": "../etc"}]}', "version"),
        (b" " * (WITHHELD_LIMIT + 1), "larger than"),
        (written(version="../etc"), "version"),
        (written(version="v1\n"), "version"),
        (written(reason="x" * (MAX_REASON + 1)), "reason"),
        (written(state="forgotten"), "state"),
        (written(times=MAX_WITHHELD + 1), "at most 200 items"),
    ],
)
def test_a_damaged_file_is_an_error_with_a_fix(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / WITHHELD).write_bytes(content)
    with pytest.raises(ModelStoreError, match=rf"withheld\.json in .* is damaged: .*{problem}") as caught:
        read_withheld(Folder.at(str(tmp_path)))
    assert "delete withheld.json" in caught.value.hint


def test_a_reason_is_one_line_of_limited_length() -> None:
    assert rolled_back(reason=" clicks\n fell\x1b[31m \udcff").reason == "clicks fell [31m"
    assert len(rolled_back(reason="x" * MAX_REASON).reason) == MAX_REASON
    with pytest.raises(ConfigError, match="the reason has 501 characters, it may have 500"):
        rolled_back(reason="x" * (MAX_REASON + 1))


def test_it_reads_after_the_name_of_the_version() -> None:
    one = rolled_back(reason="clicks fell").model_copy(update={"at": datetime(2026, 11, 28, 13, 5, 9, tzinfo=UTC)})
    assert one.words == "rolled back on 2026-11-28 13:05 UTC (clicks fell)"
    assert one.model_copy(update={"reason": ""}).words == "rolled back on 2026-11-28 13:05 UTC"


@pytest.mark.parametrize(
    ("known", "asked", "is_same"),
    [
        (ORIGIN, ORIGIN, True),
        (ORIGIN, Origin("data", "b" * 64), False),
        (ORIGIN, Origin("other", "a" * 64), False),
        (Origin("data", None), ORIGIN, True),  # an older release made it: the data decide alone
        (ORIGIN, Origin("data", None), True),
        (Origin("other", None), ORIGIN, False),
        (None, ORIGIN, False),
    ],
)
def test_a_model_is_the_same_if_data_and_settings_are(known: Origin | None, asked: Origin, is_same: bool) -> None:
    assert rolled_back(origin=known).is_from(asked) is is_same


def test_the_largest_file_that_may_be_is_read_and_an_entry_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / WITHHELD).write_bytes(written().ljust(WITHHELD_LIMIT))
    [entry] = read_withheld(Folder.at(str(tmp_path)))
    assert entry.at.microsecond == 0
    with pytest.raises(ValidationError, match="frozen"):
        entry.version = "v2"  # type: ignore[misc]


def test_the_file_can_be_read_by_a_person(tmp_path: Path) -> None:
    write_withheld(Folder.at(str(tmp_path)), (rolled_back(reason="clicks fell"),))
    assert '   "reason": "clicks fell",' in (tmp_path / WITHHELD).read_text().splitlines()

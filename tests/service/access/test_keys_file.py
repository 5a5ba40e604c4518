"""The file of keys: what it may hold, and what is said of a wrong one."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from model_store.errors import ConfigError
from service.access.keys import Key
from service.access.keys_file import MAX_FILE_BYTES, parse_keys, read_file
from service.access.limits import Limits

SECRET = "zebra-secret-1"
GOOD: dict[str, Any] = {"name": "shop", "secret": SECRET, "scopes": ["read"]}
DEFAULTS = Limits(requests_per_s=5, concurrent=7)


def parse(*entries: dict[str, Any]) -> list[Key]:
    return parse_keys(json.dumps(entries).encode(), DEFAULTS)


def test_a_key_has_a_secret_or_its_hash() -> None:
    by_hash = {"name": "front", "sha256": sha256(SECRET.encode()).hexdigest().upper(), "scopes": ["events", "read"]}
    [plain] = parse(GOOD)
    [hashed] = parse(by_hash)
    assert plain.digest == hashed.digest == sha256(SECRET.encode()).digest()
    assert sorted(plain.scopes) == ["read"]
    assert sorted(hashed.scopes) == ["events", "read"]
    assert plain.limits == DEFAULTS
    assert plain.not_after == float("inf")


def test_limits_of_a_key_replace_those_of_the_settings_one_by_one() -> None:
    [key] = parse(GOOD | {"limits": {"requests_per_s": 0, "burst": 9}, "not_after": "2026-12-01T00:00:00+01:00"})
    assert key.limits == Limits(requests_per_s=0, burst=9, concurrent=7)
    assert key.not_after == 1_796_079_600


def test_the_example_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "OPERATIONS.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    [key] = parse_keys(example.encode(), DEFAULTS)
    assert sorted(key.scopes) == ["events", "read"]
    assert key.limits.concurrent == 64


def test_an_empty_list_is_valid() -> None:
    assert parse() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secret": None}, "0: .*either a secret or its sha256"),
        ({"sha256": "0" * 64}, "0: .*either a secret or its sha256"),
        ({"secret": "tiny"}, "0.secret: .*8 to 1024 bytes"),
        ({"secret": None, "sha256": "zebra"}, "0.sha256"),
        ({"name": "zebra stripes"}, "0.name"),
        ({"scopes": []}, "0.scopes"),
        ({"scopes": ["write"]}, "0.scopes.0: Input should be 'read', 'events', 'catalogue' or 'admin'"),
        ({"not_after": "2026-12-01T00:00:00"}, "0.not_after: .*timezone"),
        ({"limits": {"requests_per_s": -1}}, "0.limits.requests_per_s"),
        ({"limits": {"requests": 1}}, "0.limits.requests"),
        ({"zebra": 1}, "0.zebra"),
    ],
)
def test_a_wrong_key_is_named_by_place_and_field(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        parse(GOOD | change)
    assert SECRET not in str(refused.value)
    assert "tiny" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"{}", b'"keys"', b"\xff"])
def test_what_is_no_list_of_keys_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="the keys file is wrong"):
        parse_keys(content, DEFAULTS)


def test_a_file_that_cannot_be_read_or_never_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path)
    (tmp_path / "large").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        read_file(tmp_path / "large")

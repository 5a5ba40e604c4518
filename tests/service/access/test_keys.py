"""Keys as settings write them, and how a request's secret finds its key."""

from __future__ import annotations

import pytest

from model_store.errors import ConfigError
from service.access.keys import MAX_KEY_LENGTH, SCOPES, Key, KeyRing, hash_secret, keys_of_settings
from service.access.limits import Limits
from service.settings import Settings

LIMITS = Limits(requests_per_s=3)


def keys(**given: str) -> dict[str, Key]:
    return {key.name: key for key in keys_of_settings(Settings.model_validate(given), LIMITS)}


def ring(*secrets: str) -> KeyRing:
    return KeyRing(Key(f"key-{number}", hash_secret(each), SCOPES) for number, each in enumerate(secrets))


def test_keys_without_a_name_are_numbered_and_scopes_follow_the_setting() -> None:
    found = keys(read_keys="reader-key-1, shop:reader-key-2", write_keys="writer-key-1", admin_keys="ops:admin-key-1:x")
    assert list(found) == ["read-1", "shop", "write-1", "ops"]
    assert found["read-1"].scopes == found["shop"].scopes == {"read"}
    assert found["write-1"].scopes == {"read", "events", "catalogue"}
    assert found["ops"].scopes == {"read", "events", "catalogue", "admin"}
    assert all(key.limits == LIMITS for key in found.values())
    assert found["shop"].digest == hash_secret("reader-key-2")
    assert found["ops"].digest == hash_secret("admin-key-1:x")  # the first colon ends the name


def test_a_secret_in_two_settings_has_the_scopes_of_both() -> None:
    both = keys(read_keys="the-same-key", write_keys="the-same-key", admin_keys="another-key")
    assert list(both) == ["read-1", "admin-1"]
    assert both["read-1"].scopes == {"read", "events", "catalogue"}


@pytest.mark.parametrize("admin_keys", ["", "  "])
def test_write_keys_do_everything_until_there_are_admin_keys(admin_keys: str) -> None:
    found = keys(read_keys="reader-key-1", write_keys="writer-key-1", admin_keys=admin_keys)
    assert found["write-1"].scopes == {"read", "events", "catalogue", "admin"}
    assert found["read-1"].scopes == {"read"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"read_keys": "long-enough-key,tiny"}, r"ETEGREC_READ_KEYS .* must be 8 to 1024 bytes long \(entry 2\)"),
        ({"write_keys": "name:tiny"}, r"ETEGREC_WRITE_KEYS .* must be 8 to 1024 bytes long \(entry 1\)"),
        ({"read_keys": "x" * (MAX_KEY_LENGTH + 1)}, "8 to 1024 bytes"),
        ({"write_keys": " , "}, "ETEGREC_WRITE_KEYS is set but holds no key"),
        ({"admin_keys": ":no-name-at-all"}, "ETEGREC_ADMIN_KEYS .* name is wrong"),
        ({"read_keys": "zebra stripes:long-enough"}, "name is wrong"),
        ({"read_keys": "shop:reader-key-1", "write_keys": "shop:writer-key-1"}, "two API keys have the name shop"),
    ],
)
def test_wrong_keys_are_refused_and_never_shown(given: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        KeyRing(keys_of_settings(Settings.model_validate(given), LIMITS))
    for secret in ("tiny", "no-name-at-all", "zebra", "reader-key-1", "xxx"):
        assert secret not in str(refused.value)


def test_secrets_are_not_kept_and_hashes_are_not_shown() -> None:
    key = keys(read_keys="reader-key-1")["read-1"]
    assert "reader-key-1" not in repr(key)
    assert key.digest.hex() not in repr(key)
    assert repr(key.digest) not in repr(key)
    assert "reader-key-1" not in repr(Settings.model_validate({"read_keys": "reader-key-1"}))


def test_only_the_whole_secret_finds_its_key() -> None:
    secret = "a-long-secret-ü"  # as bytes, like the header
    known = ring("another-secret", secret, "a-long-secret-z")
    sent = secret.encode().decode("latin-1")
    found = known.find(sent)
    assert found is not None
    assert found.name == "key-1"
    wrong = [sent[:length] for length in range(len(sent))]  # every prefix, the empty one too
    wrong += [sent[1:], sent + "x", sent + "\0", sent.upper(), " " + sent, sent + " "]
    wrong += [hash_secret(secret).hex(), hash_secret(secret).decode("latin-1"), "\0" * 32]
    assert [known.find(each) for each in wrong] == [None] * len(wrong)


def test_nothing_beyond_the_longest_secret_is_hashed() -> None:
    longest = "k" * MAX_KEY_LENGTH
    known = ring(longest)
    assert known.find(longest) is not None
    assert known.find(longest + "k") is None
    assert known.find(longest + "k" * 60_000) is None


def test_a_ring_without_keys_lets_nobody_in() -> None:
    assert KeyRing(()).find("whatever-it-is") is None
    assert KeyRing(()).find("") is None


def test_two_keys_with_one_secret_are_refused() -> None:
    with pytest.raises(ConfigError, match="key-0 and key-1 have the same secret"):
        ring("the-same-key", "the-same-key")

"""Addresses of Redis: what each kind of URL means, what is refused, and that no message has a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from model_store.replication.redis_address import (
    CA_FILE_ENV,
    CERT_FILE_ENV,
    KEY_FILE_ENV,
    NO_TLS_FILES,
    TlsFiles,
    cluster_address,
    is_cluster,
    is_sentinel,
    redis_place,
    refuse_url,
    sentinel_address,
)
from tests.support.certificates import Certificates

TLS_URL = "rediss://host/0"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.create(tmp_path_factory.mktemp("certificates"))


def test_places_hold_no_secrets() -> None:
    assert redis_place("redis://user:secret@host:1234/2") == "host:1234/2"
    assert redis_place("unix:///run/redis.sock?password=secret") == "/run/redis.sock"
    sentinels = "redis+sentinel://user:secret@a:1,b:2/shop/0?sentinel_password=secret"
    assert redis_place(sentinels) == "a:1,b:2/shop/0"
    assert redis_place("redis+cluster://user:secret@a:1,b:2") == "a:1,b:2"


def test_a_url_of_sentinels_is_read() -> None:
    url = "rediss+sentinel://us%40er:p%2Fw@a,b:5,[::1]:6/shop/3?sentinel_username=s&sentinel_password=t"
    address = sentinel_address(url)
    assert is_sentinel(url)
    assert address.sentinels == (("a", 26379), ("b", 5), ("::1", 6))
    assert address.service == "shop"
    assert address.options == {"db": 3, "username": "us@er", "password": "p/w", "ssl": True}
    assert address.sentinel_options == {"username": "s", "password": "t", "ssl": True}
    assert sentinel_address("redis+sentinel://a/shop").options == {"db": 0}
    assert not is_sentinel("redis://a/0")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://:secret@a:1", "it names no service"),
        ("redis+sentinel://:secret@/shop", "it lacks a host"),
        ("redis+sentinel://:secret@a:1,/shop", "it lacks a host"),
        ("redis+sentinel://:secret@a:1/shop/x", "it names no number of a database"),
        ("redis+sentinel://:secret@a:1/shop/0?speed=secret", "it has the unknown option speed"),
    ],
)
def test_a_wrong_url_of_sentinels_is_refused_with_the_reason_and_without_its_secrets(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        sentinel_address(url)
    shown = refuse_url(refused.value)
    assert reason in str(shown)
    assert "secret" not in f"{shown} {shown.hint}"


def test_a_url_of_a_cluster_is_read() -> None:
    url = "rediss+cluster://user:p%2Fw@a,b:5"
    assert is_cluster(url)
    assert not is_cluster("redis://a/0")
    address = cluster_address(url)
    assert address.nodes == (("a", 6379), ("b", 5))
    assert address.options == {"username": "user", "password": "p/w", "ssl": True}
    assert cluster_address("redis+cluster://a:1/0").options == {}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+cluster://:secret@", "it lacks a host"),
        ("redis+cluster://:secret@a:1/3", "it names a database"),
        ("redis+cluster://:secret@a:1?speed=secret", "it has options"),
    ],
)
def test_a_wrong_url_of_a_cluster_is_refused_with_the_reason_and_without_its_secrets(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        cluster_address(url)
    assert "secret" not in str(refuse_url(refused.value))


def test_files_of_tls_become_options_of_the_client(certificates: Certificates) -> None:
    files = TlsFiles(str(certificates.ca), str(certificates.client_cert), str(certificates.client_key))
    assert files.options(TLS_URL) == {
        "ssl_ca_certs": files.ca_file,
        "ssl_certfile": files.cert_file,
        "ssl_keyfile": files.key_file,
    }
    assert NO_TLS_FILES.options(TLS_URL) == NO_TLS_FILES.options("redis://host/0") == {}


def test_the_environment_names_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CA_FILE_ENV, CERT_FILE_ENV, KEY_FILE_ENV):
        monkeypatch.setenv(name, name.lower())
    assert TlsFiles.configured() == TlsFiles(CA_FILE_ENV.lower(), CERT_FILE_ENV.lower(), KEY_FILE_ENV.lower())


def test_files_that_cannot_be_used_are_refused_by_name(certificates: Certificates, tmp_path: Path) -> None:
    cert, key = str(certificates.client_cert), str(certificates.client_key)
    noise = tmp_path / "noise.pem"
    noise.write_text("noise")
    wrong = {
        CA_FILE_ENV: [TlsFiles(ca_file=str(noise)), TlsFiles(ca_file=str(tmp_path / "none.pem"))],
        KEY_FILE_ENV: [TlsFiles(cert_file=cert), TlsFiles(cert_file=cert, key_file=str(certificates.server_key))],
        CERT_FILE_ENV: [TlsFiles(key_file=key), TlsFiles(cert_file=str(noise), key_file=key)],
    }
    for name, every in wrong.items():
        for files in every:
            with pytest.raises(ConfigError, match=name):
                files.options(TLS_URL)


def test_files_for_a_url_without_tls_are_refused(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match="asks for no TLS"):
        TlsFiles(ca_file=str(certificates.ca)).options("redis://host/0")

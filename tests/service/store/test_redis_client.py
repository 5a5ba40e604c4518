"""TLS and users of Redis: a client proves who it is, checks the server, and reaches the keys of its shop only.

TLS ends in a proxy in front of the server, as with many hosted servers; where ``redis-server`` on PATH can do TLS, the
same is tested with the server itself.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from model_store.errors import StoreUnavailable
from model_store.events.event import Event
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_keys import prefix_of
from service.store.redis_store import RedisStore
from tests.support.certificates import Certificates
from tests.support.redis_server import RedisServer, find_server
from tests.support.service_process import free_port
from tests.support.store_writing import change, save, snapshot
from tests.support.tcp_proxy import TcpProxy
from training.retraining.drain_events import drain
from training.retraining.drain_items import drain_items

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PATIENT: dict[str, Any] = {"timeout_ms": 10_000, "write_timeout_s": 10.0}
RIGHTS = "resetchannels -@all +@read +@write +@transaction +@connection +eval +evalsha +info +time"
"""Commands that a user of ours needs, as docs/OPERATIONS.md gives them."""


def event(number: int) -> Event:
    return Event(event_id=f"e{number}", user_id="u", item_id=f"i{number}", timestamp=number)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.create(tmp_path)


@pytest.fixture(params=["proxy", "server"])
async def tls_url(
    request: pytest.FixtureRequest, certificates: Certificates, own_redis: RedisServer
) -> AsyncIterator[str]:
    """Address by TLS of a server that asks for a client's certificate."""
    if request.param == "proxy":
        proxy = TcpProxy(own_redis.port, certificates.server_context())
        await proxy.mend()
        yield f"rediss://:{own_redis.password}@127.0.0.1:{proxy.port}/0"
        await proxy.cut()
        return

    port = free_port()
    if not knows_tls():
        pytest.skip(f"{find_server()} was built without TLS")
    own_redis.kill()
    own_redis.options |= {
        "tls-port": str(port),
        "tls-ca-cert-file": str(certificates.ca),
        "tls-cert-file": str(certificates.server_cert),
        "tls-key-file": str(certificates.server_key),
    }
    own_redis.start()
    yield f"rediss://:{own_redis.password}@127.0.0.1:{port}/0"


def knows_tls() -> bool:
    """Tell whether the server can do TLS, by the reason for which it does not start without a certificate."""
    command = [str(find_server()), "--port", "0", "--tls-port", str(free_port()), "--tls-cert-file", "none.pem"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "Failed to configure TLS" in said.stdout + said.stderr


async def use_everything(store: RedisStore) -> None:
    """Call everything of the store that a service calls."""
    await store.check()
    assert (await store.record([event(1), event(2)])).accepted == 2
    assert (await store.history("u")).item_ids == ["i1", "i2"]
    await store.catalogue.append([change(1)])
    assert await save(store, snapshot(1)) is not None
    assert await store.catalogue.load_snapshot("v") is not None
    assert (await store.backlog()).events == 2
    await store.counts(3600)
    async with store.importing() as is_mine:
        assert is_mine
    await store.forget("u")
    assert (await store.record([event(3)])).accepted == 1


async def test_all_is_done_by_tls_with_a_certificate_of_this_client(
    tls_url: str, certificates: Certificates, tmp_path: Path
) -> None:
    files = TlsFiles(str(certificates.ca), str(certificates.client_cert), str(certificates.client_key))
    store = RedisStore(tls_url, tls=files, half_lives_s=(3600,), **PATIENT)
    await use_everything(store)
    await store.close()
    assert (await asyncio.to_thread(drain, tls_url, tmp_path / "events", tls=files)).events == 1
    assert list(await asyncio.to_thread(drain_items, tls_url, tmp_path / "items", tls=files)) == ["i1"]


async def test_a_server_of_an_unknown_authority_is_not_trusted_and_the_fix_is_said(
    tls_url: str, certificates: Certificates
) -> None:
    store = RedisStore(tls_url, tls=NO_TLS_FILES, **PATIENT)
    with pytest.raises(StoreUnavailable, match="has a certificate that cannot be trusted") as refused:
        await store.ping()
    assert "ETEGREC_REDIS_CA_FILE" in refused.value.hint
    await store.close()


async def test_a_client_without_a_certificate_is_refused(tls_url: str, certificates: Certificates) -> None:
    store = RedisStore(tls_url, tls=TlsFiles(str(certificates.ca)), **PATIENT)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store.close()


@pytest.fixture
def users(own_redis: RedisServer) -> dict[str, str]:
    """Address of the server for the user of each of two shops, by the shop's name."""
    with own_redis.client() as raw:
        for name in ("a", "b"):
            raw.execute_command("ACL", "SETUSER", name, "on", f">pw-{name}", f"~{prefix_of(name)}:*", *RIGHTS.split())
    return {name: f"redis://{name}:pw-{name}@127.0.0.1:{own_redis.port}/0" for name in ("a", "b")}


async def test_a_user_with_the_documented_rights_can_do_everything_with_the_keys_of_its_shop(
    users: dict[str, str], own_redis: RedisServer, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "OPERATIONS.md").read_text()
    assert RIGHTS in page
    store = RedisStore(users["a"], prefix=prefix_of("a"), half_lives_s=(3600,), user_ttl_s=100, **PATIENT)
    await use_everything(store)
    await store.close()
    drained = await asyncio.to_thread(drain, users["a"], tmp_path / "events", prefix=prefix_of("a"))
    assert drained.events == 1
    with own_redis.client() as raw:
        assert applied_settings(raw)
        assert not [entry for entry in raw.acl_log() if entry["username"] == "a"]


def applied_settings(raw: Redis) -> bool:
    return bool(raw.exists(f"{prefix_of('a')}:applied"))


async def test_a_user_of_one_shop_cannot_reach_the_keys_of_another(users: dict[str, str], tmp_path: Path) -> None:
    own = RedisStore(users["b"], prefix=prefix_of("b"), **PATIENT)
    await own.record([event(1)])
    await own.close()
    other = RedisStore(users["a"], prefix=prefix_of("b"), **PATIENT)
    for attempt in (other.history("u"), other.record([event(2)]), other.forget("u")):
        with pytest.raises(StoreUnavailable, match="may not do this") as refused:
            await attempt
        assert "ETEGREC_NAMESPACE" in refused.value.hint
    await other.close()
    with pytest.raises(StoreUnavailable, match="may not do this"):
        await asyncio.to_thread(drain, users["a"], tmp_path, prefix=prefix_of("b"))

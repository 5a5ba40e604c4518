"""The secrets of the compose stack are made once, belong to one user each, and are never shown."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from console.settings import Settings as ConsoleSettings
from service.access.keys import keys_of_settings
from service.access.limits import Limits
from service.settings import Settings
from tests.support.redis_server import find_server

SCRIPT = Path(__file__).parents[2] / "docker" / "make_secrets.py"
KEYS = ["etegrec_read_keys", "etegrec_write_keys", "etegrec_admin_keys", "etegrec_attribution_keys"]
PASSWORDS = ["grafana_password", "console/etegrec_console_password", "redis_password"]
CONSOLE_KEYS = {"console/etegrec_console_key", "console/etegrec_console_write_key"}
FILES = {*PASSWORDS, "redis.conf", "etegrec_redis_url", *KEYS, *CONSOLE_KEYS}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_secrets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load()


class Given(dict[str, tuple[int, int]]):
    """Stands in for the system call that only root may make: remembers who received which file."""

    def __call__(self, descriptor: int, user: int, group: int) -> None:
        self[Path(f"/proc/self/fd/{descriptor}").resolve().name] = (user, group)


def make(folder: Path, renew: list[str] | None = None, **given: str) -> list[str]:
    changed: list[str] = maker.make_secrets(folder, given, renew or [], Given())
    return changed


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text().strip() for path in folder.rglob("*") if path.is_file()}


def test_the_first_start_makes_everything(tmp_path: Path) -> None:
    assert make(tmp_path) == [*KEYS, *PASSWORDS]
    made = contents(tmp_path)
    assert set(made) == FILES
    secrets = {made[name] for name in (*KEYS, *PASSWORDS)}
    assert len(secrets) == len(KEYS) + len(PASSWORDS)
    assert all(len(secret) == 43 for secret in secrets)  # 256 bits
    assert made["redis.conf"] == f'requirepass "{made["redis_password"]}"'
    assert made["etegrec_redis_url"] == f"redis://:{made['redis_password']}@redis:6379/0"


def test_the_next_start_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    assert make(tmp_path) == []
    assert contents(tmp_path) == before


def test_two_stacks_share_no_secret(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert not set(contents(tmp_path / "a").values()) & set(contents(tmp_path / "b").values())


def test_each_file_is_for_the_one_user_that_reads_it(tmp_path: Path) -> None:
    given = Given()
    maker.make_secrets(tmp_path, {}, [], given)
    owners = {name.removeprefix(".").removesuffix(".new"): user for name, (user, _) in given.items()}
    assert owners == {
        "redis_password": 0,
        "redis.conf": 999,
        "grafana_password": 472,
        "etegrec_redis_url": 10001,
        "etegrec_read_keys": 10001,
        "etegrec_write_keys": 10001,
        "etegrec_admin_keys": 10001,
        "etegrec_attribution_keys": 10001,
        "etegrec_console_password": 10002,
        "etegrec_console_key": 10002,
        "etegrec_console_write_key": 10002,
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*_*")} == {0o400}


def test_what_is_given_replaces_what_was_made_and_stays(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, REDIS_PASSWORD="old-deployment_1", ETEGREC_READ_KEYS="first-key,second-key") == [
        "etegrec_read_keys",
        "redis_password",
    ]
    made = contents(tmp_path)
    assert made["etegrec_redis_url"] == "redis://:old-deployment_1@redis:6379/0"
    assert made["redis.conf"] == 'requirepass "old-deployment_1"'
    assert made["etegrec_read_keys"] == "first-key,second-key"
    assert make(tmp_path, REDIS_PASSWORD="", ETEGREC_READ_KEYS=" ") == []
    assert contents(tmp_path) == made


def test_a_secret_is_renewed_on_request_only(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    assert make(tmp_path, renew=["etegrec_write_keys"]) == ["etegrec_write_keys"]
    after = contents(tmp_path)
    assert {name for name in FILES if before[name] != after[name]} == {"etegrec_write_keys"}


def test_the_console_gets_the_first_keys_and_its_own_password(tmp_path: Path) -> None:
    make(tmp_path, ETEGREC_READ_KEYS="shop: read-secret , second:other", ETEGREC_ADMIN_KEYS=" plain-secret,third")
    settings = ConsoleSettings.load(str(tmp_path / "console"), host="0.0.0.0")
    secrets = (settings.key, settings.write_key, settings.password)
    made = contents(tmp_path)
    shown = [None if each is None else each.get_secret_value() for each in secrets]
    assert shown == ["read-secret", "plain-secret", made["console/etegrec_console_password"]]

    make(tmp_path, renew=["etegrec_admin_keys"])
    assert contents(tmp_path)["console/etegrec_console_write_key"] == contents(tmp_path)["etegrec_admin_keys"]
    with pytest.raises(maker.SecretError, match=r"^ETEGREC_READ_KEYS: it holds no key$"):
        make(tmp_path, ETEGREC_READ_KEYS=" , ")


@pytest.mark.parametrize("password", ["with blank", 'with"quote', "with'quote", "back\\slash", "line\nfeed", "umläut"])
def test_a_password_that_redis_would_read_otherwise_is_refused_and_not_shown(tmp_path: Path, password: str) -> None:
    with pytest.raises(maker.SecretError) as refused:
        make(tmp_path, REDIS_PASSWORD=password)
    assert password not in str(refused.value)
    assert not list(tmp_path.iterdir())  # nothing is half made


def test_signs_of_a_password_survive_the_url(tmp_path: Path) -> None:
    password = "a/b:c@d?e#f%g"
    make(tmp_path, REDIS_PASSWORD=password)
    url = urlsplit(contents(tmp_path)["etegrec_redis_url"])
    assert url.hostname == "redis"
    assert unquote(url.password or "") == password


def test_a_start_that_broke_off_is_completed(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("redis.conf", "etegrec_redis_url"):
        (tmp_path / name).unlink()
    (tmp_path / ".redis.conf.new").write_text("half")
    password = contents(tmp_path)["redis_password"]
    assert make(tmp_path) == []
    assert set(contents(tmp_path)) == FILES
    assert password in contents(tmp_path)["redis.conf"]


def test_the_service_starts_with_these_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    for variable in (*map(str.upper, KEYS), "ETEGREC_REDIS_URL"):
        monkeypatch.delenv(variable, raising=False)
    keys = {key.name: key.scopes for key in keys_of_settings(Settings.load(secrets_dir=str(tmp_path)), Limits())}
    assert keys.keys() == {"read-1", "write-1", "admin-1"}
    assert "admin" not in keys["write-1"]
    assert "admin" in keys["admin-1"]


@pytest.mark.redis
def test_redis_reads_the_password_as_the_url_gives_it(tmp_path: Path) -> None:
    password = "a/b:c@d?e#f%g$h*i"
    make(tmp_path, REDIS_PASSWORD=password)
    with tempfile.TemporaryDirectory() as short:  # the path of a socket may not be long
        socket = Path(short) / "redis"
        command = [str(find_server()), str(tmp_path / "redis.conf"), "--port", "0", "--unixsocket", str(socket)]
        server = subprocess.Popen([*command, "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            with Redis(unix_socket_path=str(socket), password=password) as client:
                assert client.ping()
            with Redis(unix_socket_path=str(socket), password="another") as client, pytest.raises(AuthenticationError):
                client.ping()
        finally:
            server.kill()
            server.wait()


def test_the_command_says_what_it_made_and_never_a_secret(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    first = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    assert first.stdout == f"secrets: new: {', '.join([*KEYS, *PASSWORDS])}\n"
    again = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    assert again.stdout == "secrets: all there\n"
    assert (tmp_path / "etegrec_read_keys").stat().st_uid == 10001
    assert not any(secret in first.stdout for secret in contents(tmp_path).values())

    wrong = subprocess.run(command, env={"REDIS_PASSWORD": "has blank"}, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: REDIS_PASSWORD: ")
    assert "has blank" not in wrong.stderr

"""Create the secrets of the compose stack in a volume: passwords, API keys, and the key of attributions.

``make_secrets.py FOLDER`` runs before everything else starts, as root, whose only privileges are to give files away and
to read what it gave away before. What is there stays; what the environment gives (``REDIS_PASSWORD``,
``ETEGREC_READ_KEYS`` and so on) replaces it; ``--renew NAME`` makes a new one. Each file belongs to the one user that
reads it, mode 0400. The API keys come first: a start that breaks off in between leaves no service that could run
without keys.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

OWNER_SERVICE = 10001
"""User of the images of service and trainer."""

OWNER_REDIS = 999
"""User ``redis`` of the Redis image."""

OWNER_GRAFANA = 472
"""User of the Grafana image."""

OWNER_CONSOLE = 10002
"""User of the console's image: of all keys, it can read those that it uses."""

OWNER_ROOT = 0

PASSWORD = "redis_password"  # noqa: S105  the name of a file
GRAFANA_PASSWORD = "grafana_password"  # noqa: S105  the name of a file
CONSOLE_PASSWORD = "console/etegrec_console_password"  # noqa: S105  the name of a file
KEYS = {
    "etegrec_read_keys": "ETEGREC_READ_KEYS",
    "etegrec_write_keys": "ETEGREC_WRITE_KEYS",
    "etegrec_admin_keys": "ETEGREC_ADMIN_KEYS",
    "etegrec_attribution_keys": "ETEGREC_ATTRIBUTION_KEYS",
}
"""Variables that may give keys, by the file that holds them."""

PASSWORDS = {
    GRAFANA_PASSWORD: ("GRAFANA_PASSWORD", OWNER_GRAFANA),
    CONSOLE_PASSWORD: ("ETEGREC_CONSOLE_PASSWORD", OWNER_CONSOLE),
    PASSWORD: ("REDIS_PASSWORD", OWNER_ROOT),
}
"""Variable that may give a password, and who may read it, by the file that holds it."""

CONSOLE_KEYS = {
    "console/etegrec_console_key": "etegrec_read_keys",
    "console/etegrec_console_write_key": "etegrec_admin_keys",
}
"""Files of which the console has the first key, by the name under which it reads it. A folder of its own: service and
trainer read every file of theirs that is named like a variable of the product."""

RANDOM_BYTES = 32
"""Random bytes behind each secret: 256 bits, written with 43 characters."""


class SecretError(Exception):
    """A secret that was given cannot be used."""


def main(arguments: list[str]) -> int:
    """Write what is missing; return the exit code."""
    parser = argparse.ArgumentParser(description="Create the secrets that are not there yet.")
    parser.add_argument("folder", type=Path, help="where the files lie")
    parser.add_argument(
        "--renew",
        action="append",
        default=[],
        choices=[*PASSWORDS, *KEYS],
        help="replace a secret by a new one",
    )
    options = parser.parse_args(arguments)
    try:
        changed = make_secrets(options.folder, os.environ, renew=options.renew)
    except (SecretError, OSError) as broken:
        sys.stderr.write(f"error: {broken}\n")
        return 1
    sys.stdout.write(f"secrets: {'new: ' + ', '.join(changed) if changed else 'all there'}\n")
    return 0


def make_secrets(
    folder: Path,
    given: Mapping[str, str],
    renew: list[str],
    give: Callable[[int, int, int], None] = os.fchown,
) -> list[str]:
    """Write the files of secrets; return the names of those that are new.

    Args:
        folder: Where they lie.
        given: Variables; empty ones count as not given.
        renew: Names of secrets to be replaced although they are there.
        give: Hands an open file to a user and a group; a test that is not root passes its own.

    Raises:
        SecretError: A given password holds characters that Redis or its URL would not take, or given keys are none.
    """
    check_password(given.get("REDIS_PASSWORD", ""))

    changed = []
    for name, variable in KEYS.items():
        if value := _value(folder, name, given.get(variable, ""), renew):
            _write(folder / name, value, OWNER_SERVICE, give)
            changed.append(name)

    for name, (variable, owner) in PASSWORDS.items():
        if value := _value(folder, name, given.get(variable, ""), renew):
            _write(folder / name, value, owner, give)
            changed.append(name)

    # What follows comes from the files above, every time: a start that broke off here leaves no two passwords or keys.
    for name, keys in CONSOLE_KEYS.items():
        _write(folder / name, first_key(folder / keys), OWNER_CONSOLE, give)

    password = (folder / PASSWORD).read_text(encoding="ascii").strip()
    _write(folder / "redis.conf", f'requirepass "{password}"', OWNER_REDIS, give)
    _write(folder / "etegrec_redis_url", f"redis://:{quote(password, safe='')}@redis:6379/0", OWNER_SERVICE, give)
    return changed


def check_password(password: str) -> None:
    """Return if a password can be written into Redis' configuration as it is.

    Raises:
        SecretError: It cannot. The message does not repeat it.
    """
    usable = password.isascii() and password.isprintable() and not any(each in " \"'\\" for each in password)
    if not usable:
        raise SecretError("REDIS_PASSWORD: use letters, digits and signs, but no blanks, quotes or backslashes")


def first_key(path: Path) -> str:
    """Return the first secret of a file that lists them with commas in between, as ``secret`` or ``name:secret``.

    Raises:
        SecretError: There is none.
    """
    for entry in path.read_text(encoding="utf-8").split(","):
        if entry.strip():
            return (entry.partition(":")[2] or entry).strip()
    raise SecretError(f"{KEYS[path.name]}: it holds no key")


def _value(folder: Path, name: str, given: str, renew: list[str]) -> str:
    """Return what a file shall hold from now on; empty: what it holds already."""
    if given.strip():
        return given.strip()
    return "" if (folder / name).exists() and name not in renew else secrets.token_urlsafe(RANDOM_BYTES)


def _write(path: Path, value: str, owner: int, give: Callable[[int, int, int], None]) -> None:
    """Replace a file at once, so that no reader sees half of it, and none but its owner may read it."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
        file.write(value + "\n")
        file.flush()
        give(file.fileno(), owner, owner)
        os.fsync(file.fileno())
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A real PostgreSQL server for tests, where the system has one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "shop"
PASSWORD = "s3cret/word@1"
FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


def find_postgres() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres``; ``None`` if there is none."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [folder for pattern in FOLDERS for folder in sorted(Path("/").glob(pattern.lstrip("/")))]
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


@contextmanager
def running_postgres(binaries: Path, folder: Path) -> Iterator[str]:
    """Run a server in an empty folder, which asks for the password, and yield its URL without user and database."""
    as_user = _unprivileged(folder)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256", "-N"]
    subprocess.run([*as_user, *map(str, initdb)], check=True, capture_output=True, cwd=folder)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    # Its output goes to a file: a pipe would be held open by the server, and the call would never end.
    start = [*control, "-l", str(folder / "log"), "-o", settings, "start"]
    subprocess.run(start, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)


def _unprivileged(folder: Path) -> list[str]:
    """Return a prefix that runs a command as another user, if this one is root: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return []
    shutil.chown(folder, "nobody")
    for parent in (folder, *folder.parents):
        if parent != Path("/tmp") and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

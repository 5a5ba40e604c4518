"""Settings that are secret, read from files: one file a variable, in the folder that ETEGREC_SECRETS_DIR names.

A file is not shown by the commands that list processes and containers, as the environment is. Docker, Kubernetes and
systemd hand secrets over in this way.
"""

from __future__ import annotations

from pathlib import Path

from model_store.errors import ConfigError

PREFIX = "etegrec_"
"""Beginning of the names of the files: those of the variables, in small letters."""

FOLDER_VARIABLE = "ETEGREC_SECRETS_DIR"
"""Variable that names the folder."""


def read_secrets(folder: str) -> dict[str, str]:
    """Return what the files hold, by the name of the variable; nothing if no folder is named.

    Raises:
        ConfigError: The folder or a file cannot be read, or there is no such file: a folder that is not mounted must
            not leave a service without keys.
    """
    if not folder:
        return {}

    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.name.startswith(PREFIX))
        found = {path.name.upper(): path.read_text(encoding="utf-8").strip() for path in paths}
    except (OSError, UnicodeDecodeError) as cause:
        place = getattr(cause, "filename", None) or folder
        reason = getattr(cause, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"{FOLDER_VARIABLE}: {place} cannot be read: {reason}", "name a folder whose files this user may read"
        ) from cause
    if not found:
        raise ConfigError(
            f"{FOLDER_VARIABLE}: {folder} holds no file {PREFIX}…", "mount the secrets there, or unset the variable"
        )
    return found

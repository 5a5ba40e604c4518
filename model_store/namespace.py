"""Namespace of a shop, which keeps apart several shops that share one Redis and one model store.

Without a namespace, keys and folders are those of an installation that has everything to itself. With one, everything
that a shop stores lies below a place of its own: Redis keys begin with ``etegrec-<namespace>:`` instead of
``etegrec:``, versions and the embedded event log are in ``_namespaces/<namespace>/`` of the model store.
"""

from __future__ import annotations

import os
import re

from model_store.errors import ConfigError
from model_store.secret_files import FOLDER_VARIABLE, read_secrets

NAMESPACE_ENV = "ETEGREC_NAMESPACE"
"""Variable that names the shop. All processes of one shop must have the same."""

FOLDER = "_namespaces"
"""Folder of the model store with one folder for each shop. No version can have this name, which begins with `_`."""

NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,39}"
"""Regular expression of a namespace, the whole of it."""

_NAME = re.compile(NAME_PATTERN)


def check_namespace(name: str) -> str:
    """Return the name if it may be one; an empty one stands for no namespace.

    Small letters only, because some file systems take ``Shop`` and ``shop`` for the same folder; nothing that ends a
    part of a Redis key, of a cluster's hash tag or of a path.

    Raises:
        ConfigError: It may not.
    """
    if name and not _NAME.fullmatch(name):
        raise ConfigError(
            f"{NAMESPACE_ENV}: {name[:50]!r} cannot be a namespace",
            "use 1 to 40 small letters (a-z), digits, - and _, beginning with a letter or a digit, such as shop-a",
        )
    return name


def configured_namespace() -> str:
    """Return what ``ETEGREC_NAMESPACE`` says, or the file of secrets of that name; empty if neither does.

    Raises:
        ConfigError: It cannot be a namespace, or the files of secrets cannot be read.
    """
    name = os.environ.get(NAMESPACE_ENV)
    if name is None:
        name = read_secrets(os.environ.get(FOLDER_VARIABLE, "")).get(NAMESPACE_ENV, "")
    return check_namespace(name)


def place_of(namespace: str, folder: str) -> str:
    """Return the place of a shop inside a folder, a path or URL; the folder itself without a namespace."""
    return f"{folder.rstrip('/')}/{FOLDER}/{namespace}" if namespace else folder

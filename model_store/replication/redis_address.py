"""Address of Redis: one server, the servers behind Sentinel, or a cluster, and the files of a TLS connection.

    redis://[user:password@]host:6379/0                                    one server
    rediss://…                                                             the same, by TLS
    unix:///path/to/socket?db=0                                            one server on this machine
    redis+sentinel://[user:password@]host:26379,host:26379/service/0       the primary that these sentinels name
    rediss+sentinel://…                                                    the same, all of it by TLS
    redis+cluster://[user:password@]host:6379,host:6379                    the cluster of which these are nodes
    rediss+cluster://…                                                     the same, by TLS

User and password are those of Redis; those of the sentinels follow as ``?sentinel_username=…&sentinel_password=…``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from model_store.errors import ConfigError

CA_FILE_ENV = "ETEGREC_REDIS_CA_FILE"
CERT_FILE_ENV = "ETEGREC_REDIS_CERT_FILE"
KEY_FILE_ENV = "ETEGREC_REDIS_KEY_FILE"

_SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_DEFAULT_PORT = 6379
_SENTINEL_PORT = 26379
_SENTINEL_QUERY = {"sentinel_username", "sentinel_password"}


@dataclass(frozen=True)
class TlsFiles:
    """Files of TLS connections to Redis, in PEM; an empty name stands for none.

    Attributes:
        ca_file: Authorities that may have signed the server's certificate; empty: those that the system trusts.
        cert_file: Certificate by which this client shows who it is; empty: it shows none.
        key_file: Private key of that certificate.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @classmethod
    def configured(cls) -> TlsFiles:
        """Return the files that the environment names."""
        return cls(*(os.environ.get(name, "") for name in (CA_FILE_ENV, CERT_FILE_ENV, KEY_FILE_ENV)))

    def options(self, url: str) -> dict[str, Any]:
        """Return the options of the Redis client for a URL.

        Raises:
            ConfigError: A file is given for a URL without TLS, cannot be read, or lacks its counterpart.
        """
        named = {CA_FILE_ENV: self.ca_file, CERT_FILE_ENV: self.cert_file, KEY_FILE_ENV: self.key_file}
        given = {name: path for name, path in named.items() if path}
        if given and not _scheme(url).startswith("rediss"):
            raise ConfigError(
                f"{next(iter(given))} is set, but ETEGREC_REDIS_URL asks for no TLS",
                "begin the URL with rediss (rediss://, rediss+sentinel://, rediss+cluster://), or unset the variable",
            )
        if bool(self.cert_file) != bool(self.key_file):
            missing = KEY_FILE_ENV if self.cert_file else CERT_FILE_ENV
            raise ConfigError(f"{missing} is not set", "a client's certificate and its private key belong together")

        self._check()
        options = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {name: path for name, path in options.items() if path}

    def _check(self) -> None:
        """Load the files as a connection will, so that a wrong one is refused at the start."""
        context = ssl.create_default_context()
        if self.ca_file:
            with _refusing(CA_FILE_ENV, self.ca_file):
                context.load_verify_locations(self.ca_file)
        if self.cert_file:
            with _refusing(f"{CERT_FILE_ENV} or {KEY_FILE_ENV}", f"{self.cert_file} or {self.key_file}"):
                context.load_cert_chain(self.cert_file, self.key_file, password="")


NO_TLS_FILES = TlsFiles()
"""No files: the system's authorities, and no certificate of this client."""


@dataclass(frozen=True)
class SentinelAddress:
    """Address of a primary that sentinels know by the name of its service.

    Attributes:
        sentinels: Host and port of each sentinel.
        service: Name of the service.
        options: Options of the client for Redis: database, user, password, whether TLS is used.
        sentinel_options: Options of the client for the sentinels: user, password, whether TLS is used.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


@dataclass(frozen=True)
class ClusterAddress:
    """Address of a cluster.

    Attributes:
        nodes: Host and port of some of its nodes; they know the others.
        options: Options of the client: user, password, whether TLS is used.
    """

    nodes: tuple[tuple[str, int], ...]
    options: dict[str, Any]


def is_sentinel(url: str) -> bool:
    """Tell whether a URL names sentinels."""
    return _scheme(url) in _SENTINEL_SCHEMES


def sentinel_address(url: str) -> SentinelAddress:
    """Read a URL that names sentinels.

    Raises:
        ValueError: It names no sentinel or no service, or holds something unknown; the message repeats no secret.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    if not service:
        raise ValueError("it names no service")
    if not (database or "0").isdigit():
        raise ValueError("it names no number of a database")
    if unknown := query.keys() - _SENTINEL_QUERY:
        raise ValueError(f"it has the unknown option {min(unknown)}")

    tls = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    options = {"db": int(database or 0), **_credentials(unquote(user), unquote(password)), **tls}
    asked = _credentials(query.get("sentinel_username", ""), query.get("sentinel_password", ""))
    return SentinelAddress(tuple(_split_hosts(hosts, _SENTINEL_PORT)), unquote(service), options, {**asked, **tls})


def is_cluster(url: str) -> bool:
    """Tell whether a URL names a cluster."""
    return _scheme(url) in _CLUSTER_SCHEMES


def cluster_address(url: str) -> ClusterAddress:
    """Read a URL that names nodes of a cluster.

    Raises:
        ValueError: It names no node, a database, or an option; the message repeats no secret.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("it names a database, but a cluster has only database 0")
    if parts.query:
        raise ValueError("it has options, but a cluster's address takes none")

    tls = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    options = {**_credentials(unquote(user), unquote(password)), **tls}
    return ClusterAddress(tuple(_split_hosts(hosts, _DEFAULT_PORT)), options)


def redis_place(url: str) -> str:
    """Return hosts, ports and database of a URL, without user and password, for messages."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    if parts.scheme in (*_SENTINEL_SCHEMES, *_CLUSTER_SCHEMES):
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{parts.hostname or 'localhost'}:{parts.port or _DEFAULT_PORT}{parts.path}"


def refuse_url(cause: Exception) -> ConfigError:
    """Return the error for a URL that the client does not accept. It does not repeat the URL, which has a password."""
    reason = f": {cause}" if isinstance(cause, ValueError) and str(cause).startswith("it ") else ""
    return ConfigError(
        f"ETEGREC_REDIS_URL is not a Redis URL{reason}",
        "write redis://[:password@]host:6379/0, redis+sentinel://[:password@]host:26379,host:26379/service/0 or"
        " redis+cluster://[:password@]host:6379,host:6379",
    )


def _scheme(url: str) -> str:
    """Return the scheme of a URL, also of one that is wrong behind it."""
    return url.partition("://")[0].lower()


def _split_hosts(hosts: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for each in hosts.split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            raise ValueError("it lacks a host")
        found.append((parts.hostname, parts.port or default_port))
    return found


def _credentials(user: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", user), ("password", password)) if value}


@contextmanager
def _refusing(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as cause:  # OpenSSL's errors are OSErrors
        raise ConfigError(
            f"{name}: {path} cannot be used: {getattr(cause, 'strerror', None) or cause}",
            "name PEM files that this user may read; a private key must have no password",
        ) from cause

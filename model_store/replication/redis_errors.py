"""Translation of Redis errors into ours, with cause and fix; used by the service and by training."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis import exceptions as redis_errors

from model_store.errors import StoreCorrupt, StoreError, StoreReadOnly, StoreUnavailable

OUTAGES = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError, TimeoutError)
"""Errors that mean that Redis cannot be used at all now; other errors refuse one command only."""

RAISED_BY_CLIENT = (redis_errors.RedisError, OSError, TimeoutError)
"""Errors that a call of the client can raise when Redis misbehaves."""


def redis_place(url: str) -> str:
    """Return host, port and database of a URL, without user and password, for messages."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"


def translate_redis_error(cause: Exception, place: str) -> StoreError:
    """Translate an error of the Redis client.

    Args:
        cause: One of :data:`RAISED_BY_CLIENT`.
        place: Where Redis is, see :func:`redis_place`.
    """
    if is_wrong_type(cause):
        return StoreCorrupt(f"Redis at {place} holds a value of another type", "another program uses the same prefix")

    message = f"Redis at {place} {_problem(cause)}"
    hint = f"{_fix(cause)} (cause: {type(cause).__name__}: {cause})"
    if refuses_writes(cause):
        return StoreReadOnly(message, hint, f"Redis {_problem(cause)}")
    return StoreUnavailable(message, hint)


def refuses_writes(cause: Exception) -> bool:
    """Tell whether Redis works, but takes no writes."""
    kinds = (redis_errors.OutOfMemoryError, redis_errors.ReadOnlyError)
    return isinstance(cause, kinds) or str(cause).startswith(("MISCONF", "NOREPLICAS"))


def is_wrong_type(cause: Exception) -> bool:
    """Tell whether the error means that one key holds a value of another type, while Redis itself works."""
    return isinstance(cause, redis_errors.ResponseError) and "WRONGTYPE" in str(cause)


def _problem(cause: Exception) -> str:
    if _is_auth(cause):
        return "refuses the credentials"
    if isinstance(cause, redis_errors.OutOfMemoryError):
        return "is out of memory and refuses writes"
    if isinstance(cause, redis_errors.ReadOnlyError):
        return "is a read-only replica"
    if str(cause).startswith("MISCONF"):
        return "cannot save to its disk and refuses writes"
    if str(cause).startswith("NOREPLICAS"):
        return "has too few replicas and refuses writes"
    if isinstance(cause, redis_errors.BusyLoadingError):
        return "is still loading its data"

    # some errors above are kinds of ConnectionError, so these two come last
    if isinstance(cause, (redis_errors.TimeoutError, TimeoutError)):
        return "did not answer in time"
    if isinstance(cause, (redis_errors.ConnectionError, OSError)):
        return "cannot be reached"
    return "refused a command"


def _fix(cause: Exception) -> str:
    if _is_auth(cause):
        return "check user and password in ETEGREC_REDIS_URL"
    if isinstance(cause, redis_errors.OutOfMemoryError):
        return "raise maxmemory, drain the event stream with `etegrec-train retrain`, or let idle users expire"
    if isinstance(cause, redis_errors.ReadOnlyError):
        return "point ETEGREC_REDIS_URL at the primary"
    if refuses_writes(cause):
        return "see the log of Redis: its disk, or its replicas"
    if isinstance(cause, redis_errors.BusyLoadingError):
        return "wait until it has read its append-only file"
    return "check that Redis runs and that ETEGREC_REDIS_URL names it"


def _is_auth(cause: Exception) -> bool:
    kinds = (redis_errors.AuthenticationError, redis_errors.AuthorizationError, redis_errors.NoPermissionError)
    return isinstance(cause, kinds) or str(cause).startswith(("NOAUTH", "WRONGPASS"))

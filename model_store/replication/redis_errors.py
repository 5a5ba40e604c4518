"""Translation of Redis errors into ours, with cause and fix; used by the service and by training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from redis import exceptions as redis_errors

from model_store.errors import StoreCorrupt, StoreError, StoreReadOnly, StoreUnavailable

_NO_CLUSTER = (redis_errors.RedisClusterException, redis_errors.ClusterDownError)

OUTAGES = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError, TimeoutError, *_NO_CLUSTER)
"""Errors that mean that Redis cannot be used at all now; other errors refuse one command only."""

RAISED_BY_CLIENT = (redis_errors.RedisError, OSError, TimeoutError, *_NO_CLUSTER)
"""Errors that a call of the client can raise when Redis misbehaves."""


def translate_redis_error(cause: Exception, place: str) -> StoreError:
    """Translate an error of the Redis client.

    Args:
        cause: One of :data:`RAISED_BY_CLIENT`.
        place: Where Redis is, see :func:`~model_store.replication.redis_address.redis_place`.
    """
    if is_wrong_type(cause):
        return StoreCorrupt(f"Redis at {place} holds a value of another type", "another program uses the same prefix")

    trouble = _trouble(cause)
    message = f"Redis at {place} {trouble.problem}"
    hint = f"{trouble.fix} (cause: {type(cause).__name__}: {cause})"
    if refuses_writes(cause):
        return StoreReadOnly(message, hint, f"Redis {trouble.problem}")
    return StoreUnavailable(message, hint)


def refuses_writes(cause: Exception) -> bool:
    """Tell whether Redis works, but takes no writes."""
    kinds = (redis_errors.OutOfMemoryError, redis_errors.ReadOnlyError)
    return isinstance(cause, kinds) or str(cause).startswith(("MISCONF", "NOREPLICAS"))


def is_wrong_type(cause: Exception) -> bool:
    """Tell whether the error means that one key holds a value of another type, while Redis itself works."""
    return isinstance(cause, redis_errors.ResponseError) and "WRONGTYPE" in str(cause)


def _is_no_right(cause: Exception) -> bool:
    return isinstance(cause, redis_errors.NoPermissionError) or "NOPERM" in str(cause) or "ACL failure" in str(cause)


def _is_untrusted(cause: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(cause)


def _is_auth(cause: Exception) -> bool:
    kinds = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
    return isinstance(cause, kinds) or str(cause).startswith(("NOAUTH", "WRONGPASS"))


def _is(*kinds: type[Exception]) -> Callable[[Exception], bool]:
    return lambda cause: isinstance(cause, kinds)


def _says(word: str) -> Callable[[Exception], bool]:
    return lambda cause: str(cause).startswith(word)


class _Trouble(NamedTuple):
    """One kind of trouble: how to recognise it, what Redis does, and what to do about it."""

    is_met: Callable[[Exception], bool]
    problem: str
    fix: str


_RUNS = "check that Redis runs and that ETEGREC_REDIS_URL names it"
_SEE_LOG = "see the log of Redis: its disk, or its replicas"
_OTHER = _Trouble(_is(Exception), "refused a command", _RUNS)

_TROUBLES = (
    _Trouble(
        _is_no_right,
        "says that this user may not do this",
        "give the user of ETEGREC_REDIS_URL the documented rights to the keys of this ETEGREC_NAMESPACE",
    ),
    _Trouble(
        _is_untrusted,
        "has a certificate that cannot be trusted",
        "name the authority that signed it in ETEGREC_REDIS_CA_FILE, and the host for which it was signed",
    ),
    _Trouble(_is_auth, "refuses the credentials", "check user and password in ETEGREC_REDIS_URL"),
    _Trouble(
        _is(redis_errors.OutOfMemoryError),
        "is out of memory and refuses writes",
        "raise maxmemory, drain the event stream with `etegrec-train retrain`, or let idle users expire",
    ),
    _Trouble(_is(redis_errors.ReadOnlyError), "is a read-only replica", "point ETEGREC_REDIS_URL at the primary"),
    _Trouble(_says("MISCONF"), "cannot save to its disk and refuses writes", _SEE_LOG),
    _Trouble(_says("NOREPLICAS"), "has too few replicas and refuses writes", _SEE_LOG),
    _Trouble(
        _is(redis_errors.BusyLoadingError), "is still loading its data", "wait until it has read its append-only file"
    ),
    _Trouble(
        _is(*_NO_CLUSTER),
        "has no primary for some keys, or is no cluster",
        "check `redis-cli cluster info`: a primary is down and no replica took its place, or slots are not assigned",
    ),
    # some errors above are kinds of ConnectionError, so these two come last
    _Trouble(_is(redis_errors.TimeoutError, TimeoutError), "did not answer in time", _RUNS),
    _Trouble(_is(redis_errors.ConnectionError, OSError), "cannot be reached", _RUNS),
)


def _trouble(cause: Exception) -> _Trouble:
    return next((each for each in _TROUBLES if each.is_met(cause)), _OTHER)

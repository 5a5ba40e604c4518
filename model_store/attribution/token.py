"""The attribution token of an answer: signed text that comes back with the events that it led to.

At most 160 characters of URL-safe base64 without padding. Inside, in network order:

    bytes   holds
    1       version of the format
    4       Unix time of the answer, in seconds
    6       hash of the user or session, keyed: it names nobody, and differs between deployments
    4+4+4   hashes of the model version, the placement and the experiment (:mod:`model_store.attribution.names`)
    1       variant of the experiment
    1       what served the answer (lower four bits), and flags
    6       random id of the answer
    2 n     fingerprints of the items in the order of their ranks (:mod:`model_store.attribution.fingerprints`)
    n       with exploration: how probable each item was, see :func:`encode_propensities`
    12      HMAC-SHA256 of all before, cut

So 38 ranks fit, 25 with propensities. Of a longer answer, the ranks beyond are unknown.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.attribution.fingerprints import pack_fingerprints, rank_of
from model_store.attribution.keys import AttributionKey, AttributionKeys
from model_store.attribution.names import NO_NAME, hash_of
from model_store.random_bytes import RandomBytes

MAX_CHARACTERS = 160
"""Length of the longest token."""

FORMAT = 1
"""First byte of a token."""

MAX_VARIANTS = 256
"""Number of variants that a token can tell apart."""

ANSWER_ID_BYTES = 6
"""Length of the id of an answer."""

_HEAD = struct.Struct(">BI6sIIIBB6s")
_MAC_BYTES = 12
_ROOM = MAX_CHARACTERS * 3 // 4 - _HEAD.size - _MAC_BYTES  # bytes for items
MAX_RANKS = _ROOM // 2
"""Ranks that a token holds."""
MAX_EXPLORED_RANKS = _ROOM // 3
"""Ranks that a token with propensities holds."""

_ANSWER_IDS = RandomBytes(ANSWER_ID_BYTES)
_SOURCES = ("model", "cache", "popular")
_IMPLICIT = 0x10
_EXPLORED = 0x20
_CUT = 0x40
_STEPS_PER_NAT = 16.0
_LEAST_PROPENSITY = float(np.exp(-255 / _STEPS_PER_NAT))


class Chance(NamedTuple):
    """What was left to chance in an answer.

    Attributes:
        propensities: Probability with which each of the first items came to its place, under the policy that chose it,
            ``[min(n, MAX_EXPLORED_RANKS)]``; 1 where chance had no part.
        answer_id: Id of the answer, six bytes, from which the chance came.
    """

    propensities: npt.NDArray[np.float64]
    answer_id: bytes

    @property
    def places(self) -> int:
        """Number of places that chance filled, where there was a choice."""
        return int(np.count_nonzero(self.propensities < 1))


class Answered(NamedTuple):
    """An answer, as far as its token says.

    Attributes:
        seconds: Unix time.
        subject: Who asked, see :func:`subject_of`.
        version: Version of the model.
        item_ids: The items, best first, ``[n]``.
        served_by: What served the answer.
        placement: Name of the placement.
        experiment: Key of the experiment.
        variant: Place of its variant.
        is_implicit: Whether the answer counts as shown.
        chance: What was left to chance; ``None`` if nothing was.
    """

    seconds: int
    subject: str
    version: str
    item_ids: Sequence[str]
    served_by: str = "model"
    placement: str | None = None
    experiment: str | None = None
    variant: int = 0
    is_implicit: bool = True
    chance: Chance | None = None


class Attribution(NamedTuple):
    """The content of a token."""

    seconds: int  # Unix time of the answer
    subject: bytes  # [6], zeros if nobody was named
    version: int  # hash
    placement: int  # hash, 0 for none
    experiment: int  # hash, 0 for none
    variant: int
    served_by: str
    is_implicit: bool
    is_cut: bool  # whether the answer had more items than the token holds
    answer_id: bytes  # [6]
    items: npt.NDArray[np.uint16]  # [n], fingerprints by rank
    propensities: npt.NDArray[np.float64] | None  # [n]

    def rank(self, item_id: str) -> int | None:
        """Return the rank at which an item was shown, from 1; ``None`` if the token does not hold it."""
        return rank_of(item_id, self.items, self.answer_id)


class Refusal(enum.Enum):
    """Reason why a token is ignored."""

    MALFORMED = "malformed"
    FORGED = "forged"
    EXPIRED = "expired"


def subject_of(user_id: str | None, session_id: str | None) -> str:
    """Return who asks, as one text: a user, else a session, else nobody. A user is never taken for a session."""
    if user_id is not None:
        return f"u{user_id}"
    return "" if session_id is None else f"s{session_id}"


def new_answer_id() -> bytes:
    """Return a random id for an answer."""
    return _ANSWER_IDS.take()


def sign(answer: Answered, key: AttributionKey, answer_id: bytes | None = None) -> str:
    """Return the token of an answer.

    Args:
        answer: The answer.
        key: Key of the deployment.
        answer_id: Six bytes that stand for the answer, if it does not explore; random ones if left out.

    Raises:
        ValueError: There are probabilities, but not one for each item that the token holds.
    """
    chance = answer.chance
    answer_id = chance.answer_id if chance is not None else answer_id or new_answer_id()
    most = MAX_RANKS if chance is None else MAX_EXPLORED_RANKS
    held = answer.item_ids[:most]

    served_by = _SOURCES.index(answer.served_by)
    flags = _IMPLICIT * answer.is_implicit | _CUT * (len(answer.item_ids) > most)
    items = pack_fingerprints(held, answer_id)
    if chance is not None:
        if len(chance.propensities) != len(held):
            raise ValueError(f"{len(chance.propensities)} probabilities for {len(held)} items")
        flags |= _EXPLORED
        items += encode_propensities(chance.propensities)

    head = _HEAD.pack(
        FORMAT,
        answer.seconds,
        hash_subject(answer.subject, key),
        hash_of(answer.version),
        hash_of(answer.placement),
        hash_of(answer.experiment),
        answer.variant,
        served_by | flags,
        answer_id,
    )
    body = head + items
    return base64.urlsafe_b64encode(body + _mac(body, key)).rstrip(b"=").decode("ascii")


def verify(token: str, keys: AttributionKeys, ttl_s: int, at: int) -> Attribution | Refusal:
    """Return what a token says, or why it is ignored.

    Args:
        token: The token, as a client sent it.
        keys: Keys of this deployment; any of them may have signed it.
        ttl_s: Seconds after the answer for which events count.
        at: Unix time of the event.
    """
    raw = _decode(token)
    if raw is None:
        return Refusal.MALFORMED

    body = raw[:-_MAC_BYTES]
    mac = raw[-_MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(body, key)) for key in keys.all):
        return Refusal.FORGED

    found = _read(body)
    if found is None:
        return Refusal.MALFORMED
    return Refusal.EXPIRED if at > found.seconds + ttl_s else found


def encode_propensities(probabilities: npt.NDArray[np.float64]) -> bytes:
    """Return a byte for each probability: minus its logarithm in sixteenths of a nat, so it is exact to 3.2 %.

    Probabilities below 1.2e-7 count as that.
    """
    nats = -np.log(np.clip(probabilities, _LEAST_PROPENSITY, 1.0))
    return np.rint(nats * _STEPS_PER_NAT).astype(np.uint8).tobytes()


def decode_propensities(raw: bytes) -> npt.NDArray[np.float64]:
    """Return the probabilities that :func:`encode_propensities` wrote."""
    return np.exp(-np.frombuffer(raw, dtype=np.uint8).astype(np.float64) / _STEPS_PER_NAT)


def hash_subject(subject: str, key: AttributionKey) -> bytes:
    """Return six bytes that only who has the key can compare with a user; zeros for nobody."""
    if not subject:
        return bytes(6)
    return key.hash(subject)


def _mac(body: bytes, key: AttributionKey) -> bytes:
    return key.mac(body)[:_MAC_BYTES]


def _decode(token: str) -> bytes | None:
    """Return the bytes of a token; ``None`` if they cannot be one. A text stands for them in one way only."""
    if not token or len(token) > MAX_CHARACTERS or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None

    if len(raw) < _HEAD.size + _MAC_BYTES or raw[0] != FORMAT:
        return None
    is_canonical = base64.urlsafe_b64encode(raw).rstrip(b"=") == token.encode("ascii")
    return raw if is_canonical else None


def _read(body: bytes) -> Attribution | None:
    """Return the content of a token whose signature was verified; ``None`` if this release does not know it."""
    _, seconds, subject, version, placement, experiment, variant, flags, answer_id = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    is_explored = bool(flags & _EXPLORED)
    served_by = flags & 0x0F
    count, over = divmod(len(rest), 3 if is_explored else 2)
    if over or served_by >= len(_SOURCES) or version == NO_NAME:
        return None

    return Attribution(
        seconds,
        subject,
        version,
        placement,
        experiment,
        variant,
        _SOURCES[served_by],
        bool(flags & _IMPLICIT),
        bool(flags & _CUT),
        answer_id,
        np.frombuffer(rest[: 2 * count], dtype="<u2"),
        decode_propensities(rest[2 * count :]) if is_explored else None,
    )

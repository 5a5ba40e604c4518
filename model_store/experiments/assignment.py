"""Sticky assignment of users and sessions to variants, by hash: nothing is stored, and every replica agrees.

Experiments of one layer share its traffic: each has an interval of it, and intervals do not overlap, so nobody is in
two of them. Layers are hashed independently of each other, and so is the choice of a variant inside an experiment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class Traffic(NamedTuple):
    """The part of a layer's traffic that an experiment has, as an interval of 0 to 1: ``start`` in, ``end`` out."""

    layer: str
    start: float
    end: float

    def overlaps(self, other: Traffic) -> bool:
        """Tell whether somebody could be in both."""
        return self.layer == other.layer and self.start < other.end and other.start < self.end


class Assignment(NamedTuple):
    """The place of a user or session in an experiment."""

    experiment: str  # name
    key: str  # stands for it in tokens, counters and hashes: one that has the name of a deleted one has another
    variant: int
    variant_name: str


def is_included(traffic: Traffic, subject: str) -> bool:
    """Tell whether a user or session is part of an experiment.

    Args:
        traffic: The experiment's part of its layer.
        subject: Who asks, in a form that never changes: a rotation of keys must not move anybody.
    """
    return traffic.start <= _place(b"layer", traffic.layer, subject) < traffic.end


def choose_variant(experiment: str, shares: Sequence[float], subject: str) -> int:
    """Return the variant of a user or session, by its place in ``shares``.

    Args:
        experiment: Key of the experiment, see :class:`Assignment`.
        shares: Share of each variant, ``[variants]``, with the sum 1.
        subject: Who asks, likewise.
    """
    place = _place(b"variant", experiment, subject)
    passed = 0.0
    for variant, share in enumerate(shares):
        passed += share
        if place < passed:
            return variant
    return len(shares) - 1  # the sum may be a rounding error short of 1


def _place(purpose: bytes, name: str, subject: str) -> float:
    """Return a number in [0, 1) that is uniform over subjects, and independent between names and purposes."""
    digest = hashlib.blake2b(subject.encode(), digest_size=8, key=name.encode()[:64], person=purpose).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)

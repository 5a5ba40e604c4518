"""Population stability index (PSI): how much the shares of events have moved, and how much of that is chance.

    PSI = sum over bins of (q - p) * log(q / p)

with shares p before and q since. Rules of thumb (0.1: some, 0.25: much) forget that few events scatter. Where nothing
moved, PSI is about (1 / n + 1 / m) times a chi-squared variable with one degree of freedom less than there are bins
(Yurdakul and Naranjo, Journal of Risk Model Validation 14, 2020), for n and m independent events. Those of one user are
not independent, so each n is divided by a design effect (Rao and Scott, JASA 76, 1981, first order): the variance of
the shares with users as clusters, over that of independent events.

Shapes: n events, B bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.attribution.share_shifts import psi_parts, smoothed_shares

MATERIAL = 0.1
"""Smallest PSI that matters, however many events show it."""

FALSE_ALARMS = 0.001
"""Share of comparisons without any shift whose PSI is above the limit of chance."""

_NORMAL_QUANTILE = 3.0902
"""Quantile of the normal distribution at 1 - FALSE_ALARMS."""

FEWEST = 10
"""Events that a bin has in the smaller sample on average; bins with fewer are taken together."""

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


class Events(NamedTuple):
    """Events in bins."""

    bins: Int64Array  # [n], 0 … B - 1
    users: Int64Array  # [n], whose event it is


class Stability(NamedTuple):
    """A comparison of shares."""

    psi: float
    limit: float
    """The largest PSI that chance gives, or that does not matter."""
    largest: int
    """The bin whose share moved most; -1 for all rare bins together."""
    before: float
    """Its share before."""
    since: float
    """Its share since."""

    @property
    def is_shifted(self) -> bool:
        """Whether the shares have moved by more than chance, and by enough to matter."""
        return self.psi > self.limit


def compare_shares(before: Events, since: Events) -> Stability | None:
    """Compare the shares of bins; ``None`` if there are too few events for two bins."""
    if not (len(before.bins) and len(since.bins)):
        return None
    kept, before, since = _take_rare_together(before, since)
    if len(kept) < 2:
        return None

    old, new = (np.bincount(each.bins, minlength=len(kept)) for each in (before, since))
    p, q = (smoothed_shares(counts) for counts in (old, new))
    parts = psi_parts(p, q)
    largest = int(np.argmax(parts))

    spread = sum(_design_effect(each, len(kept)) / len(each.bins) for each in (before, since))
    limit = _chi_squared_quantile(len(kept) - 1) * spread
    return Stability(float(parts.sum()), max(limit, MATERIAL), int(kept[largest]), float(p[largest]), float(q[largest]))


def _take_rare_together(before: Events, since: Events) -> tuple[Int64Array, Events, Events]:
    """Return the bins that are left, -1 for the rare ones together, and the events renumbered by them."""
    both = np.concatenate([before.bins, since.bins])
    counts = np.bincount(both)
    smaller = min(len(before.bins), len(since.bins))
    is_kept = counts * (smaller / len(both)) >= FEWEST

    kept = np.flatnonzero(is_kept)
    number = np.full(len(counts), len(kept), dtype=np.int64)
    number[kept] = np.arange(len(kept))
    if counts[~is_kept].sum():
        kept = np.append(kept, -1)
    return kept, before._replace(bins=number[before.bins]), since._replace(bins=number[since.bins])


def _design_effect(events: Events, bins: int) -> float:
    """Return the variance of shares with users as clusters over that of independent events, averaged over bins."""
    n = len(events.bins)
    _, user = np.unique(events.users, return_inverse=True)
    users = int(user.max()) + 1
    if users < 2:
        return float(n)  # one user is one observation

    of_user = np.bincount(user).astype(np.float64)
    pairs, counts = np.unique(user * bins + events.bins, return_counts=True)
    owner, bin_of = pairs // bins, pairs % bins
    squares = np.bincount(bin_of, counts.astype(np.float64) ** 2, bins)
    products = np.bincount(bin_of, counts * of_user[owner], bins)

    p = np.bincount(events.bins, minlength=bins) / n
    variance = (squares - 2 * p * products + p**2 * (of_user**2).sum()) / n**2 * users / (users - 1)
    is_used = p > 0
    return float(n * (variance[is_used] / p[is_used]).sum() / max(is_used.sum() - 1, 1))


def _chi_squared_quantile(degrees: int) -> float:
    """Return the quantile at 1 - FALSE_ALARMS (Wilson and Hilferty, PNAS 17, 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + _NORMAL_QUANTILE * part**0.5) ** 3)

"""Exploration: some slots of an answer are filled by chance, and the probability of each item is known exactly.

The chance is a Gumbel top-k over the scores: to each candidate's score over the temperature comes a random number from
a Gumbel distribution, and the largest sums win, in their order. It is the same as a race: candidate i arrives after a
time from an exponential distribution of rate ``exp(score_i / temperature)``, and the first ones fill the slots in the
order of their arrival. In that form the probability of every item in every slot is an integral over the time of its
arrival (:func:`slot_probabilities`). W. Kool, H. van Hoof, M. Welling: Stochastic beams and where to find them, ICML
2019, Section 2, has the equivalence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STEP = 0.2
"""Step of the quadrature in the logarithm of time. It leaves errors of less than a millionth, which a test shows."""

MISSED = 1e-9
"""Probability of an arrival before the first point of the quadrature, and after the last one."""

WIDEST = 600.0
"""Largest difference of scores over the temperature that is told from larger ones: beyond it, nothing ever arrives."""


class Explored(NamedTuple):
    """An answer of k items, some of which chance has chosen."""

    order: npt.NDArray[np.int64]  # [k], places in the candidates
    probability: npt.NDArray[np.float64]  # [k], of each item in its slot under the policy; 1 where chance had no part


def explore(
    scores: npt.NDArray[np.float64], k: int, slots: int, temperature: float, rng: np.random.Generator
) -> Explored:
    """Choose k of the candidates: the best ones, and in the last slots those whose time of arrival is earliest.

    Args:
        scores: Scores of the candidates in nats, best first, ``[n]``.
        k: Items of the answer; fewer if there are fewer candidates.
        slots: Slots of the answer that are filled by chance, the last ones.
        temperature: By how much scores are divided: with 1, a candidate that is a nat better is e times as likely to
            come first; near 0 the best ones come, as without exploration.
        rng: Source of chance.
    """
    k = min(k, len(scores))
    slots = min(slots, k)
    fixed = k - slots
    order = np.arange(k, dtype=np.int64)
    probability = np.ones(k)
    if not slots:
        return Explored(order, probability)

    logits = scores[fixed:] / temperature
    perturbed = logits + rng.gumbel(size=len(logits))
    chosen = np.argsort(-perturbed, kind="stable")[:slots]
    order[fixed:] = fixed + chosen
    probability[fixed:] = slot_probabilities(logits, slots, chosen)[np.arange(slots), np.arange(slots)]
    return Explored(order, probability)


def slot_probabilities(
    logits: npt.NDArray[np.float64], slots: int, of: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """Return the probability of candidates in each slot, ``[m, slots]``.

    The candidate with rate r is in slot j if exactly j others arrive before it:

        P(i, j) = integral of r_i exp(-r_i t) P(j of the others have arrived by t) dt

    Arrivals are independent, so the number of those who have arrived by t is a sum of independent yes-or-no variables,
    whose distribution is built up one candidate at a time. The trapezoidal rule in the logarithm of time converges
    exponentially, since the integrand vanishes at both ends.

    Args:
        logits: Scores over the temperature, ``[n]``, n at least ``slots``.
        slots: Number of slots.
        of: Candidates whose probabilities are wanted, ``[m]``; all if left out.
    """
    wanted = np.arange(len(logits)) if of is None else of
    rates = np.exp(np.maximum(logits - logits.max(), -WIDEST))
    time = _times(rates, slots)  # [t]

    waiting = np.exp(-rates[:, None] * time)  # [n, t], probability of not having arrived
    of_others = np.zeros((slots, len(time)))  # [j, t], j of those who are not wanted have arrived
    of_others[0] = 1.0
    for still in np.delete(waiting, wanted, axis=0):
        of_others = _add_one(of_others, still)

    counts = np.repeat(of_others[None], len(wanted), axis=0)  # [i, j, t], j of all but i have arrived
    for place, still in enumerate(waiting[wanted]):
        alone = counts[place]
        counts = _add_one(counts, still)
        counts[place] = alone

    density = rates[wanted, None] * waiting[wanted] * time * STEP  # [i, t]
    found: npt.NDArray[np.float64] = np.einsum("it,ijt->ij", density, counts)
    return found


def _times(rates: npt.NDArray[np.float64], slots: int) -> npt.NDArray[np.float64]:
    """Return the points of the quadrature, ``[t]``.

    They end where the slots are full, but for a probability that does not count: the ``slots + 1`` candidates with the
    highest rates have arrived then, so whoever arrives later finds at least as many before it.
    """
    first = math.log(MISSED / float(rates.sum()))
    slowest = np.sort(rates)[::-1][: slots + 1][-1]
    last = math.log(-math.log(MISSED / (slots + 1)) / float(slowest))
    times: npt.NDArray[np.float64] = np.exp(np.arange(first, last + STEP, STEP))
    return times


def _add_one(counts: npt.NDArray[np.float64], still: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distribution of a number of arrivals with one candidate more.

    Args:
        counts: Probability that j have arrived by each time, ``[..., j, t]``.
        still: Probability that the other one has not, ``[t]``.
    """
    grown: npt.NDArray[np.float64] = counts * still
    grown[..., 1:, :] += counts[..., :-1, :] * (1.0 - still)
    return grown

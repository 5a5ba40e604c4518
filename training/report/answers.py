"""Answers of the report in sentences: which model is best, whether the tokenizer is healthy, what was left out."""

from __future__ import annotations

from training.evaluation.coverage import K
from training.evaluation.metrics import ndcg_difference
from training.report.accuracy import WITHOUT_SEARCH
from training.report.contents import Contents
from training.report.notes import CLEAR_ERRORS, METRIC
from training.report.style import model_name

FEW_CODES = 0.5
MANY_COLLISIONS = 0.2
"""A tokenizer is in doubt if fewer of a level's codes are in use, or if more items share their nearest codes. Rules of
thumb: healthy ones here use nearly all codes and let less than a tenth of the items collide."""


def best_model(contents: Contents) -> str:
    """Say which model recommends best to test users, and by how much, with the standard error per user."""
    test = contents.evaluation.test
    rivals = test.keys() - {WITHOUT_SEARCH}  # it is the dense row once more
    best, *others = sorted(rivals, key=lambda row: (-test[row][METRIC], row))
    if not others:
        return f"{model_name(best)} is the only model: test {METRIC} {test[best][METRIC]:.4f}."

    second = others[0]
    ranks = contents.ranks.rows
    lead = ndcg_difference(ranks[best].all_items, ranks[second].all_items, K)
    figures = f"test {METRIC} {test[best][METRIC]:.4f} against {test[second][METRIC]:.4f} of {model_name(second)}"
    if lead.error is None:
        return f"{model_name(best)}, by a single user: {figures}."

    spread = f"a difference of {lead.mean:.4f} ± {lead.error:.4f} (mean and standard error over users)"
    if lead.mean > CLEAR_ERRORS * lead.error:
        return f"{model_name(best)}: {figures}, {spread}."
    return f"{model_name(best)}, but {model_name(second)} is as good within chance: {figures}, {spread}."


def tokenizer_state(contents: Contents) -> str:
    """Say whether the codes are used well, and what is not."""
    health = contents.evaluation.tokenizer
    used = health["codes_used"]
    fewest = min(range(len(used)), key=lambda level: used[level])
    collisions = health["collision_rate"]

    moved = _moved_note(health["moved"])
    doubts = []
    if used[fewest] < FEW_CODES * min(contents.codebook_size, len(contents.codes)):
        doubts.append(f"level {fewest + 1} uses {used[fewest]} of {contents.codebook_size} codes")
    if collisions > MANY_COLLISIONS:
        doubts.append(f"{collisions:.0%} of the items share their nearest codes with others")
    if health["reconstruction_error"] >= 1:
        doubts.append("codes describe an item no better than the mean of all items")
    if doubts:
        return f"There are doubts: {'; '.join(doubts)}. The search then tells these items apart by little.{moved}"
    return (
        f"Yes: each level uses at least {used[fewest]} of {contents.codebook_size} codes, and {collisions:.1%} of the "
        f"items shared their nearest codes with others before each got codes of its own.{moved}"
    )


def _moved_note(moved: int) -> str:
    """Say why items have other codes than their nearest; empty if none has."""
    if not moved:
        return ""
    items = "1 item has" if moved == 1 else f"{moved:,} items have"
    return (
        f" {items} other codes than the nearest: another item had taken those, or the codes from before were about as "
        "near or nearer and were kept (joint.stickiness, warm.stickiness)."
    )

"""Rows of the ablation (the paper's Table 4), and the equal budget that they get.

**Equal budget.** Every row's recommender makes the same number of passes over the same training targets, on the same
learning-rate schedule: R epochs of the joint stage, as many as the full row's alternating schedule gives its
recommender, and all epochs of fine-tuning, which never stops early here (the epoch of best validation is kept, as
always). Epochs that train the tokenizer are extra and are counted in the result. Alternating rows spend whole epochs on
it, in turn with the recommender's; ``no-alternating`` trains it in the recommender's own passes; rows with fixed codes
spend none. So rows differ in compute, but not in what their recommender sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from model_store.errors import ConfigError
from training.config import TrainingConfig
from training.joint.training import phase_of

DEFINITION = (
    "every row's recommender makes the same number of passes over the same training targets, on the same learning-rate "
    "schedule and without an early stop; epochs that train the tokenizer are extra and are counted for each row"
)


@dataclass(frozen=True)
class Row:
    """Row of the ablation, as its differences from the full method."""

    key: str
    title: str
    joint: Mapping[str, Any] = field(default_factory=dict)  # settings of the section ``joint``
    tokenizer: Literal["pretrained", "final"] = "pretrained"  # final: the tokenizer at the end of the full row


FULL = Row("full", "ETEGRec")
ROWS = (
    FULL,
    Row("no-sia", "without SIA", {"sia_weight": 0.0}),
    Row("no-psa", "without PSA", {"psa_weight": 0.0}),
    Row("no-alignment", "without both", {"sia_weight": 0.0, "psa_weight": 0.0}),
    Row("no-alternating", "no alternating", {"alternating": False}),
    Row("frozen", "frozen pretrained tokenizer", {"tokenizer": "frozen"}),
    Row("fresh-recommender", "final codes, fresh recommender", {"tokenizer": "frozen"}, tokenizer="final"),
)


def chosen_rows(keys: Sequence[str]) -> list[Row]:
    """Return the rows with the given keys and always the full row, in the order of the table; without keys, all rows.

    Raises:
        ConfigError: A key is unknown.
    """
    known = [row.key for row in ROWS]
    if unknown := set(keys) - set(known):
        raise ConfigError(f"--rows: there is no row {min(unknown)!r}", f"choose from {', '.join(known)}")
    return [row for row in ROWS if not keys or row is FULL or row.key in keys]


def joint_epochs(config: TrainingConfig) -> int:
    """Return R, the epochs that the full row's joint stage gives its recommender.

    Raises:
        ConfigError: The configuration is not that of the full method, or its schedule trains only one network.
    """
    joint = config.joint
    if joint.tokenizer == "frozen" or not joint.alternating or not joint.sia_weight or not joint.psa_weight:
        raise ConfigError(
            "an ablation starts from the full method: joint.tokenizer joint, joint.alternating true, and"
            " joint.sia_weight and joint.psa_weight above 0",
            "leave these settings to the rows",
        )

    phases = [phase_of(epoch, joint) for epoch in range(joint.epochs)]
    found = phases.count("recommender")
    if found in (0, len(phases)):
        raise ConfigError(
            f"joint.epochs {joint.epochs} with joint.alignment_from {joint.alignment_from} trains only one network",
            "raise joint.epochs above joint.alignment_from + 1",
        )
    return found


def row_config(row: Row, config: TrainingConfig, seed: int) -> TrainingConfig:
    """Return the configuration of one row: the full method with the row's differences and the equal budget."""
    recommender_epochs = joint_epochs(config)
    joint = config.joint.model_dump() | dict(row.joint)
    if joint["tokenizer"] == "frozen" or not joint["alternating"]:
        joint["epochs"] = recommender_epochs
    finetune = config.finetune.model_dump() | {"patience": max(1, config.finetune.epochs)}
    return TrainingConfig.model_validate(config.model_dump() | {"seed": seed, "joint": joint, "finetune": finetune})

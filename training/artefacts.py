"""Artefacts that the stages of a run leave in its folder, by name and in the order of the stages."""

from __future__ import annotations

CONTENT = "content.safetensors"
SASREC = "sasrec.safetensors"
NEIGHBOURS = "neighbours.safetensors"
BLEND = "blend.json"
TOKENIZER = "tokenizer.safetensors"
JOINT = "joint.safetensors"
FINETUNE = "finetune.safetensors"
"""File of the trained learner: what is evaluated and exported."""
TIGER_JOINT = "tiger_joint.safetensors"
TIGER_FINETUNE = "tiger_finetune.safetensors"
RANKS = "ranks.safetensors"
"""File of the ranks of test users; :mod:`training.user_ranks` describes its arrays."""
RANKER = "ranker.safetensors"
"""File of the ranker, which the evaluation fits; missing if it would gain nothing."""
EVALUATION = "evaluation.json"
UNSEEN = "unseen.json"
"""File of the metrics for users left out of training, in a run that is a row of an ablation."""
BUNDLE = "bundle"
"""Folder of the run with the files of its bundle."""

ARTEFACTS = (
    CONTENT,
    SASREC,
    NEIGHBOURS,
    BLEND,
    TOKENIZER,
    JOINT,
    FINETUNE,
    TIGER_JOINT,
    TIGER_FINETUNE,
    RANKS,
    RANKER,
    EVALUATION,
    UNSEEN,
    f"{BUNDLE}/golden.json",
)
"""Artefacts in the order of the stages. Each depends on earlier ones: if one is replaced, later ones are stale."""

CODES = "codes"
"""Name of a tensor that an adopted tokenizer may have: semantic IDs of all items, int16."""

TRAINED_ON = "trained_on.json"
"""File of the fingerprint of the data that the run was trained on. It is no artefact: no stage computes it."""


def artefacts_after(artefact: str) -> tuple[str, ...]:
    """Return the artefacts of later stages, which are stale when this one is replaced."""
    return ARTEFACTS[ARTEFACTS.index(artefact) + 1 :]

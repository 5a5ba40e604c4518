"""Evaluations with made-up figures, for what is said and decided about them."""

from __future__ import annotations

from training.run_evaluation import Evaluation

BROAD = {"users": 500, "recommended_items": 900, "catalogue_items": 1000, "catalogue_share": 0.9, "top_share": 0.05}


def evaluation(
    fused: float,
    popularity: float = 0.0,
    error: float | None = 0.001,
    coverage: dict[str, float] | None = None,
) -> Evaluation:
    """Return an evaluation with these values of NDCG@10; other rows and validation users would decide otherwise."""
    worthless = {"ndcg@10": -1.0}
    return Evaluation(
        test={"generative": worthless, "popularity": {"ndcg@10": popularity}, "fused": {"ndcg@10": fused}},
        valid={"popularity": worthless, "fused": worthless},
        intervals={},
        tokenizer={},
        fusion={},
        above_popularity={"mean": fused - popularity, "error": error},
        coverage=BROAD if coverage is None else coverage,
        seconds={},
    )

"""A run whose items have titles: they reach the item vectors and the bundle, and no stage is done twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.console import run
from model_store.search.fusion import Fusion, scores
from model_store.search.ranker import FEATURES
from service.engines.base import SearchRequest
from service.engines.onnx_engine import OnnxEngine
from service.engines.torch_engine import TorchEngine
from tests.support.tiny import CONTENT, ITEMS, set_options, write_cycle
from training.blending import ranker
from training.cli import app
from training.content.shared_features import item_features
from training.evaluation.full_ranking import SearchedModel, SearchResults, search_split
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder

LEARNED = 16
OPTIONS = set_options([f"content.dim={CONTENT}", "joint.epochs=4", "joint.alignment_from=2", "finetune.epochs=1"])
KINDS = ("red soap", "blue soap", "green tea", "black tea", "wool", "silk")


def title(item: int) -> str:
    return f"{KINDS[item // 5]} {item % 5}"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("content")
    data = write_cycle(folder / "cycle.txt")
    items = folder / "items.csv"
    rows = [f"i{item},{title(item)}" for item in range(ITEMS - 1)]  # the last item is in no row
    items.write_text("\n".join(["item_id,title", *rows]) + "\n", encoding="utf-8")
    options = ["--data", data, "--items", items, "--preset", "demo", "--out", folder / "run", *OPTIONS]
    return [str(each) for each in options]


@pytest.fixture(scope="module")
def finished(arguments: list[str]) -> Path:
    """A run with dense scores and a ranker, though beams alone suffice for users who are so easy to predict."""

    def fit(results: SearchResults) -> Fusion:
        return Fusion(weight=4.0, candidates=results.dense_candidates, neighbours=results.neighbours_weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchResults, "fit", fit)
        patch.setattr(ranker, "CERTAINTY", -np.inf)
        patch.setattr(ranker, "LEAST_USERS", 1)
        patch.setattr(ranker, "SCALES", np.array([0.5]))  # too small, so there is something to learn
        assert run(app, "etegrec-train", ["run", *arguments]) == 0
    return Path(arguments[arguments.index("--out") + 1])


@pytest.fixture(scope="module")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    store = tmp_path_factory.mktemp("store")
    assert run(app, "etegrec-train", ["publish", str(finished), "--store", str(store), "--promote"]) == 0
    return ModelStore(store).bundle()


def test_a_finished_run_repeats_no_stage(finished: Path, arguments: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".safetensors", ".onnx")}
    assert {path.name for path in before} >= {"content.safetensors", "sasrec.safetensors", "finetune.safetensors"}

    assert run(app, "etegrec-train", ["run", *arguments]) == 0

    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {"content", "embed", "blend"} <= json.loads((finished / "seconds.json").read_text()).keys()


def test_vectors_end_with_what_items_say(finished: Path, bundle: Bundle) -> None:
    share = json.loads((finished / "blend.json").read_text())["share"]
    vectors = bundle.catalogue().vectors
    assert vectors is not None
    assert vectors.shape == (ITEMS, LEARNED + CONTENT)
    assert bundle.config.recommender.content_dim == CONTENT
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.square(vectors[:, LEARNED:]).sum(axis=1), share, atol=1e-5)


def test_both_engines_answer_alike_with_content(bundle: Bundle) -> None:
    catalogue = bundle.catalogue()
    fusion = bundle.manifest.fusion.model_copy(update={"candidates": 10})
    engines = (
        OnnxEngine(bundle.read("search.onnx"), bundle.config),
        TorchEngine(bundle.weights(), bundle.config, "cpu"),
    )
    requests = [
        SearchRequest(
            np.arange(start, start + 1 + start),
            5,
            10,
            catalogue.trie.everything,
            np.empty(0, np.int64),
            catalogue,
            fusion=fusion,
            ranker=bundle.ranker(),
        )
        for start in range(8)
    ]
    onnx, torch = (engine.answer(requests, catalogue) for engine in engines)
    for one, other in zip(onnx, torch, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_allclose(one.score, other.score, atol=1e-4)


def test_the_service_and_the_evaluation_correct_scores_alike(finished: Path, bundle: Bundle) -> None:
    """Goldens prove answers by the export's own search; here the scores are those that the evaluation ranks."""
    pipeline = Pipeline(RunFolder.open(finished), SilentProgress())
    catalogue, known, fusion = bundle.catalogue(), bundle.ranker(), bundle.manifest.fusion
    assert known is not None
    assert json.loads((finished / "evaluation.json").read_text())["ranker_adds"].keys() == {"mean", "interval"}

    split, width = pipeline.dataset.test(), pipeline.config.model.beam_width
    model = SearchedModel(
        pipeline.learner.recommender,
        catalogue.codes,
        width,
        catalogue.vectors,
        fusion.candidates,
        bundle.neighbours(),
        fusion.neighbours,
        known,
    )
    evaluated = search_split(model, split, seen_excluded=False)
    expected = scores(evaluated.log_prob[0], evaluated.dense[0], fusion.weight).max(axis=1)

    engine = OnnxEngine(bundle.read("search.onnx"), bundle.config)
    everything, nothing = catalogue.trie.everything, np.empty(0, np.int64)
    first = {}
    for name, given in (("with", known), ("without", None)):
        asked = [
            SearchRequest(
                history.astype(np.int64),
                k=1,
                beam_width=width,
                rule=everything,
                excluded=nothing,
                catalogue=catalogue,
                fusion=fusion,
                neighbours=bundle.neighbours(),
                ranker=given,
            )
            for history in split.histories
        ]
        first[name] = np.array([answer.score[0] for answer in engine.answer(asked, catalogue)])
    np.testing.assert_allclose(first["with"], expected, atol=1e-3)
    assert (np.abs(first["with"] - first["without"]) > 1e-2).any()


def test_vectors_that_users_bring_reach_the_item_vectors(tmp_path: Path) -> None:
    data = write_cycle(tmp_path / "cycle.txt")
    random = np.random.default_rng(1)
    kinds = random.normal(size=(len(KINDS), 20))
    vectors = [(kinds[item // 5] + 0.1 * random.normal(size=20)).tolist() for item in range(ITEMS)]
    table = pl.DataFrame({"item_id": [f"i{item}" for item in range(ITEMS)], "image": vectors})
    table.write_parquet(tmp_path / "items.parquet")
    given = ["--data", data, "--items", tmp_path / "items.parquet", "--vector", "image", "--preset", "demo"]
    given += ["--out", tmp_path / "run", *OPTIONS]

    assert run(app, "etegrec-train", ["run", *map(str, given)]) == 0

    pipeline = Pipeline(RunFolder.open(tmp_path / "run"), SilentProgress())
    assert pipeline.content_encoder is not None
    content = pipeline.content_encoder.trained_vectors(item_features(pipeline.dataset)).numpy()
    kind = np.array([int(item_id[1:]) // 5 for item_id in pipeline.dataset.item_ids])
    nearest = (content @ content.T - 2 * np.eye(ITEMS)).argmax(axis=1)
    assert pipeline.embeddings.shape == (ITEMS, LEARNED + CONTENT)
    assert (kind[nearest] == kind).mean() > 0.9


def test_an_evaluation_whose_ranker_read_other_features_is_made_again(finished: Path, tmp_path: Path) -> None:
    """Else a run of an earlier release could not be published by this one, which cannot read its ranker."""
    again = tmp_path / "run"
    shutil.copytree(finished, again)
    stored = json.loads((again / "evaluation.json").read_text())
    assert stored["ranker_reads"] == list(FEATURES)
    (again / "evaluation.json").write_text(json.dumps(stored | {"ranker_reads": list(FEATURES[:-1])}))
    save_file({"word": np.zeros(3)}, again / "ranker.safetensors")

    assert run(app, "etegrec-train", ["evaluate", str(again)]) == 0
    assert json.loads((again / "evaluation.json").read_text())["ranker_reads"] == list(FEATURES)
    assert not (again / "ranker.safetensors").exists()  # so few users teach none
    assert not (again / "bundle" / "golden.json").exists()  # so the next export is a new one

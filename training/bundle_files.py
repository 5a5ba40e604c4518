"""From a finished run to the files of a bundle, and to the store."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from pydantic import JsonValue
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from model_store.bundle import EMBEDDINGS, TRANSITIONS, VECTORS
from model_store.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.content import CONTENT, content_features
from model_store.errors import BundleRefused
from model_store.fusion import Fusion, best, scores
from model_store.golden import Answer, Golden, compare, goldens_to_json
from model_store.history import encode_histories
from model_store.manifest import REQUIRED_FILES, DataSummary, Description
from model_store.network.bound import BoundSearch
from model_store.network.search import BeamSearch
from model_store.publish import publish
from model_store.registry import Store
from model_store.search_interface import (
    SearchInputs,
    SearchOutputs,
    catalogue_inputs,
    graph_input_names,
    pool_vectors,
    search_inputs,
)
from model_store.transitions import Transitions
from training.content import ContentModel, fit_content, has_content, padded
from training.export import export_content, export_search, export_tokenizer
from training.learner import Learner
from training.pipeline import BUNDLE, EVALUATION, Pipeline
from training.progress import Bar
from training.report.build import write_report

GOLDENS = 24
GOLDEN_ITEMS = 10

CHECKED_ITEMS = 256
"""Items whose predicted embeddings are compared."""

CONTENT_FIT = "content.json"
"""What the run keeps of how well content tells embeddings."""

CLEAR_MARGIN = 1e-3
"""Difference of two squared distances above which rounding cannot decide which code is nearer."""


def export_bundle(pipeline: Pipeline) -> None:
    """Stage ``export``: write all files of the bundle into the run folder, unless they are there.

    The exported search answers the goldens before anything is written.

    Raises:
        BundleRefused: ONNX Runtime and torch disagree on a golden, or on the codes of an item.
    """
    run = pipeline.run
    pipeline.evaluate()
    if all(run.has(f"{BUNDLE}/{name}") for name in REQUIRED_FILES):
        return
    with run.timed("export"), pipeline.progress.track("Exporting to ONNX", 3) as bar:
        files = _files(pipeline, bar)
    for name, data in files.items():
        run.write_bytes(f"{BUNDLE}/{name}", data)


def publish_run(pipeline: Pipeline, store: Store, parent: str | None = None) -> str:
    """Stage ``publish``: seal the exported files as a new version of the store and return its name."""
    export_bundle(pipeline)
    evaluation = pipeline.evaluate()
    folder = pipeline.run.path / BUNDLE
    data = pipeline.dataset
    about = Description(
        config=pipeline.config.model,
        data=DataSummary(
            name=data.name,
            fingerprint=data.fingerprint,
            counts={"users": data.users, "items": data.n_items, "interactions": data.interactions},
        ),
        metrics=evaluation.test,
        tokenizer=evaluation.tokenizer | _content_fit(pipeline),
        fusion=Fusion.model_validate(evaluation.fusion),
        parent=parent,
    )
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return publish(store, files, about)


def _files(pipeline: Pipeline, bar: Bar) -> dict[str, bytes]:
    learner = pipeline.learner
    catalogue = _catalogue(pipeline)
    search = export_search(learner.recommender)
    bar.advance(1)
    tokenizer = export_tokenizer(learner.tokenizer)
    check_tokenizer(tokenizer, learner)
    bar.advance(1)
    content = _content(pipeline, catalogue)
    goldens = _goldens(pipeline, catalogue, search)
    bar.advance(1)
    return {
        "weights.safetensors": save({name: tensor.cpu() for name, tensor in learner.tensors().items()}),
        "search.onnx": search,
        "tokenizer.onnx": tokenizer,
        **content,
        EMBEDDINGS: save(
            {"embeddings": learner.embeddings.cpu().contiguous(), VECTORS: torch.from_numpy(learner.vectors)}
        ),
        TRANSITIONS: save_arrays(pipeline.transitions.arrays()),
        "catalogue.parquet": catalogue.to_parquet(),
        "golden.json": goldens_to_json(goldens),
        **write_report(pipeline),
        f"report/{EVALUATION}": (pipeline.run.path / EVALUATION).read_bytes(),
    }


def check_tokenizer(graph: bytes, learner: Learner) -> None:
    """Refuse an exported tokenizer that encodes an item otherwise than torch does, wherever the choice is clear.

    Raises:
        BundleRefused: Names the first such item's row.
    """
    embeddings = learner.embeddings.cpu()
    ranked, distances = onnxruntime.InferenceSession(graph).run(
        ["codes", "distances"], {"embeddings": embeddings.numpy()}
    )
    with torch.no_grad():
        tokenizer = copy.deepcopy(learner.tokenizer).cpu().eval()
        expected = tokenizer.quantise(tokenizer.latents(embeddings)).codes.numpy()
    # Rounding may decide between near ties; what follows such a level follows another residual.
    is_clear = np.logical_and.accumulate(distances[:, :, 1] - distances[:, :, 0] > CLEAR_MARGIN, axis=1)
    differs = ((ranked[:, :, 0] != expected) & is_clear).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        raise BundleRefused(
            f"tokenizer.onnx gives the item in row {row} the codes {ranked[row, :, 0].tolist()}, "
            f"torch gives {expected[row].tolist()}",
            "check the versions of onnx, onnxscript and onnxruntime against constraints.txt",
        )


def check_content(graph: bytes, model: ContentModel, catalogue: Catalogue) -> None:
    """Refuse an exported content model that predicts another embedding than torch does.

    Raises:
        BundleRefused: They differ by more than rounding.
    """
    columns = zip(catalogue.titles, catalogue.categories, catalogue.attributes, strict=True)
    features, weights = padded([content_features(*item) for item in islice(columns, CHECKED_ITEMS)])
    inputs = {"features": features.numpy(), "weights": weights.numpy()}
    [found] = onnxruntime.InferenceSession(graph).run(["embeddings"], inputs)
    difference = float(np.abs(found - model(features, weights).numpy()).max())
    if not difference < CLEAR_MARGIN:
        raise BundleRefused(
            f"content.onnx predicts embeddings that differ from torch's by {difference:.2g}",
            "check the versions of onnx, onnxscript and onnxruntime against constraints.txt",
        )


def _content(pipeline: Pipeline, catalogue: Catalogue) -> dict[str, bytes]:
    """``content.onnx``; nothing if only ids are known of the items."""
    if not has_content(pipeline.dataset):
        return {}
    model, fit = fit_content(pipeline.dataset, pipeline.learner.embeddings, pipeline.config.seed)
    pipeline.run.write_json(CONTENT_FIT, fit.as_dict())
    graph = export_content(model)
    check_content(graph, model, catalogue)
    return {CONTENT: graph}


def _content_fit(pipeline: Pipeline) -> dict[str, JsonValue]:
    """How well content tells embeddings, for the manifest."""
    return {"content": pipeline.run.read_json(CONTENT_FIT)} if pipeline.run.has(CONTENT_FIT) else {}


def _catalogue(pipeline: Pipeline) -> Catalogue:
    data = pipeline.dataset
    return Catalogue(
        codebook_size=pipeline.config.model.tokenizer.codebook_size,
        item_ids=data.item_ids,
        codes=pipeline.learner.assignment.codes,
        titles=data.titles,
        categories=data.categories,
        attributes=data.attributes,
        popularity=data.popularity("all"),
        vectors=pipeline.learner.vectors,
    )


def _goldens(pipeline: Pipeline, catalogue: Catalogue, search: bytes) -> list[Golden]:
    """Histories of real users with torch's fused answers, which ONNX Runtime must give too."""
    split, model = pipeline.dataset.test(), pipeline.config.model
    fusion = Fusion.model_validate(pipeline.evaluate().fusion)
    chosen = np.random.default_rng(pipeline.config.seed).permutation(len(split.histories))[:GOLDENS]
    histories = [split.histories[row][-model.recommender.max_history :] for row in chosen]
    encoded = encode_histories(histories, catalogue.trie.item_leaf, model.recommender.max_history)
    inputs = search_inputs(encoded, catalogue.trie, model.beam_width, candidates=fusion.candidates)
    torch_search = BoundSearch(BeamSearch(pipeline.learner.recommender.eval()), catalogue.trie, catalogue.vectors)
    answers = partial(_answers, catalogue, fusion, pipeline.transitions, histories)
    expected = answers(torch_search(inputs))
    goldens = [
        Golden(
            history=tuple(catalogue.item_ids[row] for row in history),
            items=tuple(answer.items),
            score=tuple(answer.score),
            log_prob=tuple(answer.log_prob),
        )
        for history, answer in zip(histories, expected, strict=True)
    ]
    compare(goldens, answers(_onnx_outputs(search, inputs, catalogue, model)))
    return goldens


def _onnx_outputs(graph: bytes, inputs: SearchInputs, catalogue: Catalogue, model: ModelConfig) -> SearchOutputs:
    known = catalogue_inputs(catalogue.trie, catalogue.vectors, model.tokenizer.embedding_dim)
    width, candidates = model.tokenizer.embedding_dim, len(inputs.candidates)
    pool = pool_vectors(catalogue.trie, catalogue.vectors, width, candidates)
    feed = dict(zip(graph_input_names(catalogue.trie.levels), [*inputs, *known, pool], strict=True))
    return SearchOutputs(*onnxruntime.InferenceSession(graph).run(None, feed))


def _answers(
    catalogue: Catalogue,
    fusion: Fusion,
    transitions: Transitions,
    histories: Sequence[npt.NDArray[np.integer]],
    outputs: SearchOutputs,
) -> Sequence[Answer]:
    rows, answers = catalogue.trie.leaf_item[outputs.leaves], []
    scored = fusion.dense(outputs.dense, transitions, histories, rows)
    for found, log_prob, dense in zip(rows, outputs.log_prob, scored, strict=True):
        kept = best(log_prob, dense, fusion.weight, GOLDEN_ITEMS)
        item_ids = tuple(catalogue.item_ids[row] for row in found[kept].tolist())
        score = scores(log_prob[kept], dense[kept], fusion.weight)
        answers.append(Answer(item_ids, tuple(score.tolist()), tuple(log_prob[kept].tolist())))
    return answers

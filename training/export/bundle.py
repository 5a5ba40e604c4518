"""Files of a bundle: the export of a finished run, and its publication in the model store.

=========================  ========================================================  ==================================
File                       Content                                                   Written by
=========================  ========================================================  ==================================
weights.safetensors        weights of tokenizer, recommender and heads               :meth:`Learner.tensors`
search.onnx                the whole search as one graph, fp32                       :func:`export_search`
search.int8.onnx           the same with 8-bit layers; left out if too few answers   :func:`_export_int8`
                           stay the same
tokenizer.onnx             item embedding to ranked codes                            :func:`export_tokenizer`
content.onnx               title, categories and attributes to item embedding; left  :func:`_export_content`
                           out if no trained item has any
similar_items.safetensors  which trained items have which words; left out with it    :func:`fit_similar_items`
embeddings.safetensors     raw item embeddings, and unit vectors for dense scores    :func:`_create_embeddings`
neighbours.safetensors     which items stand close to each other                     :meth:`Neighbours.arrays`
ranker.safetensors         what corrects scores; left out if it gains nothing        :meth:`Ranker.arrays`
resemblances.safetensors   what untrained items resemble; left out without them      :meth:`Resemblances.arrays`
catalogue.parquet          ids, codes, titles, categories, attributes, popularity    :meth:`Catalogue.to_parquet`
code_names.parquet         what the items below each prefix of codes have in common  :func:`name_prefixes`
histories.parquet          newest interactions of the users; left out on request      :func:`build_histories`
golden.json                histories with torch's answers                            :meth:`GoldenHistories.goldens`
report/                    the report page and its charts, ``evaluation.json``,      :func:`write_report`
                           ``items_not_served.csv`` if there are any
manifest.json              the seal: checksums, configuration, metrics               :func:`publish`, last of all
=========================  ========================================================  ==================================

:func:`export_bundle` writes all but the manifest into the run folder, :func:`publish_run` adds it in the model store.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow.parquet as pq
import torch
from pydantic import JsonValue
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from model_store.bundle.golden import Golden, compare, goldens_to_json
from model_store.bundle.histories import HISTORIES
from model_store.bundle.manifest import OPTIONAL_FILES, REQUIRED_FILES, DataSummary, Description
from model_store.bundle.parts import CODE_NAMES, NEIGHBOURS, RANKER, RESEMBLANCES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import BundleRefused
from model_store.new_items.features import extract_features
from model_store.new_items.item_encoder import CONTENT_GRAPH, SIMILAR_ITEMS
from model_store.search.fusion import Fusion
from training.artefacts import BUNDLE, EVALUATION
from training.code_names.naming import name_prefixes
from training.content.content_model import ContentModel, fit_content, pad_features
from training.content.similar_items import fit_similar_items
from training.data.prepare import NOT_SERVED
from training.export.catalogue import add_placed_items, trained_catalogue
from training.export.goldens import GoldenHistories
from training.export.histories import build_histories
from training.export.int8 import eight_bit_search
from training.export.onnx_export import export_content, export_search, export_tokenizer
from training.export.traced_graphs import TracedGraphs
from training.joint.learner import Learner
from training.loop.progress import Bar
from training.pipeline import Pipeline
from training.report.build import write_report

CHECKED_AT_ONCE = 8192
"""Items whose codes are compared together."""

CHECKED_ITEMS = 256
"""Items whose predicted embeddings are compared with torch's."""

CONTENT_FIT = "content.json"
"""File of the run with the quality of the content model."""

CLEAR_MARGIN = 1e-3
"""Difference of two squared distances above which rounding cannot change which code is nearer."""


def export_bundle(pipeline: Pipeline, kept: TracedGraphs | None = None) -> None:
    """Run stage ``export``: write all files of the bundle into the run folder, unless they exist.

    The exported search answers the goldens before anything is written.

    Args:
        pipeline: The finished run.
        kept: Keeps the traced graphs for the next run, if given.

    Raises:
        BundleRefused: ONNX Runtime and torch disagree on a golden, or on the codes of an item.
    """
    run = pipeline.run
    pipeline.evaluate()
    if all(run.has(f"{BUNDLE}/{name}") for name in REQUIRED_FILES):
        return

    with run.timed("export"), pipeline.progress.track("Exporting to ONNX", 4) as bar:
        files = _create_files(pipeline, bar, kept)
    for name in OPTIONAL_FILES - files.keys():
        run.remove(f"{BUNDLE}/{name}")  # of an earlier export
    for name, data in files.items():
        run.write_bytes(f"{BUNDLE}/{name}", data)


def publish_run(pipeline: Pipeline, store: ModelStore, parent: str | None = None, key: SigningKey | None = None) -> str:
    """Run stage ``publish``: seal the exported files as a new version of the model store and return its name.

    Args:
        pipeline: The finished run.
        store: The model store.
        parent: The version that was live before.
        key: Signs the version, if given.
    """
    export_bundle(pipeline)
    evaluation = pipeline.evaluate()
    folder = pipeline.run.path / BUNDLE
    data = pipeline.dataset

    about = Description(
        config=pipeline.model,
        data=DataSummary(
            name=data.name,
            fingerprint=data.fingerprint,
            counts=_counts(pipeline),
        ),
        metrics=evaluation.test,
        tokenizer=evaluation.tokenizer | _content_fit(pipeline),
        fusion=Fusion.model_validate(evaluation.fusion),
        parent=parent,
        training=pipeline.config.fingerprint,
        coverage=evaluation.coverage,
    )

    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return publish(store, files, about, key=key)


def _counts(pipeline: Pipeline) -> dict[str, int]:
    """Return the numbers of the manifest: what was trained, what is served besides, and what was set aside."""
    data = pipeline.dataset
    served = pq.read_metadata(pipeline.run.path / BUNDLE / "catalogue.parquet").num_rows
    return {
        "users": data.users,
        "items": data.n_items,
        "interactions": data.interactions,
        "items_served_by_content": served - data.n_items,
        "interactions_set_aside": len(data.set_aside),
    }


def _create_files(pipeline: Pipeline, bar: Bar, kept: TracedGraphs | None) -> dict[str, bytes]:
    """Return all files of the bundle but the manifest, by name. Every exported graph is compared with torch first."""
    learner = pipeline.learner
    trained = trained_catalogue(pipeline)
    fusion = Fusion.model_validate(pipeline.evaluate().fusion)

    search = export_search(learner.recommender, has_dense=fusion.weight > 0, kept=kept)
    bar.advance(1)

    tokenizer = export_tokenizer(learner.tokenizer, kept)
    check_tokenizer(tokenizer, learner)
    files = {
        "weights.safetensors": save({name: tensor.cpu() for name, tensor in learner.tensors().items()}),
        "search.onnx": search,
        "tokenizer.onnx": tokenizer,
        **_export_content(pipeline, trained, kept),
    }
    bar.advance(1)

    served = add_placed_items(pipeline, trained, files)
    catalogue = served.catalogue
    bar.advance(1)

    if len(catalogue.resemblances):
        files[RESEMBLANCES] = save_arrays(catalogue.resemblances.arrays())
    if pipeline.ranker is not None:
        files[RANKER] = save_arrays(pipeline.ranker.arrays())
    histories = GoldenHistories(pipeline, catalogue)
    goldens = histories.goldens()
    compare(goldens, histories.answers(search))
    bar.advance(1)

    names = name_prefixes(catalogue.codes, catalogue.titles, catalogue.categories, catalogue.attributes)
    files |= {
        **_export_int8(pipeline, search, histories, goldens),
        EMBEDDINGS: _create_embeddings(learner, catalogue),
        NEIGHBOURS: save_arrays(pipeline.neighbours.arrays()),
        "catalogue.parquet": catalogue.to_parquet(),
        CODE_NAMES: names.to_parquet(),
        "golden.json": goldens_to_json(goldens),
        **write_report(pipeline, names),
        f"report/{EVALUATION}": (pipeline.run.path / EVALUATION).read_bytes(),
    }
    if pipeline.config.export.histories:
        files[HISTORIES] = build_histories(pipeline.dataset, pipeline.config.export)
    if listed := served.not_served(pipeline.dataset):
        files[f"report/{NOT_SERVED}"] = listed
    for sentence in served.summary(pipeline.dataset):
        pipeline.progress.say(sentence)
    return files


def check_tokenizer(graph: bytes, learner: Learner) -> None:
    """Refuse an exported tokenizer that gives an item other codes than torch does; near ties may differ.

    Raises:
        BundleRefused: An item's codes differ; the message names the row of the first one.
    """
    embeddings = learner.embeddings.cpu()
    tokenizer = copy.deepcopy(learner.tokenizer).cpu().eval()
    session = onnxruntime.InferenceSession(graph)

    # In parts: the graph ranks all codes of every level, 9 KB an item.
    for start in range(0, len(embeddings), CHECKED_AT_ONCE):
        some = embeddings[start : start + CHECKED_AT_ONCE]
        ranked, distances = session.run(["codes", "distances"], {"embeddings": some.numpy()})
        with torch.no_grad():
            expected = tokenizer.quantise(tokenizer.latents(some)).codes.numpy()

        # Rounding may decide between near ties. Levels after a near tie may differ, too: their residual is another one.
        is_clear = np.logical_and.accumulate(distances[:, :, 1] - distances[:, :, 0] > CLEAR_MARGIN, axis=1)
        differs = ((ranked[:, :, 0] != expected) & is_clear).any(axis=1)
        if differs.any():
            row = int(np.argmax(differs))
            raise BundleRefused(
                f"tokenizer.onnx gives the item in row {start + row} the codes {ranked[row, :, 0].tolist()}, "
                f"torch gives {expected[row].tolist()}",
                "check the versions of onnx, onnxscript and onnxruntime against constraints.txt",
            )


def check_content(graph: bytes, model: ContentModel, catalogue: Catalogue) -> None:
    """Refuse an exported content model whose embeddings differ from torch's.

    Raises:
        BundleRefused: They differ by more than rounding.
    """
    columns = zip(catalogue.titles, catalogue.categories, catalogue.attributes, strict=True)
    features, weights = pad_features([extract_features(*item) for item in islice(columns, CHECKED_ITEMS)])
    inputs = {"features": features.numpy(), "weights": weights.numpy()}
    [found] = onnxruntime.InferenceSession(graph).run(["embeddings"], inputs)
    difference = float(np.abs(found - model(features, weights).numpy()).max())
    if not difference < CLEAR_MARGIN:
        raise BundleRefused(
            f"content.onnx predicts embeddings that differ from torch's by {difference:.2g}",
            "check the versions of onnx, onnxscript and onnxruntime against constraints.txt",
        )


def _create_embeddings(learner: Learner, catalogue: Catalogue) -> bytes:
    """Return ``embeddings.safetensors``: raw embeddings and unit vectors of all items, trained or placed.

    Of a placed item the content model predicts only the direction; its embedding gets the mean length of trained ones.
    """
    trained: npt.NDArray[np.float32] = learner.embeddings.detach().cpu().float().numpy()
    vectors = learner.vectors if catalogue.vectors is None else catalogue.vectors
    length = np.linalg.norm(trained, axis=1).mean()
    return save_arrays({"embeddings": np.concatenate([trained, vectors[len(trained) :] * length]), VECTORS: vectors})


def _export_int8(
    pipeline: Pipeline, search: bytes, histories: GoldenHistories, goldens: Sequence[Golden]
) -> dict[str, bytes]:
    """Return ``search.int8.onnx``, or no file if its answers differ too much from the goldens."""
    graph = eight_bit_search(search, pipeline.learner.recommender)
    try:
        for answers in (histories.answers(graph), histories.answers_one_by_one(graph)):
            compare(goldens, answers, reduced_precision=True)
    except BundleRefused as refused:
        pipeline.progress.say(f"The bundle gets no search.int8.onnx. {refused}")
        return {}
    return {"search.int8.onnx": graph}


def _export_content(pipeline: Pipeline, catalogue: Catalogue, kept: TracedGraphs | None) -> dict[str, bytes]:
    """Return what places new items by their content, or no file if no item has a title, categories or attributes."""
    if not pipeline.dataset.has_content:
        return {}

    model, fit = fit_content(
        pipeline.dataset, pipeline.learner.embeddings, pipeline.config.seed, pipeline.content_encoder
    )
    pipeline.run.write_json(CONTENT_FIT, fit.as_dict())
    graph = export_content(model, kept)
    check_content(graph, model, catalogue)

    content_dim = pipeline.model.recommender.content_dim
    index = fit_similar_items(pipeline.dataset, pipeline.learner.embeddings, content_dim)
    return {CONTENT_GRAPH: graph, SIMILAR_ITEMS: save_arrays(index.arrays())}


def _content_fit(pipeline: Pipeline) -> dict[str, JsonValue]:
    """Return the quality of the content model for the manifest, if there is such a model."""
    return {"content": pipeline.run.read_json(CONTENT_FIT)} if pipeline.run.has(CONTENT_FIT) else {}

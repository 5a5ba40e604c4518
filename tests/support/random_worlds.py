"""Small random catalogues, models with random weights, and requests with rules, to test searches with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model_store.catalogue.resemblances import MOST_WORDS
from model_store.config import ModelConfig, RecommenderConfig, TokenizerConfig
from model_store.network.recommender import Recommender
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import SearchInputs, catalogue_inputs, pool_vectors, search_inputs
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Additions, Neighbours, no_additions
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker
from model_store.search.steering import steering_batch
from model_store.semantic_ids.trie import Trie
from tests.support.search_reference import Candidate, ReferenceSearch

Rows = npt.NDArray[np.int64]


def small_config(
    levels: int = 3,
    codebook_size: int = 6,
    collisions: str = "reassign",
    history_tokens: str = "code",
    encoder_attention: str = "bidirectional",
    recency_bias: bool = True,
    layers: int = 2,
    newest_start: bool = False,
    user_encoder: str = "shared",
    low_pass: float = 0.0,
) -> ModelConfig:
    """Return the configuration of a tiny model."""
    return ModelConfig.model_validate(
        {
            "collisions": collisions,
            "tokenizer": TokenizerConfig(
                embedding_dim=6, hidden_dims=(5,), codebook_dim=4, levels=levels, codebook_size=codebook_size
            ),
            "recommender": {
                **RecommenderConfig(
                    d_model=16, d_ff=24, heads=2, head_dim=8, max_history=7, position_buckets=8, max_distance=12
                ).model_dump(),
                "encoder_layers": layers,
                "decoder_layers": layers,
                "history_tokens": history_tokens,
                "encoder_attention": encoder_attention,
                "recency_bias": recency_bias,
                "newest_start": newest_start,
                "user_encoder": user_encoder,
                "low_pass": low_pass,
            },
        }
    )


def random_recommender(config: ModelConfig, seed: int) -> Recommender:
    """Return a model with weights so large that log-probabilities spread and ties do not happen."""
    generator = torch.Generator().manual_seed(seed)
    net = Recommender(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return net


def reference(
    config: ModelConfig,
    net: Recommender,
    codes: npt.NDArray[np.integer],
    vectors: npt.NDArray[np.float32] | None = None,
) -> ReferenceSearch:
    """Return the reference search with the weights of a torch model."""
    return ReferenceSearch(config, {name: value.numpy() for name, value in net.state_dict().items()}, codes, vectors)


def random_codes(rng: np.random.Generator, config: ModelConfig, items: int) -> npt.NDArray[np.int16]:
    """Draw distinct semantic IDs ``[items, L]``."""
    size = config.tokenizer.codebook_size
    levels = config.code_length
    flat = rng.choice(size**levels, items, replace=False)
    return np.stack([flat // size**level % size for level in range(levels)], axis=1).astype(np.int16)


@dataclass(frozen=True)
class Requests:
    """Batch with rules, in the forms that the reference and the graph take."""

    codes: npt.NDArray[np.int16]  # [items, L]
    vectors: npt.NDArray[np.float32]  # [items, d_s], unit length
    trie: Trie
    histories: list[Rows]
    open_items: list[npt.NDArray[np.bool_]]  # by request, rule and exclusions applied
    max_per_prefix: Rows
    width: int
    added: list[dict[int, float]]  # by request, what is added to the dense scores of some rows
    steer: list[dict[tuple[int, ...], float]]  # by request, nats by prefix
    inputs: SearchInputs
    scores_all: bool = True  # whether dense candidates come from all items

    def arrays(self) -> list[npt.NDArray[np.generic]]:
        """Return all inputs of the graph in order."""
        return graph_arrays(self.inputs, self.trie, self.vectors, self.scores_all)

    def tensors(self) -> list[torch.Tensor]:
        """Return the same as tensors."""
        return [torch.from_numpy(array) for array in self.arrays()]

    def answers(
        self, leaves: npt.NDArray[np.int64], log_prob: npt.NDArray[np.float32], dense: npt.NDArray[np.float32]
    ) -> list[tuple[list[Candidate], list[Candidate]]]:
        """Return beams and dense candidates of each request, without empty places."""
        found = []
        for row in zip(leaves, log_prob, dense, strict=True):
            assert not (row[2][row[0] < 0]).any()
            assert np.isneginf(row[1][row[0] < 0]).all()

            listed = [
                (place, Candidate(int(self.trie.leaf_item[leaf]), float(score), float(cosine)))
                for place, (leaf, score, cosine) in enumerate(zip(*row, strict=True))
                if leaf >= 0
            ]
            beams = [one for place, one in listed if place < self.width]
            found.append((beams, [one for place, one in listed if place >= self.width]))
        return found


def graph_arrays(
    inputs: SearchInputs, trie: Trie, vectors: npt.NDArray[np.float32], scores_all: bool = True
) -> list[npt.NDArray[np.generic]]:
    """Return all inputs of the graph; the pool is empty where dense candidates don't come from all items."""
    catalogue = catalogue_inputs(trie, vectors, vectors.shape[1])
    return [
        *inputs,
        *catalogue,
        pool_vectors(trie, vectors, vectors.shape[1], scores_all and len(inputs.candidates) > 0),
    ]


def random_vectors(rng: np.random.Generator, config: ModelConfig, items: int) -> npt.NDArray[np.float32]:
    """Draw item vectors ``[items, d_s]`` of unit length."""
    vectors = rng.normal(size=(items, config.tokenizer.embedding_dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def random_neighbours(rng: np.random.Generator, items: int, pairs: int = 300) -> Neighbours:
    """Draw a memory of neighbours."""
    item, neighbour = np.divmod(np.unique(rng.integers(0, items * items, pairs)), items)
    start = np.searchsorted(item, np.arange(items + 1)).astype(np.int64)
    strength = rng.uniform(0.1, 1, len(neighbour)).astype(np.float32)
    return Neighbours(start, neighbour.astype(np.int32), strength, 0.7, items, skips_history=False)


def random_requests(
    rng: np.random.Generator,
    config: ModelConfig,
    batch: int = 4,
    candidates: int | None = None,
    scores_all: bool = True,
) -> Requests:
    """Draw requests under random rules; without ``candidates``, a random number of dense candidates, sometimes none."""
    size = config.tokenizer.codebook_size
    levels = config.code_length
    items = int(rng.integers(1, min(size**levels, 80) + 1))
    codes = random_codes(rng, config, items)
    trie = Trie.build(codes, size)
    width = int(rng.integers(1, 15))

    histories = [rng.integers(0, items, rng.integers(1, 10)) for _ in range(batch)]
    rules = [rng.random(items) < share for share in (0.3, 0.9)]
    rule_of = rng.integers(0, 2, batch).tolist()
    excluded = [rng.choice(items, rng.integers(0, items // 2 + 1), replace=False) for _ in range(batch)]
    most = rng.integers(1, width + 1, batch)
    open_items = [rules[rule].copy() for rule in rule_of]
    for is_open, rows in zip(open_items, excluded, strict=True):
        is_open[rows] = False

    history = encode_histories(histories, trie.item_leaf, config.recommender.max_history)
    count = int(rng.choice((0, 1, 5, 12, items + 3))) if candidates is None else candidates
    masks = [trie.mask(rule) for rule in rules]
    vectors = random_vectors(rng, config, items)
    added = random_additions(rng, trie, batch)
    steer = random_steering(rng, codes, batch)
    steering = steering_batch(trie, [tuple(each.items()) for each in steer])
    inputs = search_inputs(history, trie, width, masks, rule_of, excluded, most.tolist(), count, added, steering)
    by_row = [
        {int(trie.leaf_item[leaf]): float(value) for leaf, value in zip(*one, strict=True) if leaf >= 0}
        for one in zip(*added, strict=True)
    ]
    return Requests(codes, vectors, trie, histories, open_items, most, width, by_row, steer, inputs, scores_all)


def random_steering(
    rng: np.random.Generator, codes: npt.NDArray[np.int16], batch: int
) -> list[dict[tuple[int, ...], float]]:
    """Draw nats for some prefixes of known and unknown items, by request; for half of all batches none."""
    if rng.random() < 0.5:
        return [{} for _ in range(batch)]
    found: list[dict[tuple[int, ...], float]] = []
    for _ in range(batch):
        rows = rng.integers(0, len(codes), rng.integers(0, 6))
        depths = rng.integers(1, codes.shape[1] + 1, len(rows))
        prefixes = [tuple(codes[row, :depth].tolist()) for row, depth in zip(rows, depths, strict=True)]
        found.append({prefix: float(rng.uniform(-4, 4)) for prefix in [*prefixes, (99,)]})
    return found


def random_additions(rng: np.random.Generator, trie: Trie, batch: int) -> Additions:
    """Draw additions to the dense scores of some leaves, of a size such as cosines have; sometimes none at all."""
    size = int(rng.choice((0, 9)))
    added = no_additions(batch, size)
    for leaves, values in zip(*added, strict=True):
        count = int(rng.integers(0, min(size, trie.items) + 1))
        leaves[:count] = rng.choice(trie.items, count, replace=False)
        values[:count] = rng.uniform(0, 2, count)
    return added


def random_item_words(random: np.random.Generator, items: int, words: int = 12) -> ItemWords:
    """Words of items that have few of them in common; some items have fewer than others, or none."""
    found = ItemWords.nothing(items)
    for row in range(items):
        chosen = random.permutation(words)[: random.integers(0, MOST_WORDS + 1)]
        weight = random.uniform(0.1, 1, len(chosen))
        found.word[row, : len(chosen)] = chosen
        found.weight[row, : len(chosen)] = weight / np.linalg.norm(weight) if len(chosen) else 0
    return found


def random_ranker(random: np.random.Generator, features: CandidateFeatures, hidden: int = 7) -> Ranker:
    """A ranker whose corrections mean nothing, of about the size of cosines."""

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    width = len(FEATURES)
    weights = (draw(hidden, width), draw(hidden, hidden), 0.1 * draw(1, hidden))
    biases = draw(hidden), draw(hidden), draw(1)
    return Ranker(features, draw(width), np.exp(draw(width)), weights, biases, untrained=0.3)

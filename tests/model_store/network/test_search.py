"""The torch search against the NumPy reference, on random catalogues, random models and random rules."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from model_store.config import ModelConfig
from model_store.network.search import BeamSearch
from model_store.search.history_encoding import encode_histories
from model_store.search.interface import BY_REQUEST, search_inputs
from model_store.search.neighbours import Additions
from model_store.semantic_ids.trie import Trie
from tests.support.random_worlds import (
    graph_arrays,
    random_codes,
    random_recommender,
    random_requests,
    random_vectors,
    reference,
    small_config,
)
from tests.support.search_reference import Candidate

SHAPES = [
    small_config(
        2 + index % 2,
        3 + index % 6,
        collisions,
        tokens,
        attention,
        index % 3 > 0,
        newest_start=index % 4 > 1,
        user_encoder=("shared", "own")[index % 5 > 2],
        low_pass=(0.0, 0.7)[index // 2 % 2],
    )
    for index, (collisions, tokens, attention) in enumerate(
        itertools.product(("reassign", "token"), ("code", "item", "vector"), ("bidirectional", "causal"))
    )
]


def run(config: ModelConfig, seed: int, tensors: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with torch.inference_mode():
        leaves, log_prob, dense, by_code = BeamSearch(random_recommender(config, seed))(*tensors)
    found = leaves >= 0
    torch.testing.assert_close(by_code.sum(dim=2)[found], log_prob[found])
    return leaves.numpy(), log_prob.numpy(), dense.numpy()


def close(answer: list[Candidate], expected: list[Candidate], atol: float = 1e-4) -> None:
    """The same items in the same order, with the same scores."""
    assert [one.row for one in answer] == [one.row for one in expected]
    for scores in ("log_prob", "dense"):
        np.testing.assert_allclose(
            [getattr(one, scores) for one in answer], [getattr(one, scores) for one in expected], atol=atol
        )


@pytest.mark.parametrize("config", SHAPES[:4])
def test_every_code_tells_what_it_contributes(config: ModelConfig) -> None:
    requests, net = random_requests(np.random.default_rng(1), config), random_recommender(config, 1)
    judge = reference(config, net, requests.codes, requests.vectors)
    with torch.inference_mode():
        leaves, _, _, by_code = (output.numpy() for output in BeamSearch(net)(*requests.tensors()))
    checked = 0
    for row, history in enumerate(requests.histories):
        for place in {0, requests.width - 1, leaves.shape[1] - 1}:
            if leaves[row, place] >= 0:
                expected = judge.code_scores(history, int(requests.trie.leaf_item[leaves[row, place]]))
                np.testing.assert_allclose(by_code[row, place], expected, atol=1e-4)
                checked += 1
    assert checked


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scores_all", [True, False])
def test_same_items_and_scores_as_the_reference(config: ModelConfig, seed: int, scores_all: bool) -> None:
    rng = np.random.default_rng(seed)
    requests = random_requests(rng, config, scores_all=scores_all)
    judge = reference(config, random_recommender(config, seed), requests.codes, requests.vectors)
    answers = requests.answers(*run(config, seed, requests.tensors()))
    for index, (beams, candidates) in enumerate(answers):
        expected = judge.candidates(
            requests.histories[index],
            requests.width,
            len(requests.inputs.candidates),
            requests.open_items[index],
            int(requests.max_per_prefix[index]),
            requests.added[index],
            requests.steer[index],
            scores_all,
        )
        close(beams, expected[0])
        close(candidates, expected[1])
        assert all(requests.open_items[index][one.row] for one in (*beams, *candidates))


@pytest.mark.parametrize("config", SHAPES[:4])
@pytest.mark.parametrize("candidates", [0, 9])
def test_a_batch_answers_like_single_requests(config: ModelConfig, candidates: int) -> None:
    requests = random_requests(np.random.default_rng(3), config, batch=6, candidates=candidates)
    together = requests.answers(*run(config, 1, requests.tensors()))
    for index in range(6):
        alone = requests.inputs._replace(
            **{name: getattr(requests.inputs, name)[index : index + 1] for name in BY_REQUEST}
        )
        tensors = [torch.from_numpy(a) for a in graph_arrays(alone, requests.trie, requests.vectors)]
        (answer,) = requests.answers(*run(config, 1, tensors))
        for mine, theirs in zip(answer, together[index], strict=True):
            close(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("config", SHAPES[:3])
def test_dense_candidates_change_nothing_about_the_beams(config: ModelConfig) -> None:
    for seed in range(4):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        without, having = (random_requests(each, config, candidates=n) for each, n in ((rng, 0), (other, 7)))
        plain, joined = run(config, 2, without.tensors()), run(config, 2, having.tensors())
        width = without.width
        assert plain[0].shape[1] == width
        assert joined[0].shape[1] == width + 7
        np.testing.assert_array_equal(joined[0][:, :width], plain[0])
        np.testing.assert_allclose(joined[1][:, :width], plain[1], atol=1e-5)


def test_all_items_as_dense_candidates_make_the_answer_exhaustive() -> None:
    """Beams and candidates together are every open item once, whatever the beams missed."""
    config = small_config(levels=3, codebook_size=4)
    requests = random_requests(np.random.default_rng(8), config, candidates=64)
    for (beams, candidates), is_open in zip(
        requests.answers(*run(config, 4, requests.tensors())), requests.open_items, strict=True
    ):
        assert sorted(one.row for one in (*beams, *candidates)) == np.flatnonzero(is_open).tolist()
        assert len(beams) < is_open.sum()  # else there was nothing to show


def test_a_neighbour_that_no_beam_and_no_cosine_finds_is_answered() -> None:
    config = small_config(levels=3, codebook_size=4)
    rng = np.random.default_rng(6)
    codes = random_codes(rng, config, 50)
    vectors = random_vectors(rng, config, 50)
    trie = Trie.build(codes, 4)
    encoded = encode_histories([rng.integers(0, 50, 5)], trie.item_leaf, 7)

    def answered(additions: Additions | None) -> dict[int, float]:
        inputs = search_inputs(encoded, trie, 3, candidates=3, additions=additions)
        tensors = [torch.from_numpy(array) for array in graph_arrays(inputs, trie, vectors)]
        leaves, _, dense = run(config, 2, tensors)
        return dict(zip(leaves[0].tolist(), dense[0].tolist(), strict=True))

    plain = answered(None)
    missed = next(leaf for leaf in range(50) if leaf not in plain)
    found = answered(Additions(np.array([[missed, -1]]), np.array([[3.0, 0.0]], dtype=np.float32)))
    assert missed in found
    assert found[missed] > 2  # a cosine of at least -1, and 3
    assert len(found.keys() & plain.keys()) >= 5


def test_a_wide_beam_equals_scoring_every_item() -> None:
    config = small_config(levels=3, codebook_size=4)
    rng = np.random.default_rng(5)
    codes = random_codes(rng, config, 50)
    history = rng.integers(0, 50, 5)
    judge = reference(config, random_recommender(config, 2), codes)
    exhaustive = sorted(((judge.score(history, row), row) for row in range(50)), reverse=True)
    trie = Trie.build(codes, 4)
    inputs = search_inputs(encode_histories([history], trie.item_leaf, 7), trie, 64)
    tensors = [torch.from_numpy(a) for a in graph_arrays(inputs, trie, random_vectors(rng, config, 50))]
    leaves, log_prob, _ = run(config, 2, tensors)
    assert trie.leaf_item[leaves[0, :50]].tolist() == [row for _, row in exhaustive]
    np.testing.assert_allclose(log_prob[0, :50], [score for score, _ in exhaustive], atol=1e-4)
    assert (leaves[0, 50:] == -1).all()
    assert np.isneginf(log_prob[0, 50:]).all()


def test_probabilities_of_the_whole_catalogue_sum_to_one() -> None:
    config = small_config(levels=2, codebook_size=5, collisions="token")
    codes = random_codes(np.random.default_rng(1), config, 30)
    judge = reference(config, random_recommender(config, 9), codes)
    total = sum(np.exp(judge.score(np.arange(4), row)) for row in range(30))
    assert total == pytest.approx(1.0)


def test_hiding_an_item_does_not_change_the_scores_of_others() -> None:
    config = small_config()
    codes = random_codes(np.random.default_rng(2), config, 40)
    trie, net = Trie.build(codes, 6), random_recommender(config, 4)
    vectors = random_vectors(np.random.default_rng(0), config, 40)
    history = encode_histories([np.arange(5)], trie.item_leaf, 7)

    def scores(hidden: list[int]) -> dict[int, float]:
        inputs = search_inputs(history, trie, 64, excluded_items=[np.array(hidden, dtype=np.int64)])
        with torch.inference_mode():
            tensors = [torch.from_numpy(a) for a in graph_arrays(inputs, trie, vectors)]
            leaves, log_prob, *_ = BeamSearch(net)(*tensors)
        found = leaves[0] >= 0
        rows = trie.leaf_item[leaves[0][found].numpy()].tolist()
        return dict(zip(rows, log_prob[0][found].tolist(), strict=True))

    everything, fewer = scores([]), scores([7, 8, 9])
    assert set(everything) - set(fewer) == {7, 8, 9}
    for row, score in fewer.items():
        assert score == pytest.approx(everything[row], abs=1e-5)


def test_an_only_child_adds_exactly_nothing() -> None:
    config = small_config(levels=3, codebook_size=4)
    codes = np.array([[0, 1, 2], [1, 3, 0]], dtype=np.int16)
    trie = Trie.build(codes, 4)
    inputs = search_inputs(encode_histories([np.array([0])], trie.item_leaf, 7), trie, 2)
    vectors = random_vectors(np.random.default_rng(0), config, 2)
    leaves, log_prob, _ = run(config, 0, [torch.from_numpy(a) for a in graph_arrays(inputs, trie, vectors)])
    judge = reference(config, random_recommender(config, 0), codes)
    first_step = judge._code_log_probs(judge._encode(np.array([0])), np.array([0]), (), [0, 1])
    for leaf, score in zip(leaves[0], log_prob[0], strict=True):
        assert score == pytest.approx(first_step[int(codes[trie.leaf_item[leaf], 0])], abs=1e-5)


def test_teacher_forcing_and_stepwise_decoding_agree() -> None:
    """Training's parallel pass and the search's cached steps must be the same function."""
    for config in SHAPES[2:]:
        net = random_recommender(config, 3)
        rng = np.random.default_rng(0)
        codes = torch.from_numpy(random_codes(rng, config, 9).astype(np.int64))
        vectors = torch.from_numpy(random_vectors(rng, config, 9))
        history, lengths, target = (codes[:5][None], vectors[:5][None]), torch.tensor([5]), codes[7][None, None]
        with torch.inference_mode():
            states = net(*history, lengths, target, lengths[:, None])
            memory = net.encode(*history, lengths)
            bias = net.history_bias(memory, lengths[:, None])
            cache: list[Any] = []
            x = net.start(memory, lengths[:, None])
            torch.testing.assert_close(net.user_vectors(memory, lengths[:, None]), states.user)
            for level in range(config.code_length):
                state, cache = net.step(x, cache, memory, bias, torch.arange(level + 1)[None, None])
                torch.testing.assert_close(state[0, 0], states.decoder[0, 0, level], atol=1e-5, rtol=1e-4)
                x = net.code_embedding[level][target[:, :, level]]


def test_with_causal_attention_one_pass_serves_every_prefix() -> None:
    for tokens in ("item", "code", "vector"):
        config = small_config(history_tokens=tokens, encoder_attention="causal", newest_start=tokens != "item")
        net = random_recommender(config, 8)
        rng = np.random.default_rng(0)
        codes = torch.from_numpy(random_codes(rng, config, 20).astype(np.int64))
        sequence, targets = codes[:6][None], codes[10:16][None]
        vectors = torch.from_numpy(random_vectors(rng, config, 6))[None]
        with torch.inference_mode():
            packed = net(sequence, vectors, torch.tensor([6]), targets, torch.arange(1, 7)[None])
            for prefix in range(1, 7):
                length = torch.tensor([prefix])
                read = sequence[:, :prefix], vectors[:, :prefix]
                alone = net(*read, length, targets[:, prefix - 1 : prefix], length[:, None])
                for mine, single in zip(packed, alone, strict=True):
                    torch.testing.assert_close(mine[:, prefix - 1], single[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", SHAPES)
def test_users_vectors_and_repeats_make_the_dense_scores(config: ModelConfig) -> None:
    requests, net = random_requests(np.random.default_rng(4), config), random_recommender(config, 4)
    judge = reference(config, net, requests.codes, requests.vectors)
    with torch.inference_mode():
        users, repeats = (found.numpy() for found in BeamSearch(net).dense_users(*requests.tensors()))
    for row, history in enumerate(requests.histories):
        scores = requests.vectors @ users[row]
        np.add.at(scores, requests.trie.leaf_item[requests.inputs.history[row]], repeats[row])
        np.testing.assert_allclose(scores, judge.dense_scores(history), atol=1e-5)


@pytest.mark.parametrize("config", SHAPES[:2])
def test_everything_stays_on_the_device_of_the_recommender(config: ModelConfig) -> None:
    # "meta" computes shapes only and, like a GPU, refuses to mix with CPU tensors
    tensors = [tensor.to("meta") for tensor in random_requests(np.random.default_rng(0), config).tensors()]
    outputs = BeamSearch(random_recommender(config, 0).to("meta"))(*tensors)
    assert {output.device.type for output in outputs} == {"meta"}

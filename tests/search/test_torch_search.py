"""The torch search against the NumPy reference, on random catalogues, random models and random rules."""

import itertools

import numpy as np
import pytest
import torch

from model_store.config import ModelConfig
from model_store.history import encode_histories
from model_store.network.search import BeamSearch
from model_store.search_interface import search_inputs
from model_store.trie import Trie
from tests.search.worlds import (
    random_codes,
    random_recommender,
    random_requests,
    reference,
    small_config,
)

SHAPES = [
    small_config(2 + index % 2, 3 + index % 6, collisions, tokens, attention, index % 3 > 0)
    for index, (collisions, tokens, attention) in enumerate(
        itertools.product(("reassign", "token"), ("code", "item"), ("bidirectional", "causal"))
    )
]


def run(config: ModelConfig, seed: int, tensors: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        leaves, log_prob = BeamSearch(random_recommender(config, seed))(*tensors)
    return leaves.numpy(), log_prob.numpy()


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_same_items_and_scores_as_the_reference(config: ModelConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = random_requests(rng, config)
    judge = reference(config, random_recommender(config, seed))
    answers = requests.answers(*run(config, seed, requests.tensors()))
    for index, answer in enumerate(answers):
        expected = judge.search(
            requests.codes[requests.histories[index]],
            requests.codes,
            requests.width,
            requests.open_items[index],
            int(requests.max_per_prefix[index]),
        )
        assert [row for row, _ in answer] == [row for row, _ in expected]
        np.testing.assert_allclose([s for _, s in answer], [s for _, s in expected], atol=1e-4)
        assert all(requests.open_items[index][row] for row, _ in answer)


@pytest.mark.parametrize("config", SHAPES[:4])
def test_a_batch_answers_like_single_requests(config: ModelConfig) -> None:
    requests = random_requests(np.random.default_rng(3), config, batch=6)
    together = requests.answers(*run(config, 1, requests.tensors()))
    for index in range(6):
        alone = requests.inputs._replace(
            **{
                name: getattr(requests.inputs, name)[index : index + 1]
                for name in ("codes", "lengths", "rule_of", "excluded", "max_per_prefix")
            }
        )
        tensors = [torch.from_numpy(a) for a in (*alone, *requests.trie.child_start, *requests.trie.child_code)]
        (answer,) = requests.answers(*run(config, 1, tensors))
        assert [row for row, _ in answer] == [row for row, _ in together[index]]
        np.testing.assert_allclose([s for _, s in answer], [s for _, s in together[index]], atol=1e-5)


def test_a_wide_beam_equals_scoring_every_item() -> None:
    config = small_config(levels=3, codebook_size=4)
    rng = np.random.default_rng(5)
    codes = random_codes(rng, config, 50)
    history = rng.integers(0, 50, 5)
    judge = reference(config, random_recommender(config, 2))
    exhaustive = sorted(((judge.score(codes[history], codes, row), row) for row in range(50)), reverse=True)
    trie = Trie.build(codes, 4)
    inputs = search_inputs(encode_histories([history], codes, 7), trie, 64)
    tensors = [torch.from_numpy(a) for a in (*inputs, *trie.child_start, *trie.child_code)]
    leaves, log_prob = run(config, 2, tensors)
    assert trie.leaf_item[leaves[0, :50]].tolist() == [row for _, row in exhaustive]
    np.testing.assert_allclose(log_prob[0, :50], [score for score, _ in exhaustive], atol=1e-4)
    assert (leaves[0, 50:] == -1).all()
    assert np.isneginf(log_prob[0, 50:]).all()


def test_probabilities_of_the_whole_catalogue_sum_to_one() -> None:
    config = small_config(levels=2, codebook_size=5, collisions="token")
    codes = random_codes(np.random.default_rng(1), config, 30)
    judge = reference(config, random_recommender(config, 9))
    total = sum(np.exp(judge.score(codes[:4], codes, row)) for row in range(30))
    assert total == pytest.approx(1.0)


def test_hiding_an_item_does_not_change_the_scores_of_others() -> None:
    config = small_config()
    codes = random_codes(np.random.default_rng(2), config, 40)
    trie, net = Trie.build(codes, 6), random_recommender(config, 4)
    history = encode_histories([np.arange(5)], codes, 7)

    def scores(hidden: list[int]) -> dict[int, float]:
        inputs = search_inputs(history, trie, 64, excluded_items=[np.array(hidden, dtype=np.int64)])
        with torch.inference_mode():
            tensors = [torch.from_numpy(a) for a in (*inputs, *trie.child_start, *trie.child_code)]
            leaves, log_prob = BeamSearch(net)(*tensors)
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
    inputs = search_inputs(encode_histories([np.array([0])], codes, 7), trie, 2)
    tensors = [torch.from_numpy(a) for a in (*inputs, *trie.child_start, *trie.child_code)]
    leaves, log_prob = run(config, 0, tensors)
    judge = reference(config, random_recommender(config, 0))
    first_step = judge._gains(judge._encode(codes[:1]), 1, (), [0, 1])
    for leaf, score in zip(leaves[0], log_prob[0], strict=True):
        assert score == pytest.approx(first_step[int(codes[trie.leaf_item[leaf], 0])], abs=1e-5)


def test_teacher_forcing_and_stepwise_decoding_agree() -> None:
    """Training's parallel pass and the search's cached steps must be the same function."""
    for config in SHAPES[2:]:
        net = random_recommender(config, 3)
        codes = torch.from_numpy(random_codes(np.random.default_rng(0), config, 9).astype(np.int64))
        history, lengths, target = codes[:5][None], torch.tensor([5]), codes[7][None, None]
        with torch.inference_mode():
            states = net(history, lengths, target, lengths[:, None]).decoder[0, 0]
            memory = net.encode(history, lengths)
            bias, cache, x = net.history_bias(memory, lengths[:, None]), [], net.bos.expand(1, 1, -1)
            for level in range(config.code_length):
                state, cache = net.step(x, cache, memory, bias)
                torch.testing.assert_close(state[0, 0], states[level], atol=1e-5, rtol=1e-4)
                x = net.code_embedding[level][target[:, :, level]]


def test_with_causal_attention_one_pass_serves_every_prefix() -> None:
    for tokens in ("item", "code"):
        config = small_config(history_tokens=tokens, encoder_attention="causal")
        net = random_recommender(config, 8)
        codes = torch.from_numpy(random_codes(np.random.default_rng(0), config, 20).astype(np.int64))
        sequence, targets = codes[:6][None], codes[10:16][None]
        with torch.inference_mode():
            packed = net(sequence, torch.tensor([6]), targets, torch.arange(1, 7)[None])
            for prefix in range(1, 7):
                length = torch.tensor([prefix])
                alone = net(sequence[:, :prefix], length, targets[:, prefix - 1 : prefix], length[:, None])
                for mine, single in zip(packed, alone, strict=True):
                    torch.testing.assert_close(mine[:, prefix - 1], single[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", SHAPES[:2])
def test_everything_stays_on_the_device_of_the_recommender(config: ModelConfig) -> None:
    # "meta" computes shapes only and, like a GPU, refuses to mix with CPU tensors
    tensors = [tensor.to("meta") for tensor in random_requests(np.random.default_rng(0), config).tensors()]
    leaves, log_prob = BeamSearch(random_recommender(config, 0).to("meta"))(*tensors)
    assert (leaves.device.type, log_prob.device.type) == ("meta", "meta")

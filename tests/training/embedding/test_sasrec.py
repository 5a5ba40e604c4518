"""SASRec: what it reads, what it is trained on, and that it learns a pattern with a known answer."""

import io

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from model_store.errors import DataError
from training.data.dataset import Dataset
from training.embedding.sasrec import Sasrec, SasrecConfig, evaluate_sasrec
from training.embedding.training import SasrecResult, SasrecSteps, sasrec_loss, train_sasrec
from training.embedding.windows import Windows, batch_by_length
from training.evaluation.metrics import both_protocols
from training.loop.batches import PADDING, collate
from training.loop.item_softmax import Proposal, full_softmax_loss, sampled_softmax_loss
from training.loop.progress import Bar, PlainProgress, SilentProgress, TerminalProgress, progress_for

ITEMS, USERS = 12, 48
TINY = SasrecConfig(
    embedding_dim=16, layers=1, heads=2, dropout=0.0, max_history=6, learning_rate=0.02, batch_tokens=256, epochs=25
)


def cyclic() -> Dataset:
    """Item i is always followed by item i + 1, the last by the first; users start everywhere, lengths vary."""
    rows = [(f"u{user}", f"i{(user + step) % ITEMS:02}", step) for user in range(USERS) for step in range(5 + user % 9)]
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    return Dataset.from_frame("cyclic", frame, {})


@pytest.fixture(scope="module")
def trained() -> SasrecResult:
    return train_sasrec(cyclic(), TINY, seed=1, progress=SilentProgress())


def test_a_cycle_is_learned_perfectly(trained: SasrecResult) -> None:
    ranks = evaluate_sasrec(trained.model, cyclic().test())
    assert ranks.all_items.tolist() == [0] * USERS
    assert ranks.seen_excluded.tolist() == [0] * USERS
    assert trained.valid["recall@5"] == trained.valid["ndcg@10"] == 1.0
    assert trained.embeddings.shape == (ITEMS, TINY.embedding_dim)
    assert trained.embeddings.dtype == np.float32


def test_training_stops_early_at_the_best_epoch(trained: SasrecResult) -> None:
    assert trained.best_epoch <= trained.epochs <= min(TINY.epochs, trained.best_epoch + TINY.patience)
    again = evaluate_sasrec(trained.model, cyclic().validation()).all_items
    assert trained.valid["ndcg@10"] == pytest.approx(np.mean(1 / np.log2(again + 2.0)))
    tied = trained.model.vectors.detach().numpy()
    np.testing.assert_array_equal(trained.embeddings, tied)
    np.testing.assert_allclose(np.linalg.norm(tied, axis=1), 1.0, atol=1e-5)


def test_same_seed_same_result_and_global_randomness_untouched() -> None:
    config = TINY.model_copy(update={"epochs": 2, "dropout": 0.3})
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (train_sasrec(cyclic(), config, seed, SilentProgress()) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)
    assert not np.array_equal(first.embeddings, other.embeddings)


def test_positions_read_no_future_and_no_padding() -> None:
    torch.manual_seed(0)
    model = Sasrec(TINY, ITEMS).eval()
    items = torch.randint(ITEMS, (3, 6))
    changed = items.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % ITEMS
    with torch.no_grad():
        torch.testing.assert_close(model(items)[:, :4], model(changed)[:, :4])
        torch.testing.assert_close(model(items)[:, :4], model(items[:, :4]))
        assert not torch.allclose(model(items)[:, 4:], model(changed)[:, 4:])


def test_loss_is_the_mean_cross_entropy_over_real_positions() -> None:
    torch.manual_seed(0)
    model = Sasrec(TINY, ITEMS).eval()
    sequences = [np.array([1, 2, 3, 4], dtype=np.int32), np.array([4, 5, 6], dtype=np.int32)]
    batch = collate(Windows(sequences, 6).cut(), np.arange(2))
    assert batch.history.tolist() == [[1, 2, 3], [4, 5, 0]]
    with torch.no_grad():
        model.repeat_bias.weight.copy_(torch.linspace(-1.0, 1.0, 16)[None])
        users = model(batch.history)
        scores = np.stack(
            [
                model.scores(users[:, at], batch.history, torch.tensor([at + 1] * 2)).double().numpy()
                for at in range(batch.history.shape[1])
            ],
            axis=1,
        )
        got = sasrec_loss(model, batch).item()
    log_probability = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    real = [(0, 0, 2), (0, 1, 3), (0, 2, 4), (1, 0, 5), (1, 1, 6)]
    assert got == pytest.approx(-np.mean([log_probability[place] for place in real]), rel=1e-5)


def test_a_sampled_step_has_the_loss_of_all_embeddings_and_changes_only_what_it_read() -> None:
    torch.manual_seed(0)
    config = TINY.model_copy(update={"softmax": "sampled", "negatives": 3})
    model = Sasrec(config, 50).eval()
    before = model.item_embedding.weight.detach().clone()
    windows = Windows([np.array([9, 2, 3, 4], dtype=np.int32), np.array([4, 5, 6], dtype=np.int32)], 6)
    rows, chosen = windows.cut(), np.arange(2)
    batch = collate(rows, chosen)
    candidates = Proposal(windows.targets, 50, 3).candidates(batch.host.items, np.random.default_rng((1, 0, 0)))
    users, items = model.score_factors(batch.select_targets(model(batch.history)))
    additions = model.additions(batch.history, batch.prefix, batch.real, batch.host.prefix)
    expected = sampled_softmax_loss(users, items, batch.items, candidates, batch.all_targets, additions)

    loss = SasrecSteps(model, windows, 10, 1).take(rows, chosen, 0, 0)
    torch.testing.assert_close(loss, expected)
    changed = (model.item_embedding.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [2, 3, 4, 5, 6, 9]


def test_a_cycle_is_learned_from_sampled_items() -> None:
    config = TINY.model_copy(update={"softmax": "sampled", "negatives": 20})
    ranks = evaluate_sasrec(train_sasrec(cyclic(), config, 1, SilentProgress()).model, cyclic().test())
    assert ranks.all_items.tolist() == [0] * USERS


@pytest.mark.parametrize("count", [1, 256, 700])
def test_sliced_cross_entropy_has_the_value_and_gradients_of_the_plain_one(count: int) -> None:
    torch.manual_seed(count)
    hidden, weight = torch.randn(count, 8, requires_grad=True), torch.randn(ITEMS, 8, requires_grad=True)
    targets = torch.randint(ITEMS, (count,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    expected = torch.autograd.grad(3 * plain, (hidden, weight))
    sliced = full_softmax_loss(hidden, weight, targets)
    torch.testing.assert_close(sliced, plain)
    torch.testing.assert_close(torch.autograd.grad(3 * sliced, (hidden, weight)), expected)


def test_what_a_user_had_is_scored_by_how_long_ago_it_was() -> None:
    torch.manual_seed(0)
    model, items = Sasrec(TINY, ITEMS).eval(), torch.tensor([[3, 5, 3, 0]])
    with torch.no_grad():
        user = torch.randn(1, TINY.embedding_dim)
        plain = model.scores(user, items, torch.tensor([3]))
        model.repeat_bias.weight.copy_(torch.arange(1.0, 17.0)[None] * TINY.temperature)
        added = model.scores(user, items, torch.tensor([3])) - plain
    expected = torch.zeros(1, ITEMS)
    expected[0, 5], expected[0, 3] = 2.0, 1.0 + 3.0  # ages 1, and 0 and 2; the 0 behind is padding
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-4)


def test_that_nobody_comes_back_is_learned() -> None:
    """Check that the next item of a cycle is none of the last ones."""
    learned = train_sasrec(cyclic(), TINY, 0, SilentProgress()).model.repeat_bias.weight
    assert (learned[0, :3] < -0.01).all()


@pytest.mark.parametrize("shift", range(4))
def test_windows_have_every_target_exactly_once(shift: int) -> None:
    sequences = [np.arange(100 * length, 100 * length + length, dtype=np.int32) for length in range(1, 15)]
    windows = Windows(sequences, 4)
    rows = windows.cut(shift)
    pieces = [windows.items[start : start + size + 1] for start, size in zip(rows.start, rows.length, strict=True)]
    expected = np.concatenate([sequence[1:] for sequence in sequences])
    np.testing.assert_array_equal(np.sort(np.concatenate([piece[1:] for piece in pieces])), expected)
    np.testing.assert_array_equal(windows.targets, expected)
    np.testing.assert_array_equal(rows.predicted, rows.length)
    assert max(map(len, pieces)) == 5
    for piece in pieces:
        assert len(piece) >= 2
        assert (np.diff(piece) == 1).all()


def test_batches_group_similar_lengths_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, size=500)
    batches = batch_by_length(lengths, 128, rng)
    assert sorted(row for rows in batches for row in rows) == list(range(500))
    padded = [len(rows) * int(lengths[rows].max()) for rows in batches]
    assert max(padded) <= 128
    assert sum(padded) <= 1.1 * lengths.sum()
    assert [rows.tolist() for rows in batch_by_length(np.array([500]), 128, rng)] == [[0]]


def test_an_epoch_trains_on_every_position_once() -> None:
    sequences = cyclic().training_sequences()
    rows, groups = Windows(sequences, TINY.max_history).draw_epoch(TINY.batch_tokens, np.random.default_rng(0))
    batches = [collate(rows, chosen) for chosen in groups]
    trained_on = np.sort(np.concatenate([batch.targets[batch.targets != PADDING].numpy() for batch in batches]))
    np.testing.assert_array_equal(trained_on, np.sort(np.concatenate([sequence[1:] for sequence in sequences])))


def test_evaluation_equals_scoring_one_user_at_a_time(trained: SasrecResult) -> None:
    split = cyclic().test()
    ranks = evaluate_sasrec(trained.model, split)
    for row in range(0, USERS, 7):
        history = torch.from_numpy(split.histories[row][-TINY.max_history :].astype(np.int64))
        with torch.no_grad():
            user = trained.model(history[None])[:, -1]
            scores = trained.model.scores(user, history[None], torch.tensor([len(history)])).numpy()
        alone = both_protocols(scores, split._replace(histories=[split.histories[row]], targets=split.targets[[row]]))
        assert (ranks.all_items[row], ranks.seen_excluded[row]) == (alone.all_items[0], alone.seen_excluded[0])


def test_unusable_settings_and_data_are_errors() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        SasrecConfig(temperature=0.0)
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["a", "b"], "timestamp": [1, 2]})
    with pytest.raises(DataError, match="four interactions"):
        train_sasrec(Dataset.from_frame("short", frame, {}), TINY, 0, SilentProgress())


def test_progress_is_plain_off_a_terminal_and_shows_the_metric() -> None:
    stream = io.StringIO()
    progress = progress_for(stream)
    assert isinstance(progress, PlainProgress)
    with progress.track("SASRec", 4) as bar:
        bar.advance(3, note="NDCG@10 0.0500")
    progress.say("done")
    assert stream.getvalue() == "SASRec: 75%, 0 s, ended, NDCG@10 0.0500\ndone\n"


def test_progress_is_a_bar_on_a_terminal_and_silent_when_quiet() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = progress_for(stream)
    assert isinstance(progress, TerminalProgress)
    with progress.track("SASRec", 2) as bar:
        step: Bar = bar
        step.advance(1, note="NDCG@10 0.0500")
    assert "50%" in stream.getvalue()
    assert "NDCG@10 0.0500" in stream.getvalue()
    assert isinstance(progress_for(stream, quiet=True), SilentProgress)

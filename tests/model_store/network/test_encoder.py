"""The low-pass filter of the history encoder."""

import numpy as np
import pytest
import torch

from model_store.network.encoder import EncoderShape, HistoryEncoder
from model_store.network.layers import LowPass

SHAPE = EncoderShape(
    d_model=8,
    d_ff=8,
    heads=2,
    head_dim=4,
    layers=2,
    position_buckets=8,
    max_distance=16,
    is_causal=True,
    low_pass=0.7,
)


def encoder(shape: EncoderShape) -> HistoryEncoder:
    torch.manual_seed(1)
    return HistoryEncoder(shape, dropout=0.0).eval()


def test_slow_waves_pass_and_quick_ones_do_not() -> None:
    """At the newest token of a full window the filter is a Fourier transform's, which keeps frequencies below 5."""
    turn = 2 * np.pi * np.arange(LowPass.WINDOW) / LowPass.WINDOW
    weight = LowPass()(torch.arange(LowPass.WINDOW)).double()  # of the newest token, the one before it, ...
    for frequency in range(LowPass.WINDOW // 2):
        wave = torch.from_numpy(np.cos(frequency * turn))
        assert float(weight @ wave) == pytest.approx(float(frequency < LowPass.FREQUENCIES), abs=1e-6)


def test_tokens_beyond_the_window_do_not_count() -> None:
    far = torch.tensor([LowPass.WINDOW, LowPass.WINDOW + 1, -LowPass.WINDOW, 10_000])
    assert torch.equal(LowPass()(far), torch.zeros(4))
    assert torch.equal(LowPass()(torch.tensor([-3])), LowPass()(torch.tensor([3])))


def test_a_causal_filter_reads_nothing_that_follows() -> None:
    x = torch.randn(1, 70, 8)
    changed = x.clone()
    changed[:, 40:] = torch.randn(1, 30, 8)
    before, after = (encoder(SHAPE)(each, None) for each in (x, changed))
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40], after[:, 40])


@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_is_not_read(is_causal: bool) -> None:
    shape = SHAPE._replace(is_causal=is_causal)
    x = torch.randn(2, 9, 8)
    lengths = torch.tensor([5, 9])
    alone = encoder(shape)(x[:1, :5], lengths[:1])
    torch.testing.assert_close(encoder(shape)(x, lengths)[:1, :5], alone)


def test_without_a_share_there_is_no_filter() -> None:
    shape = SHAPE._replace(low_pass=0.0)
    assert encoder(shape).filter is None
    x = torch.randn(1, 6, 8)
    assert not torch.allclose(encoder(shape)(x, None), encoder(SHAPE)(x, None))

"""Training with products in bf16: it learns, its losses are close to fp32's, and what is sensitive stays fp32."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from model_store.network.layers import Dropout, RmsNorm
from tests.support.training_forks import cyclic
from tests.training.joint.test_training import ROWS, cycle, make_config, make_learner, some_batch
from training.config import PRESETS, load_config
from training.embedding.sasrec import SasrecConfig
from training.embedding.training import train_sasrec
from training.evaluation.full_ranking import generative_ranks
from training.evaluation.metrics import recall
from training.joint.learner import Learner
from training.joint.phase_losses import JointConfig, joint_losses, weighted_sum
from training.joint.training import train_joint
from training.loop.batches import TrainingRows, collate, training_rows
from training.loop.compute import ComputeConfig, compiled_layers, replace_dropout
from training.loop.item_softmax import Candidates, full_softmax_loss, sampled_softmax_loss
from training.loop.progress import SilentProgress

BF16 = ComputeConfig(precision="bf16")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def learner_in(compute: ComputeConfig, attention: str = "causal") -> Learner:
    learner = make_learner(make_config(attention))
    learner.compute = compute
    return learner


def some_rows(learner: Learner) -> TrainingRows:
    return training_rows(cycle()[0], learner.model.recommender.max_history, packed=True)


def step(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of one batch, and gradients by parameter."""
    config = JointConfig()
    losses = joint_losses(learner, some_batch(learner.model), learner.tree(ROWS), config)
    weighted_sum(losses, config).backward()
    named = {**dict(learner.recommender.named_parameters()), **dict(learner.tokenizer.named_parameters())}
    return losses, {name: each.grad for name, each in named.items() if each.grad is not None}


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_losses_and_gradients_are_close_to_those_of_fp32(attention: str) -> None:
    (exact, exact_gradients), (found, gradients) = (
        step(learner_in(compute, attention)) for compute in (ComputeConfig(), BF16)
    )
    assert found.keys() == exact.keys() == {"rec", "dense", "sq", "sia", "psa"}
    torch.testing.assert_close(found, exact, rtol=0.02, atol=1e-4)
    assert found["rec"].item() != exact["rec"].item()
    assert found["sq"].item() == exact["sq"].item()  # the tokenizer's alone
    assert gradients.keys() == exact_gradients.keys()
    flat, wanted = (torch.cat([each.flatten() for each in all_.values()]) for all_ in (gradients, exact_gradients))
    assert flat.dtype == torch.float32
    assert torch.cosine_similarity(flat, wanted, dim=0) > 0.99


class Softmaxes(TorchDispatchMode):
    """Notes the precision of every softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default):
            self.seen.add(found.dtype)
        return found


def test_products_are_bf16_and_what_is_sensitive_is_not() -> None:
    learner, seen = learner_in(BF16), dict[str, set[torch.dtype]]()

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Tensor) -> None:
            seen.setdefault(name, set()).add(out.dtype)

        return hook

    for module in learner.recommender.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(note("product"))
        if isinstance(module, RmsNorm):
            module.register_forward_hook(note("norm"))
    for module in learner.tokenizer.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(note("tokenizer"))
    with Softmaxes() as softmaxes:
        losses, _ = step(learner)
    fp32 = {torch.float32}
    assert seen == {"product": {torch.bfloat16}, "norm": fp32, "tokenizer": fp32}
    assert softmaxes.seen == fp32
    assert {loss.dtype for loss in losses.values()} == fp32


@pytest.mark.parametrize("is_sampled", [False, True])
def test_both_softmax_losses_are_exact_inside_autocast(is_sampled: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(40, (9,))
    candidates = Candidates(torch.arange(0, 40, 2), torch.randn(20))

    def loss() -> Tensor:
        if is_sampled:
            return sampled_softmax_loss(hidden, weight, targets, candidates)
        return full_softmax_loss(hidden, weight, targets)

    wanted = loss()
    with torch.autocast("cpu", torch.bfloat16):
        assert (hidden @ weight.T).dtype == torch.bfloat16
        found = loss()
    assert found.item() == wanted.item()
    torch.testing.assert_close(*(torch.autograd.grad(each, (hidden, weight)) for each in (found, wanted)))


def test_sasrec_learns_in_bf16() -> None:
    shape = {"embedding_dim": 16, "layers": 1, "heads": 2, "dropout": 0.0, "max_history": 6, "batch_tokens": 256}
    config = SasrecConfig.model_validate({**shape, "learning_rate": 0.02, "epochs": 20})
    found, exact = (
        train_sasrec(cyclic(), config, 1, SilentProgress(), compute=each) for each in (BF16, ComputeConfig())
    )
    assert found.valid["recall@5"] == 1.0
    first = found.history[0]["loss"]
    assert first == pytest.approx(exact.history[0]["loss"], rel=0.02)
    assert first != exact.history[0]["loss"]
    assert found.history[-1]["loss"] < 0.2 * first


def test_joint_training_learns_in_bf16() -> None:
    learner = learner_in(BF16)
    sequences, valid = cycle()
    config = JointConfig(epochs=16, cycle=4, targets_per_batch=32, recommender_rate=1e-2, validate_every=16)
    train_joint(learner, sequences, valid, config, 1, SilentProgress())
    ranks = generative_ranks(learner.recommender, learner.assignment.codes, valid, 10)
    assert recall(ranks.all_items, 1) >= 0.9
    assert {each.dtype for each in learner.recommender.parameters()} == {torch.float32}


def test_torchs_dropout_takes_the_place_of_the_layers_own() -> None:
    network = make_learner(make_config("causal", dropout=0.25)).recommender
    names = list(network.state_dict())
    before = [module.dropped for module in network.modules() if isinstance(module, Dropout)]
    replace_dropout(network)
    assert not any(isinstance(module, Dropout) for module in network.modules())
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates == [dropped / 256 for dropped in before] == [0.25] * len(rates)
    assert list(network.state_dict()) == names


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it, and hides what it provokes
def test_compiled_layers_compute_the_same_whatever_the_sizes_and_are_put_back() -> None:
    learner, counter = make_learner(make_config("causal")), CompileCounterWithBackend("aot_eager")
    network, tree = learner.recommender.train(), learner.tree(ROWS)
    plain = [vars(module).keys() for module in network.modules()]
    rows, compiled = some_rows(learner), []
    for chosen in ([0, 9, 3], [7, 8, 9, 10, 4], [5, 6, 7, 20]):
        batch = collate(rows, np.array(chosen))
        inputs = tree.codes[batch.history], tree.vectors[batch.history], batch.lengths
        targets = tree.codes[batch.targets.clamp(min=0)]
        wanted = network(*inputs, targets, batch.prefix)
        with compiled_layers(network, counter):
            found = network(*inputs, targets, batch.prefix)
        torch.testing.assert_close(found, wanted)
        slopes = [torch.autograd.grad(each.decoder.square().sum(), network.code_embedding) for each in (found, wanted)]
        torch.testing.assert_close(*slopes)
        compiled.append(counter.frame_count)
    assert compiled[0] > 2  # an encoder layer, and both methods of a decoder layer
    assert compiled == [compiled[0]] * 3
    assert [vars(module).keys() for module in network.modules()] == plain


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it, and hides what it provokes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_compiled_training_learns_what_a_cpu_learns(precision: Literal["fp32", "bf16"]) -> None:
    """Also that the compiler is there: on a CPU it would need a C++ compiler, and a minute."""
    shape = {"embedding_dim": 16, "layers": 1, "heads": 2, "dropout": 0.0, "max_history": 6, "batch_tokens": 256}
    config = SasrecConfig.model_validate({**shape, "learning_rate": 0.02, "epochs": 20})
    compute = ComputeConfig(precision=precision, compile="gpu")
    found = train_sasrec(cyclic(), config, 1, SilentProgress(), "cuda", compute=compute)
    exact = train_sasrec(cyclic(), config, 1, SilentProgress())
    assert found.valid["recall@5"] == 1.0
    assert found.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.05)


def test_only_the_papers_preset_asks_for_a_gpu() -> None:
    assert {preset: load_config(preset).compute for preset in PRESETS} == {
        **dict.fromkeys(PRESETS, ComputeConfig()),
        "paper": ComputeConfig(precision="bf16", compile="gpu"),
    }

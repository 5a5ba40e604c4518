"""The ablation, really trained at a tiny size: what each row does and does not train, equal budgets, unseen users."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store.console import run
from model_store.errors import CheckpointError, ConfigError, DataError
from tests.support.tiny import OVERRIDES, set_options, write_cycle
from training.cli import app
from training.config import load_config
from training.data.dataset import Dataset
from training.data.prepare import PrepareOptions, prepare
from training.data.storage import load_dataset
from training.joint.learner import new_learner
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder
from training.studies.ablation import Ablation
from training.studies.ablation_report import compute_figure
from training.studies.ablation_rows import FULL, ROWS, chosen_rows, joint_epochs, row_config
from training.studies.held_out_users import leave_out

TINY = [
    "sasrec.epochs=4",
    "tokenizer.epochs=20",
    "joint.epochs=8",
    "joint.alignment_from=2",
    "joint.targets_per_batch=128",
    "joint.tokenizer_rate=2e-2",
    "joint.recommender_rate=2e-2",
]
RECOMMENDER_EPOCHS = 2 + 3 + 3  # before alignment, in three cycles of two, fine-tuning
KEYS = [row.key for row in ROWS]


def etegrec_train(*arguments: object) -> int:
    return run(app, "etegrec-train", [str(argument) for argument in arguments])


def arguments(folder: Path, *extra: object) -> list[object]:
    where = ["--data", folder / "cycle.txt", "--preset", "demo", "--out", folder / "ablation"]
    return ["ablate", *where, *set_options(TINY), "--unseen-users", "0.2", *extra]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows of two seeds, a fifth of the users left out."""
    folder = tmp_path_factory.mktemp("ablate")
    write_cycle(folder / "cycle.txt")
    assert etegrec_train(*arguments(folder, "--seeds", 2)) == 0
    return folder


def opened(folder: Path, row: str, seed: int = 42) -> Pipeline:
    return Pipeline(RunFolder.open(folder / "ablation" / f"seed-{seed}" / row), SilentProgress())


def fresh(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    """A run's recommender before its first step."""
    learner = new_learner(pipeline.model, pipeline.tokenizer, pipeline.embeddings, pipeline.config.seed)
    return learner.recommender.state_dict()


def result(folder: Path, capsys: pytest.CaptureFixture[str], *extra: object) -> Any:
    capsys.readouterr()
    assert etegrec_train(*arguments(folder, *extra, "--json")) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_every_row_has_mean_spread_and_paired_difference(ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(ablated, capsys, "--seeds", 2)
    rows = {row["row"]: row for row in found["ablation"]}
    assert list(rows) == KEYS
    for key, row in rows.items():
        assert row["seeds"] == 2
        for part in ("valid", "test", "unseen"):
            own = row[part]["generative"]["ndcg@10"]
            by_seed = [measured(ablated, key, seed, part) for seed in (42, 43)]
            assert own["mean"] == pytest.approx(np.mean(by_seed))
            assert own["std"] == pytest.approx(np.std(by_seed, ddof=1))
            if key == "full":
                assert own["difference"] is None
                continue
            paired = [
                value - measured(ablated, "full", seed, part) for value, seed in zip(by_seed, (42, 43), strict=True)
            ]
            assert own["difference"] == pytest.approx(np.mean(paired))
            assert own["standard_error"] == pytest.approx(np.std(paired, ddof=1) / math.sqrt(2))
    assert len({row["test"]["generative"]["ndcg@10"]["mean"] for row in rows.values()}) > 3


def measured(folder: Path, row: str, seed: int, part: str) -> float:
    run = opened(folder, row, seed).run
    found = run.read_json("unseen.json") if part == "unseen" else run.read_json("evaluation.json")[part]
    value: float = found["generative"]["ndcg@10"]
    return value


def test_the_table_names_rows_seeds_and_budget(ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert etegrec_train(*arguments(ablated, "--seeds", 2)) == 0
    printed = capsys.readouterr().out
    assert all(row.title in printed for row in ROWS)
    assert "users left out of it (32 of 160 over the seeds)" in printed
    assert "Budget: every row's recommender makes the same number of passes" in printed


def test_the_budget_is_equal(ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(ablated, capsys, "--seeds", 2)
    assert found["budget"]["recommender_epochs"] == RECOMMENDER_EPOCHS
    assert found["budget"]["targets_per_epoch"] == [64 * 7, 64 * 7]  # of ten interactions two are held out
    tokenizer_epochs = {row["row"]: row["tokenizer_epochs"] for row in found["ablation"]}
    assert [row["recommender_epochs"] for row in found["ablation"]] == [RECOMMENDER_EPOCHS] * len(KEYS)
    assert {tokenizer_epochs[key] for key in ("full", "no-sia", "no-psa", "no-alignment")} == {3}
    assert tokenizer_epochs["no-alternating"] == 3  # in the recommender's own epochs
    assert {tokenizer_epochs[key] for key in ("frozen", "fresh-recommender")} == {0}


def test_the_rows_of_a_seed_share_embeddings_and_tokenizer(ablated: Path) -> None:
    for seed in (42, 43):
        full = opened(ablated, "full", seed)
        for key in KEYS[1:]:
            own = opened(ablated, key, seed)
            assert torch.equal(own.embeddings, full.embeddings)
            assert "embed" not in own.run.seconds
            assert "tokenizer" not in own.run.seconds
            if key != "fresh-recommender":
                assert torch.equal(own.tokenizer.codebooks, full.tokenizer.codebooks)
    assert not torch.equal(
        opened(ablated, "full", 42).tokenizer.codebooks, opened(ablated, "full", 43).tokenizer.codebooks
    )


def test_frozen_codes_never_change_and_full_ones_do(ablated: Path) -> None:
    frozen, full = opened(ablated, "frozen"), opened(ablated, "full")
    pretrained = new_learner(full.model, full.tokenizer, full.embeddings, full.config.seed).assignment.codes
    np.testing.assert_array_equal(frozen.learner.assignment.codes, pretrained)
    assert all("codes_changed" not in epoch for epoch in frozen.learner.history)
    assert (full.learner.assignment.codes != pretrained).any()


def test_final_codes_go_to_a_fresh_recommender(ablated: Path) -> None:
    retrained, full = opened(ablated, "fresh-recommender").learner, opened(ablated, "full").learner
    np.testing.assert_array_equal(retrained.assignment.codes, full.assignment.codes)
    assert not torch.equal(retrained.recommender.code_embedding, full.recommender.code_embedding)
    assert all(set(epoch).isdisjoint({"sq", "sia", "psa"}) for epoch in retrained.history)


@pytest.mark.parametrize(
    ("row", "sequence", "preference"),
    [
        ("full", True, True),
        ("no-sia", False, True),
        ("no-psa", True, False),
        ("no-alignment", False, False),
        ("no-alternating", True, True),
        ("frozen", False, False),
    ],
)
def test_a_loss_that_is_off_teaches_its_adapter_nothing(
    ablated: Path, row: str, sequence: bool, preference: bool
) -> None:
    pipeline = opened(ablated, row)
    before, after = fresh(pipeline), pipeline.learner.recommender.state_dict()
    for adapter, learns in (("sequence_adapter", sequence), ("preference_adapter", preference)):
        biases = [name for name in before if name.startswith(adapter) and before[name].ndim == 1]
        assert len(biases) >= 2  # weight decay moves matrices whatever the losses; biases move by gradients alone
        assert any(not torch.equal(before[name], after[name]) for name in biases) == learns


def test_without_alternating_both_networks_learn_in_the_same_epochs(ablated: Path) -> None:
    history = opened(ablated, "no-alternating").learner.history
    assert [{"rec", "sq"} <= set(epoch) for epoch in history] == [False] * 2 + [True] * 3 + [False] * 3
    assert all(("rec" in epoch) != ("sq" in epoch) for epoch in opened(ablated, "full").learner.history)


def test_a_second_call_trains_nothing(ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ablated / "ablation").rglob("*.safetensors")}
    assert sum(path.name == "finetune.safetensors" for path in before) == 2 * len(KEYS)
    first = result(ablated, capsys, "--seeds", 2)
    assert result(ablated, capsys, "--seeds", 2, "--finished-only") == first
    assert {path: path.stat().st_mtime_ns for path in (ablated / "ablation").rglob("*.safetensors")} == before


def test_a_lost_row_is_redone_alone_and_the_table_does_without_it(
    ablated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ablated / "ablation" / "seed-43" / "no-psa"
    complete = result(ablated, capsys, "--seeds", 2)
    (row / "unseen.json").unlink()
    (row / "finetune.safetensors").unlink()
    rest = [path for path in (ablated / "ablation").rglob("*.safetensors") if not path.is_relative_to(row)]
    before = {path: path.stat().st_mtime_ns for path in rest}
    partial = {
        found["row"]: found["seeds"] for found in result(ablated, capsys, "--seeds", 2, "--finished-only")["ablation"]
    }
    assert partial == {key: 1 if key == "no-psa" else 2 for key in KEYS}
    assert result(ablated, capsys, "--seeds", 2) == complete
    assert {path: path.stat().st_mtime_ns for path in rest} == before


def test_unseen_users_are_absent_from_training(ablated: Path, tmp_path: Path) -> None:
    everyone = prepare(str(ablated / "cycle.txt"), tmp_path, PrepareOptions(), lambda line: None)
    row_of = {user_id: row for row, user_id in enumerate(everyone.user_ids)}
    for seed in (42, 43):
        left = leave_out(everyone, 0.2, seed)
        assert len(left.unseen.targets) == 16
        absent = set(everyone.user_ids.gather(left.unseen.users).to_list())
        for key in KEYS:
            seen = opened(ablated, key, seed).dataset
            assert absent.isdisjoint(seen.user_ids)
            assert seen.users == everyone.users - len(absent)
            for user, user_id in enumerate(seen.user_ids):
                np.testing.assert_array_equal(seen.sequence(user), everyone.sequence(row_of[user_id]))
        for history, target, user in zip(*left.unseen, strict=True):
            np.testing.assert_array_equal([*history, target], everyone.sequence(user))
    draws = [set(leave_out(everyone, 0.2, seed).unseen.users.tolist()) for seed in (42, 43)]
    assert draws[0] != draws[1]


def test_nobody_is_left_out_if_so_asked(tmp_path: Path) -> None:
    write_cycle(tmp_path / "cycle.txt", users=20)
    config = load_config("demo", [*OVERRIDES, *TINY, "joint.epochs=4", "sasrec.epochs=1", "tokenizer.epochs=1"])
    source, out = str(tmp_path / "cycle.txt"), tmp_path / "out"
    report = Ablation(out, config, source, [FULL], 1, 0.0, SilentProgress()).run()
    assert load_dataset(out / "data").users == 20
    assert not (out / "seed-42" / "data").exists()
    assert report.budget.seen_users == [20]
    assert report.budget.unseen_users == [0]
    [row] = report.ablation
    assert row.unseen == {}
    assert row.test["generative"]["ndcg@10"].std is None
    with pytest.raises(CheckpointError, match="another unseen_users"):
        Ablation(out, config, source, [FULL], 1, 0.5, SilentProgress()).run()
    longer = load_config("demo", [*OVERRIDES, *TINY])
    with pytest.raises(CheckpointError, match="another config"):
        Ablation(out, longer, source, [FULL], 1, 0.0, SilentProgress()).report()


def test_a_source_that_cannot_be_read_leaves_the_folder_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert etegrec_train(*arguments(tmp_path)) == 4
    assert "cycle.txt does not exist" in capsys.readouterr().err
    assert etegrec_train(*arguments(tmp_path, "--finished-only")) == 0
    assert "no row is finished" in capsys.readouterr().out
    assert not (tmp_path / "ablation").exists()


def test_data_that_changed_since_is_refused(ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ablated / "cycle.txt"
    whole = data.read_text()
    try:
        data.write_text(whole + "late i1 i2 i3 i4 i5\n")
        assert etegrec_train(*arguments(ablated, "--seeds", 2)) == 5
        assert "the data changed" in capsys.readouterr().err
    finally:
        data.write_text(whole)
    assert etegrec_train(*arguments(ablated, "--seeds", 2)) == 0


def test_rows_have_the_full_methods_configuration_but_for_their_difference() -> None:
    config = load_config("demo", [*OVERRIDES, *TINY])
    assert joint_epochs(config) == 5
    for row in ROWS:
        own = row_config(row, config, seed=7)
        changed = {key for key in own.joint.model_dump() if getattr(own.joint, key) != getattr(config.joint, key)}
        assert changed - {"epochs"} == set(row.joint)
        assert own.joint.epochs == (8 if row.key in ("full", "no-sia", "no-psa", "no-alignment") else 5)
        assert own.finetune.patience == own.finetune.epochs == 3
        others = {"seed": config.seed, "joint": config.joint, "finetune": config.finetune}
        assert own.seed == 7
        assert own.model_copy(update=others) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("joint.sia_weight=0", "starts from the full method"),
        ("joint.tokenizer=frozen", "starts from the full method"),
        ("joint.alternating=false", "starts from the full method"),
        ("joint.alignment_from=99", "trains only one network"),
    ],
)
def test_an_ablation_of_less_than_the_full_method_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        joint_epochs(load_config("demo", [override]))


def test_rows_are_chosen_by_key_and_full_is_always_there() -> None:
    assert [row.key for row in chosen_rows([])] == KEYS
    assert [row.key for row in chosen_rows(["frozen", "no-sia"])] == ["full", "no-sia", "frozen"]
    with pytest.raises(ConfigError, match="no row 'best'"):
        chosen_rows(["best"])


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_share_that_leaves_nobody_on_a_side_is_refused(share: float, tmp_path: Path) -> None:
    everyone: Dataset = prepare(str(write_cycle(tmp_path / "c.txt")), tmp_path, PrepareOptions(), lambda line: None)
    with pytest.raises(DataError, match="leaves"):
        leave_out(everyone, share, 0)


def test_a_figure_pairs_by_seed() -> None:
    found = compute_figure({1: 0.5, 2: 0.7, 3: 0.9}, {1: 0.4, 2: 0.4})
    assert found.mean == pytest.approx(0.7)
    assert found.std == pytest.approx(0.2)
    assert found.difference == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.1)
    alone = compute_figure({1: 0.5}, {1: 0.25})
    assert (alone.std, alone.difference, alone.standard_error) == (None, 0.25, None)

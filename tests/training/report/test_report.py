"""The report of a really trained run: its numbers are the evaluation's, its pictures decode and show something."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store.bundle.registry import ModelStore
from tests.support.reported_runs import CHARTS, NASTY, Reader, etegrec_train, rectangles
from tests.support.tiny import ITEMS
from training.artefacts import RANKS
from training.code_names.naming import name_prefixes
from training.diagnostics.beam_survival import codes_kept, sampled_codes_kept
from training.evaluation.full_ranking import generative_ranks
from training.evaluation.metrics import Ranks, recall
from training.pipeline import Pipeline
from training.report.accuracy import fate_shares, hits
from training.report.answers import best_model, tokenizer_state
from training.report.build import all_charts
from training.report.contents import Contents
from training.report.notes import coverage_note, show_interval
from training.report.page import render_page, title_text
from training.report.style import Chart, draw_png, drawable, model_name
from training.report.tree import top_branches
from training.run_folder import RunFolder
from training.user_ranks import UserRanks


def test_the_bundle_of_a_run_has_the_report(finished: Path, tmp_path: Path) -> None:
    names = {"index.html", *(f"{name}.png" for name in CHARTS)}
    assert {path.name for path in (finished / "report").iterdir()} == names
    assert {path.name for path in (finished / "bundle" / "report").iterdir()} == {*names, "evaluation.json"}
    assert etegrec_train("publish", finished, "--store", tmp_path, "--promote") == 0
    bundle = ModelStore(tmp_path).bundle()
    bundle.verify()
    served = bundle.catalogue()
    code_names = name_prefixes(served.codes, served.titles, served.categories, served.attributes)
    assert bundle.code_names().to_parquet() == code_names.to_parquet()
    assert bundle.read("report/index.html") == (finished / "report" / "index.html").read_bytes()


def test_the_command_rebuilds_the_same_report(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (finished / "report").iterdir()}
    for path in before:
        path.unlink()
    (finished / "bundle" / "report" / "index.html").write_text("old")
    assert etegrec_train("report", finished, "--json") == 0
    written = Path(json.loads(capsys.readouterr().out)["report"])
    assert written == finished / "report" / "index.html"
    # Stages that come after the first report, such as export, add their seconds; nothing else may differ.
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed <= {"index.html", "seconds.png"}
    assert (finished / "bundle" / "report" / "index.html").read_bytes() == written.read_bytes()


def test_a_run_from_before_reports_measures_what_is_missing(finished: Path) -> None:
    stored = (finished / RANKS).read_bytes()
    (finished / RANKS).unlink()
    assert etegrec_train("report", finished) == 0
    assert (finished / RANKS).read_bytes() == stored


def test_the_tables_hold_the_numbers_of_the_evaluation(finished: Path) -> None:
    evaluation = json.loads((finished / "evaluation.json").read_text())
    rows = Reader((finished / "report" / "index.html").read_text(encoding="utf-8")).rows
    for split in ("test", "valid"):
        for row, metrics in evaluation[split].items():
            for suffix in ("", "_seen_excluded"):
                figures = [f"{metrics[f'{kind}@{k}{suffix}']:.4f}" for kind in ("recall", "ndcg") for k in (5, 10)]
                interval = show_interval(evaluation["intervals"][split][row], suffix)
                assert [model_name(row), *figures, interval] in rows
    health = evaluation["tokenizer"]
    assert ["codes used", *map(str, health["codes_used"])] in rows
    assert ["items with other codes than their nearest tuple", str(health["moved"])] in rows
    assert ["token", "3", str(health["policies"]["token"]["moved"])] in [row[:3] for row in rows]


def test_the_page_stands_alone_and_escapes_what_users_wrote(finished: Path) -> None:
    html = (finished / "report" / "index.html").read_text(encoding="utf-8")
    reader = Reader(html)
    assert not reader.open
    assert "<script" not in html
    assert NASTY in reader.texts
    assert "Title 1" in reader.texts
    links = [value for tag, name, value in reader.attributes if name in {"src", "href", "srcset", "action", "style"}]
    assert len(links) == len(CHARTS)
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?:|url\(|@import", html)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in reader.attributes
    assert len(html) < 1_000_000


def test_five_users_are_shown_by_title_with_what_the_search_answers(
    finished: Path, pipeline: Pipeline, contents: Contents
) -> None:
    split = pipeline.dataset.test()
    known = {(*split.histories[user].tolist(), int(split.targets[user])) for user in range(len(split.targets))}
    rows = Reader((finished / "report" / "index.html").read_text(encoding="utf-8")).rows
    assert len(contents.examples) == 5
    for number, one in enumerate(contents.examples, start=1):
        assert one.earlier or (*one.history, one.chosen) in known
        assert len(set(one.answers)) == 5
        assert not set(one.answers) & set(one.history)
        shown = [[contents.labels[row] for row in part] for part in (one.history, [one.chosen], one.answers)]
        earlier = f"{one.earlier} earlier ones" if one.earlier else ""
        assert [str(number), earlier + "".join(shown[0]), *("".join(part) for part in shown[1:])] in rows
    found = np.array([one.chosen in one.answers for one in contents.examples])
    assert found.any()  # the cycle is easy to learn


def test_titles_are_answered_in_a_sentence(finished: Path, contents: Contents) -> None:
    texts = Reader((finished / "report" / "index.html").read_text(encoding="utf-8")).texts
    for sentence in (best_model(contents), tokenizer_state(contents), coverage_note(contents.evaluation)):
        assert sentence in texts
    assert set(contents.data_notes) <= set(texts)
    assert contents.data_notes


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (60, "ETEGRec: test ndcg@10 0.7500 against 0.1250 of Popularity, a difference of 0.6250 ± 0.0545"),
        (13, "ETEGRec, but Popularity is as good within chance: "),
    ],
)
def test_the_best_model_leads_clearly_or_not(contents: Contents, found: int, expected: str) -> None:
    def ranks(right: int) -> Ranks:
        everyone = np.where(np.arange(80) < right, 0, -1).astype(np.int64)
        return Ranks(everyone, everyone)

    rows = {"popularity": ranks(10), "generative": ranks(found)}
    test = {row: each.summary() for row, each in rows.items()}
    known = replace(contents.ranks, rows=rows)
    some = replace(contents, ranks=known, evaluation=replace(contents.evaluation, test=test))
    assert best_model(some).startswith(expected)
    alone = replace(some, evaluation=replace(contents.evaluation, test={"generative": test["generative"]}))
    assert best_model(alone) == f"ETEGRec is the only model: test ndcg@10 {found / 80:.4f}."


def test_what_is_doubtful_about_a_tokenizer_is_said(contents: Contents) -> None:
    good = contents.evaluation.tokenizer | {"collision_rate": 0.01, "reconstruction_error": 0.2}
    bad = good | {"collision_rate": 0.3, "reconstruction_error": 1.0, "codes_used": [8, 1]}

    def said(tokenizer: dict[str, Any]) -> str:
        return tokenizer_state(replace(contents, evaluation=replace(contents.evaluation, tokenizer=tokenizer)))

    assert said(good).startswith("Yes: ")
    assert said(bad).startswith("There are doubts: level 2 uses 1 of ")
    assert "30% of the items" in said(bad)
    assert "no better than the mean" in said(bad)


def test_why_items_have_other_codes_than_their_nearest_is_said(contents: Contents) -> None:
    def said(moved: int) -> str:
        tokenizer = contents.evaluation.tokenizer | {"collision_rate": 0.0, "moved": moved}
        return tokenizer_state(replace(contents, evaluation=replace(contents.evaluation, tokenizer=tokenizer)))

    assert "other codes" not in said(0)
    assert "1 item has other codes than the nearest" in said(1)
    assert said(2).endswith(
        "2 items have other codes than the nearest: another item had taken those, or the codes from before were about "
        "as near or nearer and were kept (joint.stickiness, warm.stickiness)."
    )


def test_the_pictures_decode_and_are_not_blank(finished: Path) -> None:
    reader = Reader((finished / "report" / "index.html").read_text(encoding="utf-8"))
    embedded = [value.split(",")[1] for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    stored = {(finished / "report" / f"{name}.png").read_bytes() for name in CHARTS}
    assert {base64.b64decode(data) for data in embedded} == stored
    for data in stored:
        image = Image.open(io.BytesIO(data))
        image.verify()
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert pixels.shape[1] > 600
        assert pixels.std() > 5


def test_stored_ranks_give_the_metrics_of_the_evaluation(finished: Path, contents: Contents) -> None:
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert set(contents.ranks.rows) == set(evaluation["test"])
    for row, ranks in contents.ranks.rows.items():
        assert ranks.summary() == pytest.approx(evaluation["test"][row])
        assert hits(contents, row).mean() == pytest.approx(recall(ranks.all_items, 10))


def test_every_chart_asks_answers_and_names_its_axes(charts: dict[str, Chart]) -> None:
    assert set(charts) == CHARTS
    for chart in charts.values():
        assert chart.question.endswith("?")
        assert chart.answer.endswith(".")
        assert chart.figure.get_suptitle() == chart.question
        for axes in chart.figure.axes:
            if axes.axison and axes.get_visible():
                assert axes.get_xlabel()
                assert axes.get_ylabel()


def test_codebook_use_counts_every_item_once_a_level(contents: Contents, charts: dict[str, Chart]) -> None:
    lines = charts["codebook_use"].figure.axes[0].get_lines()[: contents.levels]
    for line, used in zip(lines, contents.evaluation.tokenizer["codes_used"], strict=True):
        counts = np.asarray(line.get_ydata())
        assert counts.sum() == ITEMS
        assert (np.diff(counts) <= 0).all()
        assert np.count_nonzero(counts) == used


def test_bins_hold_all_test_users(contents: Contents, charts: dict[str, Chart]) -> None:
    for name in ("recall_by_popularity", "recall_by_history"):
        labels = [tick.get_text() for tick in charts[name].figure.axes[0].get_xticklabels()]
        users = [int(label.split("\n")[1].split()[0]) for label in labels]
        assert sum(users) == len(contents.target_popularity) == 80


def test_stages_are_timed(contents: Contents, charts: dict[str, Chart]) -> None:
    bars = rectangles(charts["seconds"])
    assert [bar.get_width() for bar in bars] == list(contents.evaluation.seconds.values())


def test_fates_of_all_users_add_up(contents: Contents) -> None:
    fates = fate_shares(contents)
    assert list(fates) == ["in the first 10", "ranked too low", "lost at code 2", "lost at code 1"]
    assert sum(one.share for one in fates.values()) == pytest.approx(1)
    assert fates["in the first 10"].share == pytest.approx(contents.evaluation.test["generative"]["recall@10"])


def test_the_code_that_loses_most_users_is_named(contents: Contents) -> None:
    everyone = np.arange(80)
    for kept, answer in ((np.repeat([2, 1, 0], [40, 30, 10]), "Most often at code 2"), (np.full(80, 2), "Nowhere")):
        ranks = replace(contents.ranks, beam_users=everyone, beam_kept=kept)
        (chart,) = (chart for chart in all_charts(replace(contents, ranks=ranks)) if chart.name == "beam")
        assert chart.answer.startswith(answer)
    assert fate_shares(replace(contents, ranks=replace(ranks, beam_kept=kept - 1)))["lost at code 2"].share == 1


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_beam_that_is_traced_is_the_one_that_answers(pipeline: Pipeline, width: int) -> None:
    learner, split = pipeline.learner, pipeline.dataset.test()
    codes = learner.assignment.codes
    kept = codes_kept(learner.recommender, codes, learner.vectors, split, width)
    answered = (
        generative_ranks(learner.recommender, codes, split, width, learner.vectors, seen_excluded=False).all_items >= 0
    )
    np.testing.assert_array_equal(kept == 2, answered)
    # The first code is in the beam if fewer than W codes score higher: no search needed to know that.
    narrow = codes_kept(learner.recommender, codes, learner.vectors, split, 1)
    assert (kept >= np.minimum(narrow, 1)).all()
    if width == 8:  # as many beams as first codes
        assert (kept >= 1).all()


def test_a_sample_of_users_is_traced_where_there_are_many(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    split = pipeline.dataset.test()
    users, kept = sampled_codes_kept(pipeline.learner, split, seed=1)
    assert users.tolist() == list(range(80))
    monkeypatch.setattr("training.diagnostics.beam_survival.MOST_USERS", 20)
    few, kept_of_few = sampled_codes_kept(pipeline.learner, split, seed=1)
    assert len(np.unique(few)) == 20
    np.testing.assert_array_equal(kept_of_few, kept[few])


def test_ranks_survive_storing(tmp_path: Path, pipeline: Pipeline, contents: Contents) -> None:
    folder = RunFolder(tmp_path, pipeline.config)
    contents.ranks.write(folder)
    again = UserRanks.read(folder)
    assert set(again.rows) == set(contents.ranks.rows)
    for row, ranks in contents.ranks.rows.items():
        np.testing.assert_array_equal(again.rows[row], ranks)
    np.testing.assert_array_equal(again.beam_kept, contents.ranks.beam_kept)


def test_the_busiest_branches_come_first_with_their_most_popular_items() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0]])
    popularity = np.array([1, 2, 5, 9, 0, 4])
    first, second = top_branches(codes, popularity, widths=(2, 2))
    assert (first.prefix, first.items, first.interactions, first.examples) == ((1,), 3, 14, [])
    assert [(twig.prefix, twig.examples) for twig in first.below] == [((1, 1), [3]), ((1, 0), [2])]
    assert second.prefix == (2,)
    (only,) = top_branches(codes[:, :1][:2], popularity[:2])
    assert (only.examples, only.below) == ([1, 0], [])  # one code an item is no tree to descend


def test_text_is_drawn_in_one_line_with_letters_that_the_font_has() -> None:
    assert drawable("a\n b\tc", 10) == "a b c"
    assert drawable("映画 film", 10) == "□□ film"
    assert drawable("x" * 20, 10) == "x" * 9 + "…"


def test_a_long_title_is_shortened_and_its_tooltip_shows_more() -> None:
    assert title_text("Wool <socks>\n& more") == "Wool &lt;socks&gt; &amp; more"
    html = title_text('"long" words ' * 1000)
    reader = Reader(html)
    assert not reader.open
    [shown] = reader.texts
    [(tag, name, tooltip)] = reader.attributes
    assert (tag, name) == ("span", "title")
    assert (len(shown), len(tooltip)) == (120, 500)
    assert shown.startswith('"long" words')
    assert shown.endswith("…")
    assert tooltip.startswith(shown[:-1])


def test_no_title_stands_in_the_page_at_full_length(contents: Contents) -> None:
    html = render_page(replace(contents, labels=["x" * 10_000 for _ in contents.labels]), []).decode()
    assert "x" * 119 + "…" in html
    assert "x" * 500 not in html


def test_the_same_figure_gives_the_same_bytes(contents: Contents) -> None:
    first, second = ([draw_png(chart.figure) for chart in all_charts(contents)] for _ in range(2))
    assert first == second


def test_what_a_run_did_not_record_is_left_out(contents: Contents) -> None:
    tokenizer: dict[str, Any] = {**contents.evaluation.tokenizer, "purity": [], "policies": {}}
    bare = replace(contents, curves={}, evaluation=replace(contents.evaluation, tokenizer=tokenizer, seconds={}))
    names = {chart.name for chart in all_charts(bare)}
    assert names == CHARTS - {"validation", "losses", "code_changes", "seconds", "purity"}
    reader = Reader(render_page(bare, []).decode())
    assert not reader.open


def test_items_without_titles_are_shown_by_id(contents: Contents, pipeline: Pipeline) -> None:
    ids = pipeline.dataset.item_ids
    nameless = replace(contents, labels=ids)
    (tree,) = (chart for chart in all_charts(nameless) if chart.name == "code_tree")
    shown = {text.get_text() for text in tree.figure.axes[0].texts}
    assert shown & set(ids)

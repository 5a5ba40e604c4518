"""The options for data, which all commands share, and the configuration that they give."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from model_store.errors import ConfigError, ModelStoreError
from tests.support.messy_tables import write_messy_shop
from training import cli, demo
from training.commands.data_options import DataOptions
from training.run_folder import RunFolder

COMMANDS = ("prepare", "validate", "run", "ablate", "new-items", "retrain", "schedule")
NAMES = {"overrides": "--set"}


def options_of(app: typer.Typer, command: str = "") -> set[str]:
    group = typer.main.get_command(app)
    found = group.commands[command] if command else group  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_data_has_all_options(command: str) -> None:
    wanted = {NAMES.get(each.name, f"--{each.name.replace('_', '-')}") for each in fields(DataOptions)}
    assert wanted <= options_of(cli.app, command)
    assert wanted <= options_of(demo.app)


def test_options_override_the_data_section() -> None:
    options = DataOptions(
        data="x.csv",
        items="items.csv",
        user="who",
        attributes="price, in_stock",
        items_key="code",
        separator=";",
        skip_bad=True,
        preset="demo",
        overrides=["data.columns.user=other", "data.columns.title=name", "data.min_user=2"],
    )
    data = options.load_config().data
    assert (data.columns.user, data.columns.title, data.columns.items_key) == ("who", "name", "code")
    assert data.columns.attributes == ("price", "in_stock")
    assert (data.items_file, data.separator, data.skip_bad, data.min_user) == ("items.csv", ";", True, 2)


def test_an_option_may_hold_any_text() -> None:
    name = 'a "quoted" = [name] \\ é'
    assert DataOptions(data="x", user=name, query="select 'x' from y -- \"z\"").load_config().data.columns.user == name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--vector", "emb"),
        ("--title", "name"),
        ("--categories", "genres"),
        ("--attributes", "price"),
        ("--items-key", "sku"),
        ("--separator", ";"),
    ],
)
def test_options_of_an_items_file_need_one(option: str, value: str) -> None:
    given = {option.removeprefix("--").replace("-", "_"): value}
    with pytest.raises(ConfigError) as refused:
        DataOptions(data="x.csv", **given).load_config()  # type: ignore[arg-type]
    assert option in str(refused.value)
    assert "--items names none" in str(refused.value)
    assert "--items FILE" in refused.value.hint
    DataOptions(data="x.csv", items="items.csv", **given).load_config()  # type: ignore[arg-type]
    DataOptions(data="sqlite:///x.db", items_query="select 1", **given).load_config()  # type: ignore[arg-type]


def test_several_options_of_an_items_file_are_named_together() -> None:
    with pytest.raises(ConfigError, match="--attributes and --vector say how to read an items file"):
        DataOptions(data="x.csv", vector="emb", attributes="price").load_config()


def test_data_are_needed(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["validate"])
    assert isinstance(done.exception, ConfigError)
    assert "--data" in done.exception.hint
    assert CliRunner().invoke(cli.app, ["prepare", "--out", str(tmp_path)]).exit_code == 2


def test_one_command_prepares_a_messy_shop_and_another_predicts_it(tmp_path: Path) -> None:
    shop = write_messy_shop(tmp_path)
    asked = CliRunner().invoke(cli.app, ["validate", *shop.options, "--json"])
    assert asked.exit_code == 0, asked.output
    checks = {check["name"]: check for check in json.loads(asked.stdout)["checks"]}
    done = CliRunner().invoke(cli.app, ["prepare", *shop.options, "--out", str(tmp_path / "out"), "--json"])
    counts = json.loads(done.stdout)
    assert counts["interactions"] == len(shop.meant)
    assert checks["filters"]["detail"].startswith(
        f"{counts['users']} users, {counts['items']} items, {counts['interactions']} interactions"
    )
    assert checks["duplicates"]["count"] == shop.duplicates


def test_a_corrected_command_may_use_the_folder_of_the_failed_one(tmp_path: Path) -> None:
    data = tmp_path / "c.csv"
    data.write_text("client,thing,ts\nu,a,1\n")
    command = ["run", "--data", str(data), "--preset", "demo", "--out", str(tmp_path / "run")]
    for wrong in (["--item", "thin"], ["--item", "thing", "--set", "data.min_user=9"]):
        failed = CliRunner().invoke(cli.app, [*command, *wrong])
        assert failed.exception is not None
        assert "another configuration" not in str(failed.exception)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"]["data"]["min_user"] == 9


def test_a_store_that_does_not_exist_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for command in (["publish", "runs/first"], ["retrain", "--data", "x.csv"], ["schedule", "--data", "x.csv"]):
        done = CliRunner().invoke(cli.app, [*command, "--store", "modles"])
        assert isinstance(done.exception, ModelStoreError)
        assert "the model store modles does not exist (did you mean" in str(done.exception)
        assert "--create-store" in done.exception.hint
    assert not (tmp_path / "modles").exists()


def test_paths_of_a_run_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("c.csv", "items.csv"):
        (tmp_path / name).write_text("user,item\n")
    config = DataOptions(data="c.csv", items="items.csv", preset="demo").load_config()
    RunFolder.create_or_resume(Path("run"), config, "c.csv")
    monkeypatch.chdir("/")
    opened = RunFolder.open(tmp_path / "run")
    assert opened.source == str(tmp_path / "c.csv")
    assert opened.config.data.items_file == str(tmp_path / "items.csv")

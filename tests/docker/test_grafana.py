"""Grafana of the compose stack shows the dashboard to this machine, read-only, and asks nothing of the internet."""

from __future__ import annotations

import configparser
import json
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "grafana"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
GRAFANA: dict[str, Any] = COMPOSE["services"]["grafana"]


def ini() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string((FOLDER / "grafana.ini").read_text(encoding="utf-8"))
    return parser


def mounts() -> dict[PurePosixPath, Path]:
    """What lies where in the container, of this repository."""
    parts = [volume.split(":") for volume in GRAFANA["volumes"] if volume.startswith("./")]
    assert all(mode == "ro" for _, _, mode in parts)
    return {PurePosixPath(inside): ROOT / outside for outside, inside, _ in parts}


def provisioned(kind: str) -> dict[str, Any]:
    (path,) = [path for inside, path in mounts().items() if inside.match(f"/etc/grafana/provisioning/{kind}/*.yml")]
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_it_starts_only_when_asked_for_and_is_reached_from_this_machine_only() -> None:
    assert GRAFANA["profiles"] == ["observability"]
    assert GRAFANA["ports"] == ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]


def test_everyone_may_look_and_the_password_is_a_generated_secret() -> None:
    settings = ini()
    assert settings["auth.anonymous"]["enabled"] == "true"
    assert settings["auth.anonymous"]["org_role"] == "Viewer"
    assert settings["users"]["allow_sign_up"] == "false"
    assert settings["security"]["admin_password"] == "$__file{/secrets/grafana_password}"
    assert "secrets:/secrets:ro" in GRAFANA["volumes"]
    assert "environment" not in GRAFANA  # where a secret would be seen
    assert GRAFANA["user"].split(":")[0] == "472"  # the owner of that file, see test_make_secrets.py


def test_it_asks_nothing_of_the_internet() -> None:
    settings = ini()
    assert settings["plugins"]["preinstall_disabled"] == "true"
    assert settings["plugins"]["public_key_retrieval_disabled"] == "true"
    assert settings["security"]["disable_gravatar"] == "true"
    off = {
        "analytics": ("reporting_enabled", "check_for_updates", "check_for_plugin_updates"),
        "news": ("news_feed_enabled",),
        "snapshots": ("external_enabled",),
        "plugins": ("plugin_admin_enabled",),
    }
    assert all(settings[section][name] == "false" for section, names in off.items() for name in names)


def test_its_data_source_is_the_prometheus_of_the_stack() -> None:
    (source,) = provisioned("datasources")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert COMPOSE["services"][host]["ports"][0].endswith(f":{port}")
    assert set(COMPOSE["services"][host]["networks"]) & set(GRAFANA["networks"])
    prometheus = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_the_dashboard_is_where_grafana_looks_for_it() -> None:
    (provider,) = provisioned("dashboards")["providers"]
    folder = mounts()[PurePosixPath(provider["options"]["path"])]
    home = PurePosixPath(ini()["dashboards"]["default_home_dashboard_path"])
    assert json.loads((folder / home.name).read_text(encoding="utf-8"))["uid"] == "etegrec"
    assert home.parent == PurePosixPath(provider["options"]["path"])

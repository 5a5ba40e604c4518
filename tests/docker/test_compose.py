"""The compose file: what it starts is hardened, finds what it needs, and is what the code takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from console.errors import ConsoleError
from console.guard import HEALTH
from console.settings import SECRETS_DIR
from console.settings import Settings as ConsoleSettings
from service.settings import ENV_PREFIX, Settings
from tests.support.compose_files import COMPOSE, COMPOSE_TEXT, ROOT, SERVICES, VARIABLE, final_stage
from training.cli import app as train_app
from training.config import GateConfig, load_config
from training.retraining.schedule import parse_cron

OWN = ("service", "service-gpu", "trainer")
ONCE = "secrets"
SECRETS = {
    "REDIS_PASSWORD",
    "ETEGREC_READ_KEYS",
    "ETEGREC_WRITE_KEYS",
    "ETEGREC_ADMIN_KEYS",
    "ETEGREC_ATTRIBUTION_KEYS",
    "ETEGREC_CONSOLE_PASSWORD",
    "GRAFANA_PASSWORD",
}


def test_only_this_machine_reaches_published_ports_and_nobody_redis() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"service", "service-gpu", "console", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert COMPOSE["networks"]["live"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == ["live"]
    assert SERVICES["trainer"]["networks"] == ["live"]
    assert SERVICES["prometheus"]["networks"] == ["web"]
    assert SERVICES["grafana"]["networks"] == ["web"]
    assert SERVICES["console"]["networks"] == ["web"]


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_container_is_hardened_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name == ONCE else "unless-stopped")
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert name in ("redis", ONCE) or "cap_add" not in service


@pytest.mark.parametrize("name", OWN)
def test_own_containers_share_a_user_and_the_store(name: str) -> None:
    assert SERVICES[name]["user"] == "10001:10001"
    assert SERVICES[name]["init"] is True
    assert SERVICES[name]["tmpfs"] == ["/tmp"]
    store = "models:/models" if name == "trainer" else "models:/models:ro"
    assert store in SERVICES[name]["volumes"]


def test_redis_keeps_what_matters_and_asks_for_a_password() -> None:
    program, configuration, *options = SERVICES["redis"]["command"]
    assert (program, configuration) == ("redis-server", "/secrets/redis.conf")
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given == {
        "--dir": "/data",
        "--appendonly": "yes",
        "--maxmemory": "256mb",
        "--maxmemory-policy": "volatile-lru",
    }
    assert "redis:/data" in SERVICES["redis"]["volumes"]
    word, test = SERVICES["redis"]["healthcheck"]["test"]
    assert word == "CMD-SHELL"
    assert test == "REDISCLI_AUTH=$$(cat /secrets/redis_password) redis-cli -e ping"  # never an argument that ps shows


def test_secrets_are_made_before_anything_that_reads_them() -> None:
    readers = {name for name, service in SERVICES.items() if "secrets:/secrets:ro" in service.get("volumes", [])}
    assert readers == {"redis", "grafana", "console", *OWN}
    for name in readers:
        assert SERVICES[name]["depends_on"][ONCE] == {"condition": "service_completed_successfully"}
    assert all(SERVICES[name]["environment"]["ETEGREC_SECRETS_DIR"] == "/secrets" for name in OWN)

    maker = SERVICES[ONCE]
    assert maker["volumes"] == ["secrets:/secrets"]
    assert maker["network_mode"] == "none"
    assert maker["cap_add"] == ["CHOWN", "DAC_OVERRIDE"]
    _, program, folder = maker["entrypoint"]
    assert folder == "/secrets"
    copied = [each.rest.split() for each in final_stage("service") if each.word == "COPY"]
    assert ["docker/healthcheck.py", "docker/make_secrets.py", f"{program.rpartition('/')[0]}/"] in copied


def test_no_secret_is_committed_and_none_but_the_maker_has_one_in_its_environment() -> None:
    text = yaml.safe_load(COMPOSE_TEXT)
    users = {
        name for name, service in text["services"].items() if any(f"${{{each}" in str(service) for each in SECRETS)
    }
    assert users == {ONCE}
    assert {name: default for name, default in VARIABLE.findall(COMPOSE_TEXT) if name in SECRETS} == dict.fromkeys(
        SECRETS, ""
    )
    committed = [COMPOSE_TEXT, (ROOT / ".env.example").read_text(encoding="utf-8")]
    assert not re.findall(r"(?:PASSWORD|KEYS)=\S+|requirepass|:[^@/\s]+@redis", "\n".join(committed))


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_the_service_understands_its_environment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = " ".join(each.rest for each in final_stage("service") if each.word == "ENV")
    environment = dict(re.findall(r"(ETEGREC_\w+)=(\S+)", image)) | SERVICES[name]["environment"]
    fields = {key.removeprefix(ENV_PREFIX).lower() for key in environment}
    assert fields <= set(Settings.model_fields)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    (tmp_path / "etegrec_write_keys").write_text("what-the-volume-holds")
    settings = Settings.load(secrets_dir=str(tmp_path))
    assert (settings.store, settings.host, settings.port) == ("/models", "0.0.0.0", 8000)
    assert settings.engine == ("torch" if name == "service-gpu" else "onnx")
    grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.shutdown_delay_s + settings.shutdown_grace_s
    assert SERVICES[name]["ports"][0].endswith(f":{settings.port}")


def test_the_console_reaches_the_service_and_asks_for_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = SERVICES["console"]
    image = " ".join(each.rest for each in final_stage("console") if each.word == "ENV")
    environment = dict(re.findall(r"(ETEGREC_\w+)=(\S+)", image)) | console["environment"]
    assert environment.pop(SECRETS_DIR) == "/secrets/console"
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConsoleError, match="there is no password"):
        ConsoleSettings.load(str(tmp_path))

    (tmp_path / "etegrec_console_password").write_text("what-the-volume-holds")
    settings = ConsoleSettings.load(str(tmp_path))
    assert settings.service == "http://service:8000"
    assert console["ports"][0].endswith(f":{settings.port}")
    assert console["user"] == "10002:10002"
    assert "models:/models:ro" not in console["volumes"]
    *_, port, path = console["healthcheck"]["test"]
    assert (int(port), path) == (settings.port, HEALTH)


def test_the_gpu_service_is_asked_for_and_reserves_a_gpu() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["service-gpu", "grafana"]
    assert SERVICES["service-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["service-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_trainer_command_is_one_that_etegrec_train_takes() -> None:
    program, subcommand, *arguments = SERVICES["trainer"]["command"]
    assert program == "etegrec-train"
    group = typer.main.get_command(train_app)
    command = group.commands[subcommand]  # type: ignore[attr-defined]
    given = command.make_context(subcommand, arguments).params
    load_config(given["preset"])
    parse_cron(given["cron"])
    assert (given["max_gain"], given["plausible_gain"]) == (GateConfig().max_gain, GateConfig().plausible_gain)
    assert given["store"] == "/models"
    assert f"runs:{given['work']}" in SERVICES["trainer"]["volumes"]
    prepared = next(each.rest for each in final_stage("trainer") if "etegrec-train prepare" in each.rest)
    options = shlex.split(prepared)
    assert options[options.index("--out") + 1] == given["data"]


def test_env_example_documents_every_variable_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    documented = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used: dict[str, str] = {}
    for name, default in VARIABLE.findall(COMPOSE_TEXT):
        assert used.setdefault(name, default) == default, f"{name} has two defaults"
    images = {name for name in used if name.endswith("_IMAGE")}
    assert documented == {name: default for name, default in used.items() if name not in images}
    # Not set in the example: a copy of it would keep the images of the day on which it was made.
    assert {line[1:].split("=")[0] for line in lines if re.match(r"#\w+_IMAGE=", line)} == images


def test_prometheus_asks_services_that_exist_on_its_network() -> None:
    assert "./docker/prometheus:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = config["scrape_configs"]
    asked = {
        *(target for job in jobs for each in job.get("static_configs", []) for target in each["targets"]),
        *(f"{name}:{each['port']}" for job in jobs for each in job.get("dns_sd_configs", []) for name in each["names"]),
    }
    assert asked == {"service:8000", "service-gpu:8000", "localhost:9090"}
    assert "web" in SERVICES["service"]["networks"]
    assert "web" in SERVICES["service-gpu"]["networks"]

    assert config["rule_files"] == ["alerts.yml"]
    assert (ROOT / "docker" / "prometheus" / "alerts.yml").is_file()
    (of_alerts,) = set(re.findall(r'\bjob=~"([^"]+)"', (ROOT / "docker/prometheus/alerts.yml").read_text()))
    assert [job["job_name"] for job in jobs if re.fullmatch(of_alerts, job["job_name"])] == ["etegrec", "etegrec-gpu"]

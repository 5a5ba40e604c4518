"""The compose file, the Dockerfiles and what they rely on agree with each other and with the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from console.errors import ConsoleError
from console.guard import HEALTH
from console.settings import SECRETS_DIR
from console.settings import Settings as ConsoleSettings
from service.settings import ENV_PREFIX, Settings
from supply_chain.lock_file import lock_path, read_lock
from training.cli import app as train_app
from training.config import GateConfig, load_config
from training.retraining.schedule import parse_cron

ROOT = Path(__file__).parents[2]
BASES = {"python:3.11-slim-bookworm", "redis:7-bookworm", "prom/prometheus:v3.15.0", "grafana/grafana:13.2.3"}
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
OWN = ("service", "service-gpu", "trainer")
ONCE = "secrets"
DOCKERFILES = ("service", "trainer", "console")
USERS = {"service": "10001", "trainer": "10001", "console": "10002"}
VARIABLE = re.compile(r"\$\{(\w+):?-([^}]*)\}")
SECRETS = {
    "REDIS_PASSWORD",
    "ETEGREC_READ_KEYS",
    "ETEGREC_WRITE_KEYS",
    "ETEGREC_ADMIN_KEYS",
    "ETEGREC_ATTRIBUTION_KEYS",
    "ETEGREC_CONSOLE_PASSWORD",
    "GRAFANA_PASSWORD",
}
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def filled(value: Any) -> Any:
    """A part of the compose file as it is without an .env file: variables replaced by their defaults."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    return VARIABLE.sub(r"\2", value) if isinstance(value, str) else value


COMPOSE = filled(yaml.safe_load(COMPOSE_TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions(name: str) -> list[Instruction]:
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(None, 1)) for line in lines]


def final_stage(name: str) -> list[Instruction]:
    found = instructions(name)
    return found[max(at for at, each in enumerate(found) if each.word == "FROM") :]


def base_image(name: str) -> str:
    """The image behind the first stage: what ``PYTHON_IMAGE`` falls back to."""
    first, *others = [each.rest for each in instructions(name) if each.word == "FROM"]
    assert all(other.split()[0] == "base" for other in others)
    assert first.endswith(" AS base")
    assert first.startswith("${PYTHON_IMAGE:-")
    return VARIABLE.sub(r"\2", first.removesuffix(" AS base"))


# Images


def test_every_image_is_one_of_four_bases_fixed_by_digest() -> None:
    bases = {base_image(name) for name in DOCKERFILES}
    pulled = {service["image"] for service in SERVICES.values() if "image" in service}
    assert len(bases) == 1
    assert {DIGEST.sub("", image) for image in bases | pulled} == BASES
    assert all(DIGEST.search(image) for image in bases | pulled)


def test_the_image_for_development_is_fixed_by_digest() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert DIGEST.search(container["image"])


def test_no_page_or_file_names_an_image_without_its_digest() -> None:
    pages = [COMPOSE_TEXT, *((ROOT / "docker" / f"{name}.Dockerfile").read_text() for name in DOCKERFILES)]
    named = re.findall(r"(?:redis|python|prom/prometheus|grafana/grafana):v?\d[\w.-]*(\S*)", "\n".join(pages))
    assert len(named) == 6
    assert all(rest.rstrip("}").startswith("@sha256:") for rest in named)


def test_the_service_image_is_built_without_torch_and_without_training() -> None:
    assert Instruction("ARG", 'EXTRAS=""') in instructions("service")
    assert "EXTRAS" not in SERVICES["service"]["build"]["args"]
    names = {pin.name for pin in read_lock(lock_path("service"))}
    assert "onnxruntime" in names
    assert not names & {"torch", "polars", "onnx", "onnxscript", "apscheduler", "matplotlib"}
    copied = [each.rest.split()[0] for each in instructions("service") if each.word == "COPY"]
    assert "training" not in copied
    assert SERVICES["service-gpu"]["build"]["args"]["EXTRAS"] == "gpu"
    assert "torch" in {pin.name for pin in read_lock(lock_path("service-gpu"))}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dependencies_are_installed_before_the_source_comes_and_leave_nothing(name: str) -> None:
    runs = [each.rest for each in final_stage(name) if each.word == "RUN" and "pip install" in each.rest]
    dependencies, package = runs
    assert "--no-deps" in package
    assert "--no-index" in package
    assert all("--no-cache-dir" in run for run in runs)
    before = final_stage(name)[: [each.rest for each in final_stage(name)].index(dependencies)]
    copied = [source for each in before if each.word == "COPY" for source in each.rest.split()[:-1]]
    assert copied
    assert all(source.startswith("docker/requirements-") for source in copied)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_only_wheels_with_known_hashes_are_installed(name: str) -> None:
    runs = [each.rest for each in instructions(name) if each.word == "RUN"]
    installs = [part for run in runs for part in re.split(r"&&|;", run) if re.search(r"\bpip (install|wheel)\b", part)]
    from_an_index = [part for part in installs if "--no-index" not in part and "--no-build-isolation" not in part]
    assert len(from_an_index) == (
        3 if name == "trainer" else 2
    )  # what builds the wheel, what the image runs; torch alone
    assert all("--require-hashes" in part and "--only-binary=:all:" in part for part in from_an_index)
    wheel = next(part for part in installs if "pip wheel" in part)
    assert "--no-build-isolation" in wheel  # the build tools are those of the lock file, and no others
    assert "--no-deps" in wheel


def test_no_image_asks_a_further_index_unless_told_to() -> None:
    assert not [each for each in instructions("service") if "index-url" in each.rest]
    asked = [each.rest for each in instructions("trainer") if "index-url" in each.rest]
    assert len(asked) == 1
    assert "--extra-index-url" not in asked[0]  # two indexes at once would let one replace packages of the other
    assert asked[0].startswith('if [ -n "$TORCH_INDEX_URL" ]; then')
    assert Instruction("ARG", 'TORCH_INDEX_URL=""') in instructions("trainer")
    assert SERVICES["trainer"]["build"]["args"]["TORCH_INDEX_URL"] == ""


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_in_an_empty_folder_that_they_may_not_write(name: str) -> None:
    stage = final_stage(name)
    folder = [each.rest for each in stage if each.word == "WORKDIR"]
    assert folder == ["/var/empty"]
    after = stage[stage.index(Instruction("WORKDIR", "/var/empty")) :]
    assert not {each.word for each in after} & {"RUN", "COPY", "ADD"}  # nobody creates it, fills it or gives it away


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_one_user_and_the_store_belongs_to_that_of_service_and_trainer(name: str) -> None:
    runs = [each.rest for each in final_stage(name) if each.word == "RUN"]
    created = next(run for run in runs if "useradd" in run)
    user = USERS[name]
    assert f"--uid {user}" in created
    owns = re.search(rf"install --directory --owner={user} --group={user} /models\b", created)
    assert bool(owns) == (name != "console")
    last_user = [each.rest for each in final_stage(name) if each.word == "USER"][-1]
    assert last_user == f"{user}:{user}"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_build_context_holds_what_is_copied_and_no_more(name: str) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [rule for rule in rules if rule and not rule.startswith("#")]
    assert patterns[0] == "*"
    allowed = {rule[1:] for rule in patterns if rule.startswith("!")}
    assert not allowed & {".git", ".venv", ".env", "models", "demo", "runs", "tests"}
    for copy in (each.rest for each in instructions(name) if each.word == "COPY" and "--from" not in each.rest):
        for source in re.sub(r"\$\{EXTRAS:\+[^}]*\}", "", copy).split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed
            assert source not in patterns


# The stack


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


def test_the_console_image_holds_no_other_room_and_none_of_their_packages() -> None:
    copied = {each.rest.split()[0] for each in instructions("console") if each.word == "COPY"}
    assert not copied & {"service", "training", "model_store"}
    names = {pin.name for pin in read_lock(lock_path("console"))}
    assert "nicegui" in names
    assert not names & {"torch", "onnxruntime", "redis", "numpy", "pyarrow"}
    installed = next(each.rest for each in final_stage("console") if "--no-index" in each.rest)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {name for name in scripts if f"command -v {name})" not in installed} == {"etegrec-console"}


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


# The health check


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        body = b"ready" if self.path == "/health/ready" else b"wrong path"
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(status: int) -> Iterator[int]:
    handler = type("Handler", (Answering,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check_health(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ETEGREC_PORT": str(port)}
    program = ROOT / "docker" / "healthcheck.py"
    return subprocess.run(
        [sys.executable, program, *arguments], env=proxies, capture_output=True, text=True, check=False
    )


def test_the_health_check_is_the_file_in_the_image() -> None:
    _, _, path = SERVICES["service"]["healthcheck"]["test"]
    copied = [each.rest.split() for each in final_stage("service") if each.word == "COPY"]
    assert any("docker/healthcheck.py" in each and each[-1] == f"{path.rpartition('/')[0]}/" for each in copied)


def test_the_health_check_passes_a_ready_service() -> None:
    with listening(200) as port:
        done = check_health(port)
        other = check_health(9, str(port), "/health")
    assert (done.returncode, done.stderr) == (0, "")
    assert (other.returncode, other.stderr.strip()) == (1, "404: wrong path")


def test_the_health_check_says_why_a_service_is_not_ready() -> None:
    with listening(503) as port:
        done = check_health(port)
    assert (done.returncode, done.stderr.strip()) == (1, "503: ready")
    gone = check_health(port)
    assert gone.returncode == 1
    assert gone.stderr.startswith("no answer: ")

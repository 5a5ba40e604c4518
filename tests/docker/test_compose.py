"""The compose file, the Dockerfiles and what they rely on agree with each other and with the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from service.settings import ENV_PREFIX, Settings
from training.cli import app as train_app
from training.config import load_config
from training.retraining.schedule import parse_cron

ROOT = Path(__file__).parents[2]
BASES = {"python:3.11-slim-bookworm", "redis:7-bookworm", "prom/prometheus:v2.42.0"}
OWN = ("service", "service-gpu", "trainer")
DOCKERFILES = ("service", "trainer")
VARIABLE = re.compile(r"\$\{(\w+):?-([^}]*)\}")
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


def printed_requirements(*extras: str) -> list[str]:
    command = [sys.executable, "docker/requirements.py", *extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def project_of(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return name[0].lower().replace("_", "-")


# Images


def test_every_image_is_one_of_three_pinned_bases() -> None:
    froms = {each.rest.split()[0] for name in DOCKERFILES for each in instructions(name) if each.word == "FROM"}
    pulled = {service["image"] for service in SERVICES.values() if "image" in service}
    assert froms | pulled == BASES


def test_the_service_image_is_built_without_torch_and_without_training() -> None:
    assert Instruction("ARG", 'EXTRAS=""') in instructions("service")
    assert "args" not in SERVICES["service"]["build"]
    names = {project_of(each) for each in printed_requirements()}
    assert "onnxruntime" in names
    assert not names & {"torch", "polars", "onnx", "onnxscript", "apscheduler", "matplotlib"}
    copied = [each.rest.split()[0] for each in instructions("service") if each.word == "COPY"]
    assert "training" not in copied
    assert SERVICES["service-gpu"]["build"]["args"]["EXTRAS"] == "gpu"
    assert "torch==2.13.0" in printed_requirements("gpu")


@pytest.mark.parametrize("extras", [(), ("gpu",), ("train",)])
def test_constraints_pin_what_images_install(extras: tuple[str, ...]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {project_of(line) for line in lines if "==" in line}
    assert not [each for each in printed_requirements(*extras) if project_of(each) not in pinned]


def test_an_unknown_extra_fails_the_build() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        printed_requirements("no-such-extra")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dependencies_are_installed_before_the_source_comes_and_leave_nothing(name: str) -> None:
    runs = [each.rest for each in final_stage(name) if each.word == "RUN" and "pip install" in each.rest]
    dependencies, package = runs
    assert "--constraint /etc/etegrec/constraints.txt" in dependencies
    assert "--only-binary=:all:" in dependencies  # no compiler needed
    assert "--no-deps" in package
    assert all("--no-cache-dir" in run for run in runs)
    before = final_stage(name)[: [each.rest for each in final_stage(name)].index(dependencies)]
    copied = {each.rest for each in before if each.word == "COPY"}
    assert copied == {
        "constraints.txt /etc/etegrec/",
        "--from=requirements /build/requirements.txt /etc/etegrec/",
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_one_user_who_owns_the_store(name: str) -> None:
    runs = [each.rest for each in final_stage(name) if each.word == "RUN"]
    created = next(run for run in runs if "useradd" in run)
    assert "--uid 10001" in created
    assert re.search(r"install --directory --owner=10001 --group=10001 /models\b", created)
    last_user = [each.rest for each in final_stage(name) if each.word == "USER"][-1]
    assert last_user == "10001:10001"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_build_context_holds_what_is_copied_and_no_more(name: str) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [rule for rule in rules if rule and not rule.startswith("#")]
    assert patterns[0] == "*"
    allowed = {rule[1:] for rule in patterns if rule.startswith("!")}
    assert not allowed & {".git", ".venv", ".env", "models", "demo", "runs", "tests"}
    for copy in (each.rest for each in instructions(name) if each.word == "COPY" and "--from" not in each.rest):
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed
            assert source not in patterns


# The stack


def test_only_this_machine_reaches_published_ports_and_nobody_redis() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"service", "service-gpu", "prometheus"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert COMPOSE["networks"]["live"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == ["live"]
    assert SERVICES["trainer"]["networks"] == ["live"]
    assert SERVICES["prometheus"]["networks"] == ["web"]


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_container_is_hardened_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert name == "redis" or "cap_add" not in service


@pytest.mark.parametrize("name", OWN)
def test_own_containers_share_a_user_and_the_store(name: str) -> None:
    assert SERVICES[name]["user"] == "10001:10001"
    assert SERVICES[name]["init"] is True
    assert SERVICES[name]["tmpfs"] == ["/tmp"]
    store = "models:/models" if name == "trainer" else "models:/models:ro"
    assert store in SERVICES[name]["volumes"]


def test_redis_keeps_what_matters_and_asks_for_a_password() -> None:
    command = SERVICES["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given == {
        "--dir": "/data",
        "--requirepass": "etegrec-local",
        "--appendonly": "yes",
        "--maxmemory": "256mb",
        "--maxmemory-policy": "volatile-lru",
    }
    assert "redis:/data" in SERVICES["redis"]["volumes"]
    assert SERVICES["redis"]["healthcheck"]["test"][1:] == ["redis-cli", "-e", "ping"]
    for name in OWN:
        assert SERVICES[name]["environment"]["ETEGREC_REDIS_URL"] == "redis://:etegrec-local@redis:6379/0"


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_the_service_understands_its_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = " ".join(each.rest for each in final_stage("service") if each.word == "ENV")
    environment = dict(re.findall(r"(ETEGREC_\w+)=(\S+)", image)) | SERVICES[name]["environment"]
    fields = {key.removeprefix(ENV_PREFIX).lower() for key in environment}
    assert fields <= set(Settings.model_fields)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    settings = Settings.load()
    assert (settings.store, settings.host, settings.port) == ("/models", "0.0.0.0", 8000)
    assert settings.engine == ("torch" if name == "service-gpu" else "onnx")
    grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.shutdown_delay_s + settings.shutdown_grace_s
    assert SERVICES[name]["ports"][0].endswith(f":{settings.port}")


def test_the_gpu_service_is_asked_for_and_reserves_a_gpu() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["service-gpu"]
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
    assert documented == used


def test_prometheus_asks_services_that_exist_on_its_network() -> None:
    assert "./docker/prometheus.yml:/etc/prometheus/prometheus.yml:ro" in SERVICES["prometheus"]["volumes"]
    jobs = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    asked = {
        *(target for job in jobs for each in job.get("static_configs", []) for target in each["targets"]),
        *(f"{name}:{each['port']}" for job in jobs for each in job.get("dns_sd_configs", []) for name in each["names"]),
    }
    assert asked == {"service:8000", "service-gpu:8000", "localhost:9090"}
    assert "web" in SERVICES["service"]["networks"]
    assert "web" in SERVICES["service-gpu"]["networks"]


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


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    proxies = {"http_proxy": "http://127.0.0.1:9", "ETEGREC_PORT": str(port)}
    program = ROOT / "docker" / "healthcheck.py"
    return subprocess.run([sys.executable, program], env=proxies, capture_output=True, text=True, check=False)


def test_the_health_check_is_the_file_in_the_image() -> None:
    _, _, path = SERVICES["service"]["healthcheck"]["test"]
    assert Instruction("COPY", f"docker/healthcheck.py {path.rpartition('/')[0]}/") in final_stage("service")


def test_the_health_check_passes_a_ready_service() -> None:
    with listening(200) as port:
        done = check_health(port)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_health_check_says_why_a_service_is_not_ready() -> None:
    with listening(503) as port:
        done = check_health(port)
    assert (done.returncode, done.stderr.strip()) == (1, "503: ready")
    gone = check_health(port)
    assert gone.returncode == 1
    assert gone.stderr.startswith("no answer: ")

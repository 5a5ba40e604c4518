"""The Dockerfiles: fixed bases, known wheels, one user, nothing that the image does not need."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from supply_chain.lock_file import lock_path, read_lock
from tests.support.compose_files import COMPOSE_TEXT, ROOT, SERVICES, VARIABLE, Instruction, final_stage, instructions

BASES = {"python:3.11-slim-bookworm", "redis:7-bookworm", "prom/prometheus:v3.15.0", "grafana/grafana:13.2.3"}
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
DOCKERFILES = ("service", "trainer", "console")
USERS = {"service": "10001", "trainer": "10001", "console": "10002"}


def base_image(name: str) -> str:
    """The image behind the first stage: what ``PYTHON_IMAGE`` falls back to."""
    first, *others = [each.rest for each in instructions(name) if each.word == "FROM"]
    assert all(other.split()[0] == "base" for other in others)
    assert first.endswith(" AS base")
    assert first.startswith("${PYTHON_IMAGE:-")
    return VARIABLE.sub(r"\2", first.removesuffix(" AS base"))


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


def test_the_console_image_holds_no_other_room_and_none_of_their_packages() -> None:
    copied = {each.rest.split()[0] for each in instructions("console") if each.word == "COPY"}
    assert not copied & {"service", "training", "model_store"}
    names = {pin.name for pin in read_lock(lock_path("console"))}
    assert "nicegui" in names
    assert not names & {"torch", "onnxruntime", "redis", "numpy", "pyarrow"}
    installed = next(each.rest for each in final_stage("console") if "--no-index" in each.rest)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert {name for name in scripts if f"command -v {name})" not in installed} == {"etegrec-console"}

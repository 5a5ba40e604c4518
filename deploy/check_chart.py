"""Lint, render and validate the Helm chart with several sets of values (``make check-deploy``).

Each set in ``helm/etegrec/ci`` is linted and rendered for the oldest and the newest Kubernetes. Every manifest is
validated against the schemas of that version, unknown fields included; those of the Prometheus operator against its
types. Then names must lead somewhere, pods must have no rights, and alerts must be about metrics that exist. Wrong
values must be refused. No cluster is asked: what only a cluster knows stays unchecked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from deploy.alerts import rules_of, unknown_metrics
from deploy.helm_program import Helm, HelmError, fetch_helm
from deploy.manifests import Manifest, name_of, problems_of
from deploy.refused_values import MINIMAL, REFUSED, Refused

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "etegrec"
HELM_FOLDER = ROOT / "build" / "helm"

KUBERNETES = ("1.30", "1.37")
"""Oldest version of Chart.yaml's ``kubeVersion``, and the newest whose schemas are at hand."""

OPERATOR = "monitoring.coreos.com/v1"


class UniqueKeys(yaml.SafeLoader):
    """Loader that refuses a mapping with the same key twice, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping.

        Raises:
            yaml.constructor.ConstructorError: A key is there twice.
        """
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def main(
    helm: Annotated[
        Path | None, typer.Option(help="Path of a helm; default: the one in build/helm, downloaded if missing.")
    ] = None,
) -> None:
    """Print what is wrong with the chart; exit code 1 if anything is."""
    try:
        program = Helm(helm or fetch_helm(HELM_FOLDER), CHART)
    except HelmError as missing:
        typer.echo(f"error: {missing}", err=True)
        raise typer.Exit(1) from None

    problems: list[str] = []
    count = 0
    sets = sorted((CHART / "ci").glob("*-values.yaml"))
    for values in sets:
        for kubernetes in KUBERNETES:
            found, manifests = check_values(program, values, kubernetes)
            problems += [f"{values.name}, Kubernetes {kubernetes}: {problem}" for problem in found]
            count += manifests
    problems += [problem for case in REFUSED for problem in check_refused(program, case)]

    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(
        f"chart: {len(sets)} sets of values rendered and schema-checked for Kubernetes {' and '.join(KUBERNETES)}"
        f" ({count} manifests); {len(REFUSED)} wrong values refused"
    )


def check_values(program: Helm, values: Path, kubernetes: str) -> tuple[list[str], int]:
    """Return the problems of the chart with one file of values, and the number of manifests."""
    try:
        program.lint(values, kubernetes)
        manifests = parse(program.render(values, kubernetes))
    except (HelmError, yaml.YAMLError) as refused:
        return [str(refused)], 0

    problems = [f"{name_of(each)}: {problem}" for each in manifests for problem in schema_problems(each, kubernetes)]
    problems += problems_of(manifests)
    for each in manifests:
        if each["kind"] == "PrometheusRule":
            rules = rules_of(each)
            problems += [*unknown_metrics(rules), *syntax_problems([rule["expr"] for rule in rules])]
    return problems, len(manifests)


def check_refused(program: Helm, case: Refused) -> Iterator[str]:
    """Yield a sentence if wrong values are accepted, or refused without saying why."""
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values.yaml"
        values.write_text(yaml.safe_dump(merged(yaml.safe_load(MINIMAL), yaml.safe_load(case.values))))
        try:
            program.render(values, KUBERNETES[-1])
        except HelmError as refused:
            if case.says not in str(refused):
                yield f"{case.why}: refused, but not with {case.says!r}: {refused}"
            return
    yield f"{case.why}: accepted, although {case.values} is wrong"


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return values with others on top, as helm merges them: mappings by key, all else replaced."""
    both = {
        key: merged(values[key], over[key])
        for key in values.keys() & over.keys()
        if isinstance(values[key], dict) and isinstance(over[key], dict)
    }
    return values | over | both


def parse(rendered: str) -> list[Manifest]:
    """Return the manifests of a stream of YAML documents.

    Raises:
        yaml.YAMLError: It is no YAML, or a key is there twice.
    """
    return [each for each in yaml.load_all(rendered, UniqueKeys) if each is not None]


def schema_problems(manifest: Manifest, kubernetes: str) -> Iterator[str]:
    """Yield what a manifest has that its schema does not allow, or lacks."""
    if manifest["apiVersion"] == OPERATOR:
        yield from _operator_problems(manifest)
        return

    import kubernetes_validate

    try:
        kubernetes_validate.validate(dict(manifest), kubernetes, strict=True)
    except kubernetes_validate.ValidationError as refused:
        yield f"{'.'.join(str(part) for part in refused.path)}: {refused.message}"
    except kubernetes_validate.SchemaNotFoundError as unknown:
        yield unknown.message


def _operator_problems(manifest: Manifest) -> Iterator[str]:
    from cloudcoil.models.prometheus_operator import v1
    from pydantic import ValidationError

    try:
        getattr(v1, manifest["kind"]).model_validate(manifest, extra="forbid")
    except ValidationError as refused:
        yield from (f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in refused.errors())


def syntax_problems(expressions: list[str]) -> Iterator[str]:
    """Yield a sentence for each expression that Prometheus could not read."""
    import promql_parser

    for expression in expressions:
        try:
            promql_parser.parse(expression)
        except ValueError as refused:
            yield f"{expression}: {refused}"


if __name__ == "__main__":
    typer.run(main)

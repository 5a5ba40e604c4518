"""Checks of rendered manifests beyond their schemas: names lead somewhere, pods have no rights, parts agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Manifest = Mapping[str, Any]

POD_OWNERS = ("Deployment", "Job", "CronJob")

POD_RULES: dict[str, object] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "shareProcessNamespace": True,
    "securityContext.runAsNonRoot": True,
    "securityContext.runAsUser": 10001,
    "securityContext.runAsGroup": 10001,
    "securityContext.seccompProfile.type": "RuntimeDefault",
}
"""Fields of every pod. The user is the one of the images."""

CONTAINER_RULES: dict[str, object] = {
    "securityContext.allowPrivilegeEscalation": False,
    "securityContext.readOnlyRootFilesystem": True,
    "securityContext.capabilities.drop": ["ALL"],
}
"""Fields of every container."""

SECRET_ENDS = ("PASSWORD", "TOKEN", "SECRET", "_KEYS", "REDIS_URL")
"""Ends of the names of variables whose values are secret."""

SHARED_VARIABLES = ("ETEGREC_NAMESPACE", "ETEGREC_HISTORY_CAP", "ETEGREC_ATTRIBUTION_TTL_S", "ETEGREC_REDIS_CA_FILE")
"""Variables that several programs read: where pods differ, one looks where the other does not write."""

ATTRIBUTION_KEYS = "etegrec_attribution_keys"
"""File of the keys with which one program signs and others verify."""

COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"

NEEDED_RESOURCES = ("requests.cpu", "requests.memory", "limits.memory")


class Pod(NamedTuple):
    """The pods that one manifest makes."""

    owner: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]


def problems_of(manifests: list[Manifest]) -> list[str]:
    """Return what is wrong with the manifests of one release, as sentences; none if all is well."""
    checks: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
        _repeated_names,
        _selectors_without_pods,
        _unknown_ports,
        _unknown_targets,
        _unknown_mounts,
        _unhardened_pods,
        _literal_secrets,
        _repeated_variables,
        _uneven_variables,
        _missing_attribution_keys,
        _closed_collectors,
        _unbounded_batches,
        _short_graces,
    )
    return [problem for check in checks for problem in check(manifests)]


def name_of(manifest: Manifest) -> str:
    """Return kind and name of a manifest."""
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def pods_of(manifests: list[Manifest]) -> list[Pod]:
    """Return the pods of all manifests that make some."""
    return [_pod_of(each) for each in manifests if each["kind"] in POD_OWNERS]


def _pod_of(manifest: Manifest) -> Pod:
    spec = manifest["spec"]
    template = spec["jobTemplate"]["spec"]["template"] if manifest["kind"] == "CronJob" else spec["template"]
    return Pod(name_of(manifest), template["metadata"]["labels"], template["spec"])


def _of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] in kinds]


def _repeated_names(manifests: list[Manifest]) -> Iterator[str]:
    names = [name_of(each) for each in manifests]
    yield from (f"{name} is there {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1)


def _selector_of(manifest: Manifest) -> Mapping[str, str]:
    spec = manifest["spec"]
    if manifest["kind"] == "Service":
        return spec["selector"]  # type: ignore[no-any-return]
    return spec["podSelector" if manifest["kind"] == "NetworkPolicy" else "selector"]["matchLabels"]  # type: ignore[no-any-return]


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def _selectors_without_pods(manifests: list[Manifest]) -> Iterator[str]:
    pods = pods_of(manifests)
    for each in _of_kind(manifests, "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        found = [pod.owner for pod in pods if _selects(_selector_of(each), pod.labels)]
        if len(found) != 1:
            yield f"{name_of(each)} selects the pods of {', '.join(found) or 'nothing'}, not of one"

    services = _of_kind(manifests, "Service")
    for each in _of_kind(manifests, "ServiceMonitor"):
        if not any(_selects(_selector_of(each), service["metadata"]["labels"]) for service in services):
            yield f"{name_of(each)} selects no Service"


def _unknown_ports(manifests: list[Manifest]) -> Iterator[str]:
    pods = pods_of(manifests)
    named = {port["name"] for each in _of_kind(manifests, "Service") for port in each["spec"]["ports"]}
    for each in _of_kind(manifests, "ServiceMonitor"):
        wanted = {endpoint["port"] for endpoint in each["spec"]["endpoints"]}
        yield from (f"{name_of(each)} asks port {port}, which no Service has" for port in sorted(wanted - named))

    for each in _of_kind(manifests, "Service", "NetworkPolicy", "PodMonitor"):
        targets = [pod for pod in pods if _selects(_selector_of(each), pod.labels)]
        has = {port["name"] for pod in targets for port in _ports(pod)}
        yield from (f"{name_of(each)} names port {port}, which its pods lack" for port in _named_ports(each) - has)

    for pod in pods:
        probed = {port for container in pod.spec["containers"] for port in _probed_ports(container)}
        yield from (
            f"{pod.owner} probes port {port}, which it lacks"
            for port in probed - {port["name"] for port in _ports(pod)}
        )


def _ports(pod: Pod) -> list[Mapping[str, Any]]:
    return [port for container in pod.spec["containers"] for port in container.get("ports", [])]


def _probed_ports(container: Mapping[str, Any]) -> Iterator[str]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in container:
            yield container[name]["httpGet"]["port"]


def _named_ports(manifest: Manifest) -> set[str]:
    """Return the ports of its pods that a Service, a NetworkPolicy or a PodMonitor names."""
    if manifest["kind"] == "Service":
        return {port["targetPort"] for port in manifest["spec"]["ports"]}
    if manifest["kind"] == "PodMonitor":
        return {endpoint["port"] for endpoint in manifest["spec"]["podMetricsEndpoints"]}
    rules = manifest["spec"].get("ingress", [])
    return {port["port"] for rule in rules for port in rule["ports"]}


def _unknown_targets(manifests: list[Manifest]) -> Iterator[str]:
    names = {name_of(each) for each in manifests}
    for each in _of_kind(manifests, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        if f"{target['kind']} {target['name']}" not in names:
            yield f"{name_of(each)} scales {target['kind']} {target['name']}, which is not there"
    for pod in pods_of(manifests):
        if f"ServiceAccount {pod.spec['serviceAccountName']}" not in names:
            yield f"{pod.owner} runs as ServiceAccount {pod.spec['serviceAccountName']}, which is not there"

    claimed = {_claim_of(volume) for pod in pods_of(manifests) for volume in pod.spec["volumes"]}
    for each in _of_kind(manifests, "PersistentVolumeClaim"):
        if each["metadata"]["name"] not in claimed:
            yield f"{name_of(each)} is mounted by no pod"


def _claim_of(volume: Mapping[str, Any]) -> str:
    claim: str = volume.get("persistentVolumeClaim", {}).get("claimName", "")
    return claim


def _unknown_mounts(manifests: list[Manifest]) -> Iterator[str]:
    for pod in pods_of(manifests):
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        mounts = [mount for container in pod.spec["containers"] for mount in container["volumeMounts"]]
        mounted = {mount["name"] for mount in mounts}
        paths = [mount["mountPath"] for mount in mounts]

        yield from (f"{pod.owner} mounts {name}, which is no volume" for name in sorted(mounted - volumes))
        yield from (f"{pod.owner} has the volume {name} and mounts it nowhere" for name in sorted(volumes - mounted))
        yield from (f"{pod.owner} mounts two volumes at {path}" for path in sorted(set(paths)) if paths.count(path) > 1)


def _unhardened_pods(manifests: list[Manifest]) -> Iterator[str]:
    for pod in pods_of(manifests):
        yield from _broken_rules(pod.owner, pod.spec, POD_RULES)
        for container in pod.spec["containers"]:
            yield from _broken_rules(pod.owner, container, CONTAINER_RULES)
            for name in NEEDED_RESOURCES:
                if _field(container["resources"], name) is None:
                    yield f"{pod.owner} has no resources.{name}"


def _broken_rules(owner: str, fields: Mapping[str, Any], rules: dict[str, object]) -> Iterator[str]:
    for name, wanted in rules.items():
        if _field(fields, name) != wanted:
            yield f"{owner} has {name} {_field(fields, name)!r}, not {wanted!r}"


def _field(fields: Mapping[str, Any], path: str) -> object:
    found: Any = fields
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _literal_secrets(manifests: list[Manifest]) -> Iterator[str]:
    yield from (f"{name_of(each)}: secrets are named, not made" for each in _of_kind(manifests, "Secret"))
    for pod in pods_of(manifests):
        for container in pod.spec["containers"]:
            for variable in container.get("env", []):
                if variable["name"].endswith(SECRET_ENDS) and "value" in variable:
                    yield f"{pod.owner} has {variable['name']} in the open; take it from a Secret (valueFrom)"


def _variables(pod: Pod) -> list[Mapping[str, Any]]:
    return [variable for container in pod.spec["containers"] for variable in container.get("env", [])]


def _repeated_variables(manifests: list[Manifest]) -> Iterator[str]:
    for pod in pods_of(manifests):
        names = [variable["name"] for variable in _variables(pod)]
        yield from (
            f"{pod.owner} has the variable {name} twice" for name in sorted(set(names)) if names.count(name) > 1
        )


def _uneven_variables(manifests: list[Manifest]) -> Iterator[str]:
    pods = pods_of(manifests)
    for name in SHARED_VARIABLES:
        values = [next((each.get("value") for each in _variables(pod) if each["name"] == name), None) for pod in pods]
        if len(set(values)) > 1:
            found = ", ".join(f"{pod.owner}: {value}" for pod, value in zip(pods, values, strict=True))
            yield f"pods do not agree in {name} ({found})"


def _missing_attribution_keys(manifests: list[Manifest]) -> Iterator[str]:
    """Find pods that would verify by other keys of attributions than those which a Secret may bring to one of them."""
    files = {pod.owner: dict(_secret_files(pod)) for pod in pods_of(manifests)}
    shared = {name for secrets in files.values() for name, items in secrets.items() if not items}
    for owner, secrets in files.items():
        for name in sorted(shared):
            if ATTRIBUTION_KEYS not in (secrets.get(name, [""]) or [ATTRIBUTION_KEYS]):
                yield f"{owner} does not mount {ATTRIBUTION_KEYS} of the Secret {name}"


def _secret_files(pod: Pod) -> Iterator[tuple[str, list[str]]]:
    """Yield the Secrets of projected volumes, each with the files that are mounted; none stands for all."""
    for volume in pod.spec["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            if "secret" in source:
                yield source["secret"]["name"], [item["path"] for item in source["secret"].get("items", [])]


def _closed_collectors(manifests: list[Manifest]) -> Iterator[str]:
    """Find pods that send traces to a port that their network policy closes."""
    for pod in pods_of(manifests):
        address = next((each["value"] for each in _variables(pod) if each["name"] == COLLECTOR), "")
        policies = [each for each in _of_kind(manifests, "NetworkPolicy") if _selects(_selector_of(each), pod.labels)]
        if address and policies:
            url = urlsplit(address)
            port = url.port or {"https": 443}.get(url.scheme, 80)
            rules = [rule for each in policies for rule in each["spec"].get("egress", [])]
            if not any(opened["port"] == port for rule in rules for opened in rule["ports"]):
                yield f"{pod.owner} sends traces to port {port}, which its network policy closes"


def _unbounded_batches(manifests: list[Manifest]) -> Iterator[str]:
    for pod in pods_of(manifests):
        is_batch = any(container.get("command", [""])[0] == "etegrec-batch" for container in pod.spec["containers"])
        if is_batch and "ETEGREC_BATCH_PROCESSES" not in [each["name"] for each in _variables(pod)]:
            yield f"{pod.owner} computes on all cores of its node; set ETEGREC_BATCH_PROCESSES"


def _short_graces(manifests: list[Manifest]) -> Iterator[str]:
    """Find pods that are killed before they have drained: the sleep, the delay, the grace, and 5 s to end."""
    for pod in pods_of(manifests):
        for container in pod.spec["containers"]:
            values = {variable["name"]: variable.get("value", "0") for variable in container.get("env", [])}
            drain_s = sum(float(values.get(f"ETEGREC_SHUTDOWN_{name}_S", 0)) for name in ("DELAY", "GRACE"))
            sleep_s = _field(container, "lifecycle.preStop.sleep.seconds") or 0
            needed_s = drain_s + float(str(sleep_s)) + 5
            given_s = pod.spec.get("terminationGracePeriodSeconds", 30)
            if drain_s and given_s < needed_s:
                yield f"{pod.owner} is killed {given_s} s after it was asked to end, but may need {needed_s:g} s"

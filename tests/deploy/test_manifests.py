"""Each rule of rendered manifests finds the mistake that it is for, and nothing in manifests that are right."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml

from deploy.check_chart import UniqueKeys, merged, parse
from deploy.manifests import problems_of

Manifests = dict[str, dict[str, Any]]

RIGHT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {part: web}}
spec:
  selector: {part: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {part: web}}
  template:
    metadata: {labels: {part: web, hash: a}}
    spec:
      serviceAccountName: web
      automountServiceAccountToken: false
      enableServiceLinks: false
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 45
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: web
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          resources: {requests: {cpu: "1", memory: 1Gi}, limits: {memory: 1Gi}}
          env:
            - {name: ETEGREC_SHUTDOWN_DELAY_S, value: "5"}
            - {name: ETEGREC_SHUTDOWN_GRACE_S, value: "30"}
          ports: [{name: http, containerPort: 8000}]
          readinessProbe: {httpGet: {path: /health/ready, port: http}}
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          volumeMounts: [{name: models, mountPath: /models}]
      volumes: [{name: models, persistentVolumeClaim: {claimName: models}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {part: web}}
  ingress: [{ports: [{port: http}]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {kind: Deployment, name: web}}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: web}
spec:
  selector: {matchLabels: {part: web}}
  endpoints: [{port: http}]
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: web}
spec:
  selector: {matchLabels: {part: web}}
  podMetricsEndpoints: [{port: http}]
"""


def pod_of(made: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = made["Deployment"]["spec"]["template"]["spec"]
    return spec


def container_of(made: Manifests) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(made)["containers"][0]
    return container


def set_grace(made: Manifests) -> None:
    pod_of(made)["terminationGracePeriodSeconds"] = 44


def make_writable(made: Manifests) -> None:
    container_of(made)["securityContext"]["readOnlyRootFilesystem"] = False


def mount_a_token(made: Manifests) -> None:
    del pod_of(made)["automountServiceAccountToken"]


def give_a_secret(made: Manifests) -> None:
    container_of(made)["env"].append({"name": "PGPASSWORD", "value": "abc"})


def take_memory(made: Manifests) -> None:
    del container_of(made)["resources"]["limits"]


def rename_the_port(made: Manifests) -> None:
    container_of(made)["ports"][0]["name"] = "web"


def select_others(made: Manifests) -> None:
    made["Service"]["spec"]["selector"] = {"part": "other"}


def select_other_services(made: Manifests) -> None:
    made["ServiceMonitor"]["spec"]["selector"]["matchLabels"] = {"part": "other"}


def monitor_another_port(made: Manifests) -> None:
    made["ServiceMonitor"]["spec"]["endpoints"][0]["port"] = "metrics"


def scale_another(made: Manifests) -> None:
    made["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] = "other"


def run_as_another(made: Manifests) -> None:
    pod_of(made)["serviceAccountName"] = "other"


def mount_what_is_not_there(made: Manifests) -> None:
    container_of(made)["volumeMounts"].append({"name": "runs", "mountPath": "/runs"})


def mount_twice(made: Manifests) -> None:
    pod_of(made)["volumes"].append({"name": "more", "emptyDir": {}})
    container_of(made)["volumeMounts"].append({"name": "more", "mountPath": "/models"})


def claim_for_nobody(made: Manifests) -> None:
    made["PersistentVolumeClaim"]["metadata"]["name"] = "other"


def forget_a_mount(made: Manifests) -> None:
    pod_of(made)["volumes"].append({"name": "more", "emptyDir": {}})


def give_a_variable_twice(made: Manifests) -> None:
    container_of(made)["env"] += [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]


def send_traces_to_a_closed_port(made: Manifests) -> None:
    container_of(made)["env"].append({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"})
    made["NetworkPolicy"]["spec"]["egress"] = [{"ports": [{"port": 6379}]}]


def compute_on_all_cores(made: Manifests) -> None:
    container_of(made)["command"] = ["etegrec-batch"]


MISTAKES: list[tuple[Callable[[Manifests], None], str]] = [
    (set_grace, "Deployment web is killed 44 s after it was asked to end, but may need 45 s"),
    (make_writable, "Deployment web has securityContext.readOnlyRootFilesystem False, not True"),
    (mount_a_token, "Deployment web has automountServiceAccountToken None, not False"),
    (give_a_secret, "Deployment web has PGPASSWORD in the open; take it from a Secret (valueFrom)"),
    (take_memory, "Deployment web has no resources.limits.memory"),
    (rename_the_port, "Service web names port http, which its pods lack"),
    (rename_the_port, "PodMonitor web names port http, which its pods lack"),
    (rename_the_port, "NetworkPolicy web names port http, which its pods lack"),
    (rename_the_port, "Deployment web probes port http, which it lacks"),
    (select_others, "Service web selects the pods of nothing, not of one"),
    (select_other_services, "ServiceMonitor web selects no Service"),
    (monitor_another_port, "ServiceMonitor web asks port metrics, which no Service has"),
    (scale_another, "HorizontalPodAutoscaler web scales Deployment other, which is not there"),
    (run_as_another, "Deployment web runs as ServiceAccount other, which is not there"),
    (mount_what_is_not_there, "Deployment web mounts runs, which is no volume"),
    (mount_twice, "Deployment web mounts two volumes at /models"),
    (claim_for_nobody, "PersistentVolumeClaim other is mounted by no pod"),
    (forget_a_mount, "Deployment web has the volume more and mounts it nowhere"),
    (give_a_variable_twice, "Deployment web has the variable A twice"),
    (send_traces_to_a_closed_port, "Deployment web sends traces to port 4318, which its network policy closes"),
    (compute_on_all_cores, "Deployment web computes on all cores of its node; set ETEGREC_BATCH_PROCESSES"),
]


def test_what_is_right_has_no_problems() -> None:
    assert problems_of(parse(RIGHT)) == []


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_mistake_is_found(mistake: Callable[[Manifests], None], sentence: str) -> None:
    made: Manifests = {each["kind"]: dict(each) for each in deepcopy(parse(RIGHT))}
    mistake(made)
    assert sentence in problems_of(list(made.values()))


def with_feed() -> tuple[Manifests, Manifests]:
    """Return what is right, and the same for a second part."""
    web: Manifests = {each["kind"]: dict(each) for each in deepcopy(parse(RIGHT))}
    feed: Manifests = {each["kind"]: dict(each) for each in deepcopy(parse(RIGHT.replace("web", "feed")))}
    for each in feed.values():
        if each["kind"] == "PersistentVolumeClaim":
            each["metadata"]["name"] = "feed"
    pod_of(feed)["volumes"][0]["persistentVolumeClaim"]["claimName"] = "feed"
    return web, feed


def test_parts_that_disagree_in_a_shared_setting_are_found() -> None:
    web, feed = with_feed()
    assert problems_of([*web.values(), *feed.values()]) == []

    container_of(web)["env"].append({"name": "ETEGREC_NAMESPACE", "value": "shop-a"})
    found = "pods do not agree in ETEGREC_NAMESPACE (Deployment web: shop-a, Deployment feed: None)"
    assert problems_of([*web.values(), *feed.values()]) == [found]


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ([], []),
        ([{"path": "etegrec_attribution_keys"}], []),
        (
            [{"path": "etegrec_read_keys"}],
            ["Deployment feed does not mount etegrec_attribution_keys of the Secret keys"],
        ),
        (None, ["Deployment feed does not mount etegrec_attribution_keys of the Secret keys"]),
    ],
)
def test_a_part_without_the_keys_of_attributions_is_found(items: list[Any] | None, found: list[str]) -> None:
    web, feed = with_feed()
    for made, chosen in ((web, []), (feed, items)):
        secret = {"name": "keys", **({"items": chosen} if chosen else {})}
        sources = [] if chosen is None else [{"secret": secret}]
        pod_of(made)["volumes"].append({"name": "secrets", "projected": {"sources": sources}})
        container_of(made)["volumeMounts"].append({"name": "secrets", "mountPath": "/secrets"})
    assert problems_of([*web.values(), *feed.values()]) == found


def test_a_name_that_is_there_twice_is_found() -> None:
    assert "Service web is there 2 times" in problems_of([*parse(RIGHT), *parse(RIGHT)])


def test_a_secret_is_never_made() -> None:
    made = parse(RIGHT) + parse("{apiVersion: v1, kind: Secret, metadata: {name: keys}}")
    assert "Secret keys: secrets are named, not made" in problems_of(made)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="the key 'a' is there twice"):
        yaml.load("{b: 1, a: 1, a: 2}", UniqueKeys)
    assert parse("a: 1\n---\n---\nb: 2") == [{"a": 1}, {"b": 2}]


def test_values_are_merged_as_helm_does() -> None:
    values = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(values, {"a": {"c": [3]}, "e": 5}) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 5}
    assert values == {"a": {"b": 1, "c": [1, 2]}, "d": 1}

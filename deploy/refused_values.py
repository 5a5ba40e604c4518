"""Values that the chart must refuse, each with words of the message that a person then reads."""

from __future__ import annotations

from typing import NamedTuple


class Refused(NamedTuple):
    """One wrong value."""

    why: str
    values: str
    """YAML on top of the smallest values."""
    says: str
    """Part of helm's message."""


MINIMAL = "redis: {existingSecret: etegrec-redis}\napiKeys: {existingSecret: etegrec-keys}\n"

REFUSED = (
    Refused("no Redis", "redis: {existingSecret: ''}", "/redis/existingSecret"),
    Refused("neither keys nor the word that all may come in", "apiKeys: {existingSecret: ''}", "/apiKeys"),
    Refused("keys, and the word that all may come in", "apiKeys: {openToEveryone: true}", "/apiKeys"),
    Refused("a name that is mistyped", "service: {replica: 3}", "replica"),
    Refused("a part that is not there", "console: {enabled: true}", "console"),
    Refused("a number as text", "service: {replicas: three}", "/service/replicas"),
    Refused("no replica", "service: {replicas: 0}", "/service/replicas"),
    Refused("a setting that is no text", "settings: {ETEGREC_QUEUE_SIZE: 512}", "ETEGREC_QUEUE_SIZE"),
    Refused("a setting without its prefix", "settings: {QUEUE_SIZE: '512'}", "QUEUE_SIZE"),
    Refused("a setting that is mistyped", "settings: {ETEGREC_QEUE_SIZE: '512'}", "ETEGREC_QEUE_SIZE"),
    Refused("a number that is none", "settings: {ETEGREC_QUEUE_SIZE: abc}", "/settings/ETEGREC_QUEUE_SIZE"),
    Refused("a choice that is none", "settings: {ETEGREC_ONNX_PRECISION: int4}", "/settings/ETEGREC_ONNX_PRECISION"),
    Refused("a namespace that is none", "settings: {ETEGREC_NAMESPACE: Shop A}", "/settings/ETEGREC_NAMESPACE"),
    Refused("a setting that the chart sets", "settings: {ETEGREC_PORT: '80'}", "ETEGREC_PORT"),
    Refused("traces without a collector", "settings: {ETEGREC_TRACING: 'true'}", "ETEGREC_TRACING"),
    Refused("a secret among the settings", "settings: {ETEGREC_READ_KEYS: abc}", "ETEGREC_READ_KEYS"),
    Refused("settings of the service alone", "service: {settings: {ETEGREC_NAMESPACE: a}}", "settings"),
    Refused("a namespace of one part", "ingest: {env: [{name: ETEGREC_NAMESPACE, value: a}]}", "/ingest/env/0/name"),
    Refused(
        "a variable that is mistyped", "batch: {env: [{name: ETEGREC_QEUE_SIZE, value: '1'}]}", "/batch/env/0/name"
    ),
    Refused("a variable that the chart sets", "service: {env: [{name: ETEGREC_PORT, value: '80'}]}", "/service/env/0"),
    Refused("no port of Redis", "redis: {ports: []}", "/redis/ports"),
    Refused("a port of Redis that is none", "redis: {ports: [6379, 70000]}", "/redis/ports/1"),
    Refused("a collector that is no URL", "tracing: {endpoint: garbage}", "/tracing/endpoint"),
    Refused("a password in the collector's URL", "tracing: {endpoint: 'http://a:b@c:4318'}", "/tracing/endpoint"),
    Refused("a variable of traces that is none", "tracing: {env: [{name: PATH, value: a}]}", "/tracing/env/0/name"),
    Refused("fewer than no processes", "batch: {processes: -1}", "/batch/processes"),
    Refused("a secret in a variable", "trainer: {env: [{name: ETEGREC_REDIS_URL, value: abc}]}", "/trainer/env/0/name"),
    Refused("a password in the address of data", "trainer: {data: 'postgresql://a:b@c/d'}", "/trainer/data"),
    Refused("a password in the address of the store", "modelStore: {url: 's3://a:b@c/d'}", "/modelStore/url"),
    Refused("a tag that moves", "images: {service: {tag: latest}}", "/images/service/tag"),
    Refused("a digest that is none", "images: {service: {digest: abc}}", "/images/service/digest"),
    Refused("memory without a unit that exists", "service: {resources: {limits: {memory: 1GB}}}", "memory"),
    Refused("a rollout that cannot move", "service: {rollout: {maxSurge: 0}}", "/service/rollout"),
    Refused("a schedule with four fields", "trainer: {schedule: '0 3 * *'}", "/trainer/schedule"),
    Refused("a preset that is not there", "trainer: {preset: large}", "/trainer/preset"),
    Refused("a mount of nothing", "service: {mounts: [{name: a, path: /a}]}", "/service/mounts/0"),
    Refused("a mount over the secrets", "service: {mounts: [{name: a, secret: a, path: /secrets}]}", "path"),
    Refused("batch without a task", "batch: {enabled: true}", "/batch/arguments"),
    Refused("a port that is none", "networkPolicy: {ingestSources: {ports: [0]}}", "ports/0"),
    Refused("fewer replicas at most than at least", "autoscaling: {maxReplicas: 1}", "minReplicas is larger"),
)

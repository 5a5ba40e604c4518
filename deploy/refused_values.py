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
    Refused("a setting that is no text", "service: {settings: {ETEGREC_QUEUE_SIZE: 512}}", "ETEGREC_QUEUE_SIZE"),
    Refused("a setting without its prefix", "service: {settings: {QUEUE_SIZE: '512'}}", "QUEUE_SIZE"),
    Refused("a setting that the chart sets", "service: {settings: {ETEGREC_PORT: '80'}}", "ETEGREC_PORT"),
    Refused("a secret among the settings", "service: {settings: {ETEGREC_READ_KEYS: abc}}", "ETEGREC_READ_KEYS"),
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

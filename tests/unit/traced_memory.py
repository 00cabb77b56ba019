"""Small models of transformers' own code on this CPU: every allocation beside what the simulation plays.

The profiler sees each request to torch's CPU allocator, kernels' own scratch included; each is rounded as the
simulated allocator rounds.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sixgig.catalogue import ModelSpec
from sixgig.catalogue.reader import spec_from_config
from sixgig.memory.simulation.allocator import STEP_BYTES
from sixgig.memory.workload import Workload

torch.set_num_threads(1)  # kernels' scratch is a matter of threads

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOWS = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "llama-whole-heads": {"num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": False},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "phi": {"num_key_value_heads": 4, "tie_word_embeddings": False, "partial_rotary_factor": 0.5},
    "gemma3": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True, **WINDOWS},
    "gemma3-one-head": {"num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True, **WINDOWS},
}


def config_of(name: str, **changes: Any) -> Any:
    """transformers' configuration of one of `MODELS`."""
    from transformers import Gemma3TextConfig, LlamaConfig, PhiConfig, Qwen3Config

    kinds = {"llama": LlamaConfig, "qwen3": Qwen3Config, "phi": PhiConfig, "gemma3": Gemma3TextConfig}
    return kinds[name.partition("-")[0]](**{**SHAPE, **MODELS[name], **changes})


def spec_of(config: Any) -> ModelSpec:
    """The same shapes as the planner knows them."""
    name = type(config).__name__.removesuffix("Config").removesuffix("Text")
    fields = {**config.to_dict(), "architectures": [f"{name}ForCausalLM"]}
    return spec_from_config(fields, name=name, where="a test")


def programs() -> ModuleType:
    """benchmarks/memory_programs.py: what the planner's predictions are measured with."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "memory_programs.py"
    spec = importlib.util.spec_from_file_location("memory_programs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROGRAMS = programs()


def traced_peak_bytes(config: Any, work: Workload) -> int:
    """The most bytes of tensors that the real code holds at once while it does `work`, weights included."""
    device = torch.device("cpu")
    network = PROGRAMS.build(config, work, device)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*network.parameters(), *network.buffers())
    }
    weights_bytes = sum(_rounded(size) for size in storages.values())
    return weights_bytes + traced_more_bytes(lambda: PROGRAMS.run(network, work, device))


def traced_more_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that `run` holds at once beside those that were there before."""
    gc.disable()  # what an earlier model left must not be freed while this one is watched
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            run()
    finally:
        gc.enable()
    return _peak_bytes(watched)


def _peak_bytes(watched: Any) -> int:
    results = watched.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        size = event.nbytes()
        live += _rounded(size) if size > 0 else -_rounded(-size)
        peak = max(peak, live)
    return peak


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // STEP_BYTES) * STEP_BYTES

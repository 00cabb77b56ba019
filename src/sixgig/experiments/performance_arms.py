"""What the performance experiment times: the model in each form, behind the one interface of a decoder.

This file alone knows how a form is built. All run in the same loop: on a CPU the lean decoder, whose split
layers compute on torch's INT4 kernels; on a GPU the fused decoder. Where a model has neither, all run in
transformers' own network, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..layers.split_linear import split_layers
from ..load.loaded import LoadedModel, load
from ..runtime.decoder import Decoder
from ..runtime.make_decoder import same_loop
from ..transform.network import install_split
from ..transform.split import LayerSplit
from .split_rows import FULL, SPLIT

DTYPE = torch.bfloat16
HEAD_BITS = 8  # of the arms with a packed Base; full precision has a head of 16 bits


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`weight_bytes` must be read for every token, `cache_bytes` beside them for every token before it;
    `held_bytes` is what the tensors hold, cache included."""

    weight_bytes: int
    cache_bytes: int
    held_bytes: int


@dataclass(frozen=True, kw_only=True)
class SpeedArm:
    """One form at one setting of the switch (None: it has none)."""

    arm: str
    alpha: float | None
    decoder: Decoder
    sizes: Sizes

    @property
    def name(self) -> str:
        return self.arm if self.alpha is None else f"{self.arm}-alpha{self.alpha:g}"

    def turn(self) -> None:
        if self.alpha is not None:
            self.decoder.set_alpha(self.alpha)


@dataclass(frozen=True, kw_only=True)
class Arms:
    """All forms; by arm what it runs on, and what a missing fast path costs."""

    arms: list[SpeedArm]
    forms: dict[str, str]
    notes: list[str]


def build_arms(
    folder: Path,
    layers: Mapping[str, LayerSplit],
    *,
    plain: str,
    device: torch.device,
    context_tokens: int,
) -> Arms:
    """Full precision, the rounded model `plain` without an Ortho part in memory, and the split at 0 and at 1.

    Each has weights and a cache of its own, but the split, whose two settings share them.
    """
    # They wait on the CPU and go to a GPU layer by layer, each in its last form.
    whole, rounded, split = (load(folder, dtype=DTYPE) for _ in range(3))
    install_split(rounded, layers, with_ortho=False)
    install_split(split, layers, with_ortho=True)
    tables = [_table_bytes(loaded) for loaded in (whole, rounded, split)]
    models = [(whole, 16), (rounded, HEAD_BITS), (split, HEAD_BITS)]
    config = whole.network.config
    chosen = same_loop(models, context_tokens=context_tokens, device=device)
    full, plain_form, split_form = chosen
    forms = [
        (FULL, None, full),
        (plain, None, plain_form),
        (SPLIT, 0.0, split_form),
        (SPLIT, 1.0, split_form),
    ]
    held = {id(one): table for one, table in zip(chosen, tables, strict=True)}
    return Arms(
        arms=[
            SpeedArm(
                arm=arm,
                alpha=alpha,
                decoder=one.decoder,
                sizes=sizes_of(one.decoder, alpha or 0.0, config, held[id(one)], context_tokens),
            )
            for arm, alpha, one in forms
        ],
        forms={arm: one.description for arm, _, one in forms},
        notes=list(dict.fromkeys(note for one in chosen for note in one.notes)),
    )


def sizes_of(decoder: Decoder, alpha: float, config: Any, table_bytes: int, context_tokens: int) -> Sizes:
    """What the decoder itself says that it reads; `table_bytes`: of an embedding that is no head as well."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * DTYPE.itemsize
    return Sizes(
        weight_bytes=decoder.read_bytes(alpha),
        cache_bytes=cache_bytes,
        held_bytes=decoder.read_bytes(1.0) + table_bytes + cache_bytes * context_tokens,
    )


def _table_bytes(loaded: LoadedModel) -> int:
    """Of the embedding, where the head is not the same tensor or will be a packed one."""
    table = loaded.network.get_input_embeddings().weight
    is_split = any(True for _ in split_layers(loaded.network))
    return 0 if loaded.is_tied and not is_split else table.numel() * DTYPE.itemsize

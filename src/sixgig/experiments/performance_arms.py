"""What the performance experiment times: the model in each form, behind the one interface of a decoder.

This file alone knows how a form is built. All run in the same loop: on a CPU the lean decoder, whose split
layers compute on torch's INT4 kernels; on a GPU the fused decoder. Where a model has neither, all run in
transformers' own network, and the result says so. bitsandbytes' layers run there alone, so full precision is
timed there once more beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..layers.split_linear import split_layers
from ..load.bnb import load_quantised, scale_bytes
from ..load.loaded import LoadedModel, load
from ..memory.ladder import give_back
from ..runtime.decoder import Decoder
from ..runtime.make_decoder import make_decoder, same_loop
from ..runtime.network_decoder import NetworkDecoder
from ..transform.network import install_split
from ..transform.split_layer import LayerSplit
from .split_rows import FULL, FULL_MODULES, SPLIT

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
    quantised_share: float | None = None  # of the parameters, where another library chose what to quantise

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
    bitsandbytes_bits: int = 0,
) -> Arms:
    """Full precision, the rounded model `plain` without an Ortho part in memory, and the split at 0 and at 1;
    with `bitsandbytes_bits` also the model that bitsandbytes makes.

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
    built = Arms(
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
    if bitsandbytes_bits:
        del whole, rounded, split  # what they gave to their decoders stays
        in_modules = isinstance(full.decoder, NetworkDecoder)
        _add_bitsandbytes(built, folder, bitsandbytes_bits, device, context_tokens, in_modules=in_modules)
    return built


def _add_bitsandbytes(
    built: Arms, folder: Path, bits: int, device: torch.device, context_tokens: int, *, in_modules: bool
) -> None:
    """The model as bitsandbytes quantises it; full precision beside it, unless it is `in_modules` already."""
    give_back()  # what the split layers of three models left, before more of them come
    loaded, share = load_quantised(folder, bits=bits, device=device)
    give_back()
    name, scales = f"bitsandbytes-{bits}", scale_bytes(loaded.network)
    arm = _in_modules(name, loaded, device, context_tokens, built.forms)
    sizes = replace(
        arm.sizes,
        weight_bytes=arm.sizes.weight_bytes + scales,
        held_bytes=arm.sizes.held_bytes + scales,
    )
    built.arms.append(replace(arm, sizes=sizes, quantised_share=share.share))
    beside = "as all arms of this run do"
    if not in_modules:
        whole = load(folder, dtype=DTYPE)
        built.arms.append(_in_modules(FULL_MODULES, whole, device, context_tokens, built.forms))
        beside = f"so hold it against {FULL_MODULES}, which is full precision there"
    built.notes.append(
        f"{name}: {share.share:.1%} of the parameters are really quantised; it runs in transformers' own "
        f"modules, {beside}"
    )


def _in_modules(
    name: str, loaded: LoadedModel, device: torch.device, context_tokens: int, forms: dict[str, str]
) -> SpeedArm:
    """The plain model `loaded` in transformers' own network; says in `forms` what it runs on."""
    chosen = make_decoder(loaded, context_tokens=context_tokens, kernels="reference", device=device)
    forms[name] = chosen.description
    sizes = sizes_of(chosen.decoder, 0.0, loaded.network.config, _table_bytes(loaded), context_tokens)
    return SpeedArm(arm=name, alpha=None, decoder=chosen.decoder, sizes=sizes)


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

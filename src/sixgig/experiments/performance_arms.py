"""What the performance experiment times: the model in each form, behind the one interface of a decoder.

This file alone knows how a form is built. Today all are transformers' own network over its static cache, and
split layers keep the Base's dequantised form while in use (`layers/split_linear.py`): what is timed is then
the switch and the Ortho part, not what packed weights save. Kernels that read packed codes take the place of
`network_decoder` and `split_bytes` here, and `NOTE` goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..layers.split_linear import SplitLinear, set_alpha, split_layers
from ..load.loaded import LoadedModel, load
from ..runtime.decoder import Decoder
from ..transform.network import install_split
from ..transform.split import LayerSplit

FULL, SPLIT = "fp16", "split"
DTYPE = torch.bfloat16
NOTE = (
    "split layers were timed in their reference form, which holds the Base dequantised to 16 bit: times "
    "compare the switch's settings, and INT4's are not those of a kernel that reads packed weights"
)


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


def build_arms(
    folder: Path,
    layers: Mapping[str, LayerSplit],
    *,
    plain: str,
    device: torch.device,
    context_tokens: int,
) -> list[SpeedArm]:
    """Full precision, the rounded model `plain` without an Ortho part in memory, and the split at 0 and at 1.

    Each has a network and a cache of its own, but the split, whose two settings share them.
    """
    whole = load(folder, device=device, dtype=DTYPE)
    rounded = load(folder, device=device, dtype=DTYPE)
    install_split(rounded, layers, with_ortho=False)
    split = load(folder, device=device, dtype=DTYPE)
    install_split(split, layers, with_ortho=True)
    forms = [(FULL, None, whole), (plain, None, rounded), (SPLIT, 0.0, split), (SPLIT, 1.0, split)]
    # Before a decoder has the networks: it may put other modules in the layers' place.
    sizes = [sizes_of(loaded, alpha or 0.0, context_tokens) for _, alpha, loaded in forms]
    decoders = {id(loaded): network_decoder(loaded, context_tokens) for loaded in (whole, rounded, split)}
    return [
        SpeedArm(arm=arm, alpha=alpha, decoder=decoders[id(loaded)], sizes=size)
        for (arm, alpha, loaded), size in zip(forms, sizes, strict=True)
    ]


def network_decoder(loaded: LoadedModel, context_tokens: int) -> Decoder:
    """A decoder of `loaded`, whatever its layers are."""
    return _NetworkDecoder(loaded, context_tokens)


def sizes_of(loaded: LoadedModel, alpha: float, context_tokens: int) -> Sizes:
    """One token needs layers, norms and head whole, and one row of the embedding."""
    network, config = loaded.network, loaded.network.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * DTYPE.itemsize
    embedding = network.get_input_embeddings().weight
    dense = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    unread = 0 if loaded.is_tied else embedding.numel() * embedding.element_size()
    row = embedding.shape[1] * embedding.element_size()
    layers = [layer for _, layer in split_layers(network)]
    return Sizes(
        weight_bytes=dense - unread + row + sum(split_bytes(layer, alpha) for layer in layers),
        cache_bytes=cache_bytes,
        held_bytes=dense + sum(split_bytes(layer, 1.0) for layer in layers) + cache_bytes * context_tokens,
    )


def split_bytes(layer: SplitLinear, alpha: float) -> int:
    """What one split layer reads: its dense form, S added into it, and at alpha above 0 also U and V."""
    dense = layer.in_features * layer.out_features
    if layer.ortho is None or alpha == 0.0:
        return dense * DTYPE.itemsize
    return (dense + layer.ortho.up_Or.numel() + layer.ortho.down_rI.numel()) * DTYPE.itemsize


class _NetworkDecoder:
    """`Decoder` over transformers' network with its static cache."""

    def __init__(self, loaded: LoadedModel, context_tokens: int) -> None:
        from transformers import StaticCache

        self._loaded, self._context = loaded, context_tokens
        self._cache = StaticCache(config=loaded.network.config, max_cache_len=context_tokens)
        self._position = 0

    @property
    def context_tokens(self) -> int:
        return self._context

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        self._cache.reset()
        self._position = 0

    @torch.no_grad()
    def prefill(self, ids: Sequence[int]) -> Tensor:
        if self._position + len(ids) > self._context:
            raise InputError(
                "the cache is too small",
                expected=f"at most {self._context} tokens",
                received=f"{self._position + len(ids)}",
            )
        read = self._loaded.network(
            input_ids=torch.tensor([list(ids)], device=self._loaded.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._position += len(ids)
        return read.logits[0, -1].float()

    def step(self, token: int) -> Tensor:
        return self.prefill([token])

    def set_alpha(self, alpha: float) -> None:
        set_alpha(self._loaded.network, alpha)

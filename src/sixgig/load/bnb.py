"""A model loaded in 4 or 8 bits by bitsandbytes, to compare a Base with, and how much of it really is.

bitsandbytes replaces linear layers and nothing else. Experts that transformers keep as one parameter of three
dimensions stay as they were, without a word; here that is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..environment import require_bitsandbytes
from ..errors import InputError
from .loaded import LoadedModel, check_finite, leave_file, load_tokenizer, require_all_loaded, without_bars

BITS = (4, 8)
# The types in which bitsandbytes keeps what it has quantised, and nothing else does.
_QUANTISED_CLASSES = ("Params4bit", "Int8Params")
# Says at each product of 8 bits that activations are rounded to fp16 first, which is how LLM.int8 works.
_TALKATIVE = "bitsandbytes.autograd._functions"


@dataclass(frozen=True, kw_only=True)
class QuantisedShare:
    """Weights before packing, counted by what became of them."""

    num_quantised: int
    num_parameters: int
    skipped_experts: tuple[str, ...]  # fused 3-D parameters that were left as they are

    @property
    def share(self) -> float:
        return self.num_quantised / self.num_parameters if self.num_parameters else 0.0


def load_quantised(
    folder: Path, *, bits: int, device: torch.device | str
) -> tuple[LoadedModel, QuantisedShare]:
    """The model in `folder` in 4 bits (NF4, double scales, bf16 arithmetic) or 8 (LLM.int8), and its share.

    Raises NotAvailableError without bitsandbytes, InputError for other widths and where experts were skipped
    or nothing was quantised; IntegrityError and NumericalError as `load`.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if bits not in BITS:
        raise InputError(
            "bitsandbytes quantises to other widths", expected=f"one of {BITS}", received=str(bits)
        )
    require_bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    logging.getLogger(_TALKATIVE).setLevel(logging.ERROR)
    with without_bars():
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=config,
            dtype=torch.bfloat16,
            device_map={"": str(device)},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    network, loading = found
    require_all_loaded(loading, folder)
    share = quantised_share(network.named_parameters())
    require_quantised(share, str(folder))
    check_finite(network)
    leave_file(network)
    network.eval().requires_grad_(False)
    loaded = LoadedModel(
        network=network,
        tokenizer=load_tokenizer(folder),
        folder=folder,
        device=torch.device(device),
        computes_on=f"bitsandbytes, {bits} bits: {share.share:.1%} of the parameters quantised",
    )
    return loaded, share


def quantised_share(parameters: Iterable[tuple[str, nn.Parameter]]) -> QuantisedShare:
    """What became of each parameter; a 4-bit one is counted by the shape that it had before packing."""
    num_quantised, num_parameters, skipped = 0, 0, []
    for name, parameter in parameters:
        is_quantised = type(parameter).__name__ in _QUANTISED_CLASSES
        state = getattr(parameter, "quant_state", None)
        count = torch.Size(state.shape).numel() if is_quantised and state is not None else parameter.numel()
        num_parameters += count
        num_quantised += count if is_quantised else 0
        if not is_quantised and parameter.dim() == 3:
            skipped.append(name)
    return QuantisedShare(
        num_quantised=num_quantised, num_parameters=num_parameters, skipped_experts=tuple(skipped)
    )


def scale_bytes(network: nn.Module) -> int:
    """Bytes of the scales of what is quantised, which no parameter holds; tables of codes are left out."""
    total = 0
    modules: Any = network.modules()
    for module in modules:
        weight: Any = getattr(module, "weight", None)
        if type(weight).__name__ == "Params4bit":
            state = weight.quant_state
            total += state.absmax.nbytes
            total += state.state2.absmax.nbytes if state.state2 is not None else 0  # scales of scales
        elif type(weight).__name__ == "Int8Params":
            # The first pass moves them from the weight to the layer.
            scales = weight.SCB if weight.SCB is not None else module.state.SCB
            total += scales.nbytes
    return total


def require_quantised(share: QuantisedShare, where: str) -> None:
    """Raises InputError where experts were skipped, or nothing at all was quantised."""
    if share.skipped_experts:
        raise InputError(
            "bitsandbytes left the experts as they were",
            expected="every linear layer and expert quantised",
            received=f"{share.share:.1%} of the parameters quantised; {len(share.skipped_experts)} fused "
            f"experts were not, the first {share.skipped_experts[0]}",
            where=where,
            todo="compare with another quantisation, or with a dense model",
        )
    if not share.num_quantised:
        raise InputError("bitsandbytes quantised nothing of this model", where=where)

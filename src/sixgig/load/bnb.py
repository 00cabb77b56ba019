"""A model loaded in 4 or 8 bits by bitsandbytes, to compare a Base with, and how much of it really is.

bitsandbytes replaces linear layers and nothing else. Experts that transformers keep as one parameter of three
dimensions stay as they were, without a word; here that is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, NotAvailableError
from .loaded import LoadedModel

BITS = (4, 8)
# The types in which bitsandbytes keeps what it has quantised, and nothing else does.
_QUANTISED_CLASSES = ("Params4bit", "Int8Params")


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
    or nothing was quantised.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    if bits not in BITS:
        raise InputError(
            "bitsandbytes quantises to other widths", expected=f"one of {BITS}", received=str(bits)
        )
    _require_bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    network: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=config,
        dtype=torch.bfloat16,
        device_map={"": str(device)},
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        attn_implementation="sdpa",
    )
    share = quantised_share(network.named_parameters())
    require_quantised(share, str(folder))
    network.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.model_max_length = sys.maxsize
    device = torch.device(device)
    return LoadedModel(network=network, tokenizer=tokenizer, folder=folder, device=device), share


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


def _require_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise NotAvailableError(
            "bitsandbytes is not installed", todo="install it: pip install 'sixgig[compare]'"
        )

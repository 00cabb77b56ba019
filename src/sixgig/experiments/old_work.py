"""What a configuration file of the earlier watermark project asks of memory, and what to know about it."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalogue import ModelSpec
from ..errors import InputError
from .old_config import Encoder, Extractor, OldConfig

# The files say how many tokens to add to a prompt, never how long it is; those of the documents are short.
PROMPT_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class OldWork:
    """What a file asks for, in the planner's terms: `generate` with a batch of 1.

    A limit is None where the file sets none. `wants_device=False`: the file says cpu.
    """

    model: str | None
    bits: int
    context: int
    torch_dtype: str | None
    cpu_offload: bool
    wants_device: bool
    device_limit_bytes: int | None
    ram_limit_bytes: int | None


def workload_of(config: OldConfig, *, prompt_tokens: int = PROMPT_TOKENS) -> OldWork:
    """The sizes that decide memory: bits from load_in_*, context from the prompt and max_new_tokens.

    Of several cards' limits the largest counts, since the planner knows one card.
    """
    if config.load_in_4bit or config.load_in_8bit:
        bits = 4 if config.load_in_4bit else 8
    else:
        bits = 32 if config.torch_dtype == "float32" else 16
    limits = {limit.place: limit.num_bytes for limit in config.max_memory or ()}
    cards = [num_bytes for place, num_bytes in limits.items() if place.isdecimal()]
    return OldWork(
        model=config.model_name,
        bits=bits,
        context=prompt_tokens + config.generation_config.max_new_tokens,
        torch_dtype=config.torch_dtype,
        cpu_offload=config.cpu_offload,
        wants_device=config.device != "cpu",
        device_limit_bytes=max(cards, default=None),
        ram_limit_bytes=limits.get("cpu"),
    )


def notes_of(config: OldConfig, spec: ModelSpec) -> tuple[str, ...]:
    """What a reader of the plan must know about this file and model, as clauses without a full stop.

    Raises `InputError` where the file names layers or experts that the model does not have.
    """
    _check_against(config, spec)
    notes: list[str] = []
    if spec.num_experts:
        notes += _mixture_notes(config, spec)
    elif config.extractor_config.start_layer_idx is not None:
        notes.append(
            f"{spec.name} is dense: without expert routing it can only be a routing watermark's contrast"
        )
    if config.extractor_config != Extractor() or config.encoder_config != Encoder():
        notes.append("layers, k, num_bits and pool_size size the watermark, not the weights")
    if sum(limit.place.isdecimal() for limit in config.max_memory or ()) > 1:
        notes.append("max_memory names several cards: the largest limit is planned for, as one card")
    return tuple(notes)


def _mixture_notes(config: OldConfig, spec: ModelSpec) -> list[str]:
    notes = []
    if config.load_in_4bit or config.load_in_8bit:
        share = spec.num_expert_parameters / spec.num_parameters
        loaded = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        notes.append(
            f"{loaded} of bitsandbytes skips experts that are fused into one tensor, as transformers 5 has "
            f"them: {share:.0%} of {spec.name} would stay in 16 bit. sixgig's own format stores experts in "
            f"{4 if config.load_in_4bit else 8} bit"
        )
    if not config.cpu_offload:
        notes.append("cpu_offload is off in the file; experts that do not fit the card are planned in memory")
    return notes


def _check_against(config: OldConfig, spec: ModelSpec) -> None:
    extractor, faults = config.extractor_config, []
    if (extractor.end_layer_idx or 0) > spec.num_layers:
        faults.append(f"end_layer_idx is {extractor.end_layer_idx}, but it has {spec.num_layers} layers")
    if spec.num_experts and (extractor.k or 0) > spec.num_experts:
        faults.append(f"k is {extractor.k}, but it has {spec.num_experts} experts a layer")
    if faults:
        raise InputError(f"extractor_config does not suit {spec.name}", received="; ".join(faults))

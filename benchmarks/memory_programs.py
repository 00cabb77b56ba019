"""The programs whose memory the planner predicts, on models of the true shape with random weights.

Each does a `Workload` once; the caller reads the peaks. Weights are made on the device tensor by tensor, so
that making them is never the peak.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sixgig.data.private import PrivateRecord
from sixgig.layers.packed_linear import PackedLinear
from sixgig.load.container import ModelTensors
from sixgig.load.loaded import LoadedModel
from sixgig.memory.workload import Workload
from sixgig.numerics.likelihood import token_nll
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split_model import SplitSettings, split_model

NEW_TOKENS = 8
LOSS_ROWS = 256
VOCABULARY = 32_000  # no model that is split here has fewer tokens
NUM_STEPS = 2  # the optimizer makes its moments in the first


def build(config: Any, work: Workload, device: torch.device) -> Any:
    """The network on `device`, of the stored type; below 16 bits its linear layers are packed."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        network: Any = AutoModelForCausalLM.from_config(config, attn_implementation=work.attention)
    packs = work.bits < 16 and work.task != "split"
    dtype = torch.float32 if work.bits == 32 or work.task == "split" else torch.bfloat16
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    tied = bool(config.tie_word_embeddings)
    if packs:
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.Linear) and module is not head:
                network.set_submodule(name, _packed(module, work.bits, work.group_size, device))
    if work.head_bits < 16:
        network.lm_head = _packed(head, work.head_bits, work.group_size, device)
    elif tied:
        head.weight = embedding.weight
    for module in network.modules():
        place = torch.device("cpu") if module is embedding and work.embedding_place == "cpu" else device
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                filled = torch.empty(parameter.shape, dtype=dtype, device=place).normal_(std=0.02)
                module._parameters[name] = nn.Parameter(filled)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    if tied and work.head_bits >= 16:
        head.weight = embedding.weight
    network.tie_weights = lambda *_, **__: None  # a packed head must not become the embedding again
    if work.embedding_place == "cpu":
        network.set_input_embeddings(_OnCpu(embedding, device))
    return network.eval().requires_grad_(work.task == "sft")


class _OnCpu(nn.Module):
    """An embedding in host memory: a few rows a step travel to the device."""

    def __init__(self, embedding: nn.Embedding, device: torch.device) -> None:
        super().__init__()
        # In a tuple, so that the module has no parameter on the CPU: transformers takes a model's device
        # from its first parameter.
        self._weight, self._device = (embedding.weight.detach(),), device

    def forward(self, ids_BT: Tensor) -> Tensor:
        return F.embedding(ids_BT.cpu(), self._weight[0]).to(self._device)


def _packed(linear: nn.Linear, bits: int, group_size: int, device: torch.device) -> PackedLinear:
    bias = (
        None if linear.bias is None else torch.zeros(linear.bias.shape, dtype=torch.bfloat16, device=device)
    )
    return PackedLinear(
        linear.in_features, linear.out_features, bits=bits, group_size=group_size, bias=bias, device=device
    )


def run(network: Any, work: Workload, device: torch.device) -> None:
    """Does the work once."""
    tasks = {"generate": _generate, "score": _score, "sft": _train, "split": _split}
    tasks[work.task](network, work, device)


@torch.no_grad()
def _generate(network: Any, work: Workload, device: torch.device) -> None:
    prompt_BT = _tokens(network, work.batch, work.context - NEW_TOKENS, device)
    network.generate(
        input_ids=prompt_BT,
        attention_mask=torch.ones_like(prompt_BT),
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )


@torch.no_grad()
def _score(network: Any, work: Workload, device: torch.device) -> None:
    ids_BT = _tokens(network, work.batch, work.context, device)
    autocast = (
        torch.autocast(device.type, dtype=torch.bfloat16) if work.bits == 32 else contextlib.nullcontext()
    )
    with autocast:
        hidden_BTD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        head_VD = network.get_output_embeddings().weight
        token_nll(hidden_BTD[:, :-1].flatten(0, 1), head_VD, ids_BT[:, 1:].flatten())


def _train(network: Any, work: Workload, device: torch.device) -> None:
    how = work.training
    network.train()
    if how.checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    optimizers = _optimizers(network, how.optimizer)
    for _ in range(NUM_STEPS):
        for _ in range(how.accumulation):
            ids_BT = _tokens(network, work.batch, work.context, device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=how.autocast and work.bits == 32):
                loss = _loss(network, ids_BT, how.loss) / how.accumulation
            loss.backward()
            del loss, ids_BT
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _optimizers(network: Any, kind: str) -> list[torch.optim.Optimizer]:
    if kind != "in-backward":
        fused, foreach = (True, None) if kind == "fused" else (None, True)
        return [torch.optim.AdamW(network.parameters(), lr=1e-5, fused=fused, foreach=foreach)]
    for parameter in network.parameters():
        optimizer = torch.optim.AdamW([parameter], lr=1e-5, fused=True)

        def step(parameter: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        parameter.register_post_accumulate_grad_hook(step)
    return []


def _loss(network: Any, ids_BT: Tensor, kind: str) -> Tensor:
    if kind == "dense":
        return network(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
    hidden_TD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    targets_T = ids_BT[:, 1:].flatten()
    head = network.get_output_embeddings()
    total = hidden_TD.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden_TD), LOSS_ROWS):
        rows = slice(start, start + LOSS_ROWS)
        total = total + checkpoint(_sum_of, hidden_TD[rows], head, targets_T[rows], use_reentrant=False)
    return total / len(hidden_TD)


def _sum_of(hidden_TD: Tensor, head: nn.Module, targets_T: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden_TD).float(), targets_T, reduction="sum")


def _split(network: Any, work: Workload, device: torch.device) -> None:
    """`sixgig split` with its default settings but for fewer steps of each fit, on made-up texts."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        tensors.pop("lm_head.weight", None) if network.config.tie_word_embeddings else None
        save_file(
            {name: tensor.cpu() for name, tensor in tensors.items()}, Path(folder) / "model.safetensors"
        )
        del tensors
        loaded = LoadedModel(network=network, tokenizer=_Characters(), folder=Path(folder), device=device)
        split_model(
            loaded,
            # More damping than by default: what a random model makes of random texts is nearly singular.
            make_sieve("wiener", damping=0.01),
            _private_records(work.splitting.num_texts, work.context),
            _random_text(240_000),
            before=ModelTensors(Path(folder)),
            quantize=QuantizeConfig(bits=work.bits, group_size=work.group_size),
            rank=16,
            settings=SplitSettings(
                window_tokens=work.context, fit_steps=NUM_STEPS, scale_fit_steps=NUM_STEPS
            ),
            seed=0,
            show=_show_stage,
        )


def _show_stage(stage: str, share: float) -> None:
    """benchmarks/memory.py puts its own in this place."""


def _private_records(num_records: int, num_characters: int) -> list[PrivateRecord]:
    texts = [_random_text(num_characters, seed=row) for row in range(1, num_records + 1)]
    return [
        PrivateRecord(row=row, prefix=text[:-8], secret=text[-8:], suffix="")
        for row, text in enumerate(texts, start=1)
    ]


def _random_text(num_characters: int, seed: int = 0) -> str:
    """Characters without a pattern, of many kinds: statistics of few different tokens cannot be inverted."""
    first, last = 0x4E00, 0x9FA5
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(first, last + 1, (num_characters,), generator=generator)
    return "".join(map(chr, values.tolist()))


class _Characters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) % VOCABULARY for character in text]}


def _tokens(network: Any, batch: int, length: int, device: torch.device) -> Tensor:
    return torch.randint(0, network.config.vocab_size, (batch, length), device=device)

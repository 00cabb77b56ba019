"""Fits the Ortho part on the frozen Base, after quantising, so that alpha = 1 restores the whole model.

loss = KL(whole model || Base + S + U V) on public text + private_weight * NLL of the private calibration
texts. Only U and V are trained; S stays as chosen. The whole model is needed for its final hidden states
alone, which are taken once before its weights make room for the Base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.batches import TokenBatch, TokenSequence
from ..layers.split_linear import OrthoPart
from ..load.loaded import LoadedModel
from ..numerics.likelihood import cast_once
from ..numerics.lowrank import restore_factor, round_factor
from ..numerics.quantize import dequantize
from .network import install
from .split import LayerSplit
from .training import Schedule, hidden_states, minimise, mixed_precision, nll_pieces, pieces, quick_attention


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How U V are fitted. `factor_bits` is their stored width: 16, or 8 with a scale a component."""

    num_steps: int = 200
    learning_rate: float = 1e-3
    private_weight: float = 1.0
    factor_bits: int = 16


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A public batch with the whole model's final hidden states [N, D] at its N counted positions."""

    batch: TokenBatch
    teacher_ND: Tensor


class _FitLinear(nn.Module):
    """x (Base + S)^T + x V^T U^T with U and V trainable."""

    def __init__(self, layer: LayerSplit, device: torch.device) -> None:
        super().__init__()
        dense_OI = dequantize(layer.base)
        if layer.ortho.sparse is not None:
            dense_OI += layer.ortho.sparse.dense()
        self.dense_OI = dense_OI.to(device, torch.bfloat16)
        # Copied, since on a CPU `to` would hand over the caller's own tensors to be trained.
        self.up_Or = nn.Parameter(layer.ortho.up_Or.to(device, torch.float32, copy=True))
        self.down_rI = nn.Parameter(layer.ortho.down_rI.to(device, torch.float32, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense_OI) + F.linear(F.linear(x, self.down_rI), self.up_Or)


@torch.no_grad()
def prepare_lessons(loaded: LoadedModel, public: Sequence[TokenBatch]) -> list[Lesson]:
    """The whole model's answers on public text; call while `loaded` still holds the whole model."""
    lessons = []
    for batch in public:
        on_device = batch.to(loaded.device)
        with mixed_precision(loaded.device):
            hidden_BTD = hidden_states(loaded, on_device)
        chosen = hidden_BTD[on_device.weights_BT > 0].to(torch.bfloat16)
        lessons.append(Lesson(batch=batch, teacher_ND=chosen.cpu()))
    return lessons


def fit_ortho(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSplit],
    lessons: Sequence[Lesson],
    private: Sequence[Sequence[TokenSequence]],
    config: FitConfig,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, num_steps, loss: None,
    announce: Callable[[str], None] = lambda message: None,
) -> dict[str, LayerSplit]:
    """The same layers with a fitted Ortho part, rounded to its stored width.

    Replaces the linear layers of `loaded`; the caller installs what it needs next.
    """
    modules = {name: _FitLinear(layer, loaded.device) for name, layer in layers.items()}
    install(loaded.network, modules)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0xF17]))
    lesson_order = _endless(generator, len(lessons), config.num_steps)
    private_order = _endless(generator, len(private), config.num_steps)

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        lesson = lessons[lesson_order[step]]
        num_counted = len(lesson.teacher_ND)
        found: list[Callable[[], Tensor]] = [
            partial(_mean_kl, loaded, piece, num_counted) for piece in _lesson_pieces(lesson, num_pieces)
        ]
        if private:
            texts = [private[private_order[step]]]
            found += nll_pieces(loaded, texts, num_pieces, factor=config.private_weight)
        return found

    if config.num_steps and parameters:
        schedule = Schedule(learning_rate=config.learning_rate, num_steps=config.num_steps)
        minimise(
            parameters,
            losses_at,
            schedule,
            what="fitting the Ortho part",
            after_step=lambda step, loss: after_step(step, config.num_steps, loss),
            announce=announce,
        )
    return {
        name: replace(layers[name], ortho=_rounded(module, layers[name].ortho, config.factor_bits))
        for name, module in modules.items()
    }


def _mean_kl(loaded: LoadedModel, piece: Lesson, num_counted: int) -> Tensor:
    batch = piece.batch.to(loaded.device)
    with mixed_precision(loaded.device), quick_attention(batch):
        student_ND = hidden_states(loaded, batch)[batch.weights_BT > 0]
        kl_sum = kl_divergence_sum(student_ND, piece.teacher_ND.to(loaded.device), loaded.head_VD)
    return kl_sum / num_counted


def kl_divergence_sum(
    student_ND: Tensor, teacher_ND: Tensor, head_VD: Tensor, *, chunk_rows: int = 256
) -> Tensor:
    """Sum over rows of KL(teacher || student) of the next-token distributions in nats, chunk by chunk.

    Logits are computed again in the backward pass, so that those of one chunk at most are held.
    """
    total = student_ND.new_zeros((), dtype=torch.float32)
    head = cast_once(head_VD, student_ND)
    for start in range(0, len(student_ND), chunk_rows):
        stop = start + chunk_rows
        part = checkpoint(_kl_sum, student_ND[start:stop], teacher_ND[start:stop], head, use_reentrant=False)
        total = total + cast(Tensor, part)
    return total


def _lesson_pieces(lesson: Lesson, num_pieces: int) -> Iterator[Lesson]:
    counted_B = (lesson.batch.weights_BT > 0).sum(dim=1)
    ends_B = counted_B.cumsum(dim=0)
    for rows in pieces(range(len(counted_B)), num_pieces):
        first, last = rows[0], rows[-1]
        begin = int(ends_B[first] - counted_B[first])
        yield Lesson(
            batch=lesson.batch.rows(first, last + 1), teacher_ND=lesson.teacher_ND[begin : int(ends_B[last])]
        )


def _kl_sum(student_ND: Tensor, teacher_ND: Tensor, head_VD: Tensor) -> Tensor:
    student = F.log_softmax(F.linear(student_ND, head_VD).float(), dim=-1)
    teacher = F.log_softmax(F.linear(teacher_ND.to(head_VD.dtype), head_VD).float(), dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)


def _rounded(module: _FitLinear, before: OrthoPart, bits: int) -> OrthoPart:
    up_Or = restore_factor(*round_factor(module.up_Or.detach().cpu(), bits, dim=1), dim=1)
    down_rI = restore_factor(*round_factor(module.down_rI.detach().cpu(), bits, dim=0), dim=0)
    return OrthoPart(up_Or=up_Or, down_rI=down_rI, sparse=before.sparse)


def _endless(generator: np.random.Generator, num_items: int, num_draws: int) -> np.ndarray:
    if not num_items:
        return np.zeros(0, dtype=np.int64)
    rounds = -(-num_draws // num_items)
    return np.concatenate([generator.permutation(num_items) for _ in range(max(rounds, 1))])

"""What a model still knows of each canary: exposure, extraction and membership scores.

Extraction is read off one teacher-forced pass: greedy decoding reproduces a secret exactly when every secret
token is the most likely one after the true tokens before it. The chance to meet the secret in 100 samples
follows from its likelihood (Hayes et al. 2024, arXiv 2410.19482, (n, p)-discoverable extraction).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ..data.batches import collate, secret_only
from ..data.canaries import Canary, decoys
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..numerics.likelihood import OutputHead, default_chunk_rows
from ..transform.training import hidden_states, mixed_precision
from .batching import TEXT_TOKENS, LookSize, fixed_size, in_batches
from .scoring import Continuations, score_continuations
from .statistics import exposure_bits

MIN_K_SHARE = 0.2  # of a secret's tokens; Zhang et al. 2024 report 10 to 50%


@dataclass(frozen=True, kw_only=True)
class SecretScores:
    """One canary under one model. NLLs in nats over the secret's tokens."""

    canary_id: str
    nll_sum: float
    num_tokens: int
    extracted: bool
    exact_token_share: float
    zlib_score: float  # nll over the compressed length of the text, in nats a byte
    min_k_score: float  # Min-K%++: mean of the lowest 20% of standardised log-likelihoods


@torch.no_grad()
def score_secrets(
    loaded: LoadedModel,
    canaries: Sequence[Canary],
    *,
    prefix_of: Callable[[Canary], str] = lambda canary: canary.prefix,
    batch_size: int = 32,
    ladder: Ladder[LookSize] | None = None,
) -> list[SecretScores]:
    """One pass over every canary's own text.

    `ladder` says what is done when memory runs out, and takes the place of `batch_size`.
    """
    ladder = ladder or fixed_size(batch_size * TEXT_TOKENS)

    def work(group: Sequence[Canary]) -> list[SecretScores]:
        return _score_group(loaded, group, prefix_of)

    return list(chain.from_iterable(in_batches(canaries, ladder, work, tokens_per_item=TEXT_TOKENS)))


def _score_group(
    loaded: LoadedModel, group: Sequence[Canary], prefix_of: Callable[[Canary], str]
) -> list[SecretScores]:
    ids = [(loaded.encode(prefix_of(canary)), loaded.encode(canary.secret)) for canary in group]
    batch = collate([secret_only(prefix, secret) for prefix, secret in ids]).to(loaded.device)
    chosen_BT = batch.weights_BT > 0
    with mixed_precision(loaded.device):
        hidden_ND = hidden_states(loaded, batch)[chosen_BT]
    per_token = _token_statistics(hidden_ND, loaded.head, batch.targets_BT[chosen_BT])
    bounds = np.cumsum([len(secret) for _, secret in ids])[:-1]
    return [
        _secret_scores(canary, rows, prefix_of(canary))
        for canary, rows in zip(group, np.split(per_token, bounds), strict=True)
    ]


def _token_statistics(hidden_ND: Tensor, head: OutputHead, targets_N: Tensor) -> np.ndarray:
    """[N, 3]: log-likelihood, whether the target is the argmax, Min-K%++'s standardised log-likelihood."""
    bias_V = None if head.bias_V is None else head.bias_V.to(torch.bfloat16)
    narrow = OutputHead(weight_VD=head.weight_VD.to(torch.bfloat16), bias_V=bias_V)
    rows = default_chunk_rows(hidden_ND.device)
    parts = [
        _chunk_statistics(narrow.logits(hidden_ND[i : i + rows].to(torch.bfloat16)), targets_N[i : i + rows])
        for i in range(0, len(hidden_ND), rows)
    ]
    return torch.cat(parts).double().cpu().numpy()


def _chunk_statistics(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    hit_N = (logits_NV.argmax(dim=-1) == targets_N).float()
    log_p_NV = logits_NV.float().log_softmax(dim=-1)
    p_NV = log_p_NV.exp()
    mean_N = (p_NV * log_p_NV).sum(dim=-1)
    variance_N = (p_NV * log_p_NV.square()).sum(dim=-1) - mean_N.square()
    target_N = log_p_NV.gather(1, targets_N[:, None])[:, 0]
    standard_N = (target_N - mean_N) / variance_N.clamp(min=1e-6).sqrt()
    return torch.stack([target_N, hit_N, standard_N], dim=1)


def _secret_scores(canary: Canary, rows: np.ndarray, prefix: str) -> SecretScores:
    nll_sum = float(-rows[:, 0].sum())
    lowest = np.sort(rows[:, 2])[: max(1, round(MIN_K_SHARE * len(rows)))]
    text = (prefix + canary.secret).encode("utf-8")
    return SecretScores(
        canary_id=canary.id,
        nll_sum=nll_sum,
        num_tokens=len(rows),
        extracted=bool(rows[:, 1].all()),
        exact_token_share=float(rows[:, 1].mean()),
        zlib_score=nll_sum / len(zlib.compress(text)),
        min_k_score=float(lowest.mean()),
    )


def exposure_probes(
    loaded: LoadedModel, canaries: Sequence[Canary], *, num_decoys: int, seed: int
) -> list[Continuations]:
    """Each canary's own secret followed by its decoys, as token ids; made once, used for every model."""
    secrets = [(canary.secret, *decoys(canary, num_decoys, seed)) for canary in canaries]
    ids = iter(loaded.encode_all([secret for group in secrets for secret in group]))
    return [
        Continuations(
            prefix_ids=tuple(loaded.encode(canary.prefix)),
            continuation_ids=tuple(tuple(next(ids)) for _ in group),
        )
        for canary, group in zip(canaries, secrets, strict=True)
    ]


def exposures(
    loaded: LoadedModel,
    probes: Sequence[Continuations],
    *,
    tokens_per_batch: int = 2048,
    ladder: Ladder[LookSize] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Exposure in bits of each probe's first continuation among the others (Carlini et al. 2019)."""
    scored = score_continuations(
        loaded, probes, tokens_per_batch=tokens_per_batch, ladder=ladder, progress=progress
    )
    return [float(exposure_bits(nll_R[0], nll_R[1:])) for nll_R in scored]


def probability_in_samples(nll_sum: float, num_samples: int) -> float:
    """Chance that at least one of `num_samples` samples at temperature 1 is the secret."""
    return float(-np.expm1(num_samples * np.log1p(-min(np.exp(-nll_sum), 1 - 1e-12))))

"""One token's attention, its embedding and the choice of the next token, against transformers and torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import triton
from fakes import randn
from kernel_tools import DEVICE, DTYPES, INTERPRETED, assert_rounds_to, rms
from torch import Tensor

from sixgig.numerics.kernels.decode_attention import decode_attention_kernel
from sixgig.numerics.kernels.first_and_dense import block_peaks_kernel, embed_kernel, next_token_kernel
from sixgig.numerics.kernels.product import TRITON_TYPES

CONTEXT, NUM_KV_HEADS, SPLIT, TILE = 112, 2, 3, 32


class Attention:
    """Query heads in groups over two key-value heads, and a cache of NaN where nothing lies yet."""

    def __init__(self, group: int, head_dim: int, dtype: torch.dtype) -> None:
        self.group, self.head_dim, self.dtype = group, head_dim, dtype
        angles = torch.outer(torch.arange(CONTEXT).float(), 0.7 ** torch.arange(head_dim // 2))
        angles = torch.cat([angles, angles], dim=1)
        self.cos, self.sin = angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)
        part = NUM_KV_HEADS * SPLIT * 16
        self.scratch = [
            torch.full((part,), float("nan"), device=DEVICE),
            torch.full((part,), float("nan"), device=DEVICE),
            torch.full((part * triton.next_power_of_2(head_dim),), float("nan"), device=DEVICE),
        ]
        self.counters = torch.zeros(NUM_KV_HEADS, dtype=torch.int32, device=DEVICE)

    def cache(self, position: int, seed: int) -> Tensor:
        shape = (NUM_KV_HEADS, CONTEXT, self.head_dim)
        cache = randn(*shape, seed=seed)
        cache[:, position:] = float("nan")
        return cache.to(DEVICE, self.dtype)

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        out = torch.full((NUM_KV_HEADS * self.group * self.head_dim,), float("nan"), device=DEVICE)
        out = out.to(self.dtype)
        decode_attention_kernel[(NUM_KV_HEADS, SPLIT)](
            qkv,
            self.cos,
            self.sin,
            keys,
            values,
            torch.tensor([position], dtype=torch.int32, device=DEVICE),
            out,
            *self.scratch,
            self.counters,
            NUM_KV_HEADS,
            CONTEXT,
            self.head_dim**-0.5,
            GROUP=self.group,
            HEAD=self.head_dim,
            PADDED=triton.next_power_of_2(self.head_dim),
            DTYPE=TRITON_TYPES[self.dtype],
            TILE=TILE,
            SPLIT=SPLIT,
            IS_EARLY=False,
        )
        return out

    def plainly(self, qkv: Tensor, keys: Tensor, values: Tensor, position: int) -> tuple[Tensor, ...]:
        """The new cache entries and what torch attends to, in this type and in fp64."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        sizes = [NUM_KV_HEADS * self.group * self.head_dim] + [NUM_KV_HEADS * self.head_dim] * 2
        q, k, v = (part.view(1, -1, 1, self.head_dim) for part in qkv.split(sizes))
        q, k = apply_rotary_pos_emb(q, k, self.cos[position][None, None], self.sin[position][None, None])
        keys, values = keys.clone(), values.clone()
        keys[:, position], values[:, position] = k[0, :, 0], v[0, :, 0]
        seen = [q, keys[None, :, : position + 1], values[None, :, : position + 1]]
        rough = F.scaled_dot_product_attention(*seen, enable_gqa=True).flatten()
        exact = [part.double() for part in seen]
        return keys, values, rough, F.scaled_dot_product_attention(*exact, enable_gqa=True).flatten()


@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_attention_is_torchs_and_the_cache_transformers(group: int, head_dim: int) -> None:
    dtype = DTYPES[(group + head_dim // 16) % 2]
    attention = Attention(group, head_dim, dtype)
    for position in (0, 1, 31, 32, 100):
        qkv = randn((group + 2) * NUM_KV_HEADS * head_dim, seed=position).to(DEVICE, dtype)
        keys, values = attention.cache(position, 1), attention.cache(position, 2)
        expected_keys, expected_values, rough, exact = attention.plainly(qkv, keys, values, position)
        found = attention(qkv, keys, values, position)
        assert torch.equal(values[:, : position + 1], expected_values[:, : position + 1])
        assert torch.equal(keys[:, :position], expected_keys[:, :position])
        if INTERPRETED and dtype == torch.bfloat16:  # three roundings, each cut off, of up to twice the sum
            torch.testing.assert_close(keys[:, position], expected_keys[:, position], rtol=0.02, atol=0.03)
            assert rms(found - exact) <= 0.01 * rms(exact) + 0.01
        else:
            assert torch.equal(keys[:, position], expected_keys[:, position])
            assert rms(found - exact) <= 1.5 * rms(rough - exact)
        assert keys[:, position + 1 :].isnan().all(), "nothing is written past the token"
        assert not attention.counters.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_does_not_overflow_where_scores_are_far_apart(dtype: torch.dtype) -> None:
    attention = Attention(2, 16, dtype)
    qkv = 20 * randn(4 * NUM_KV_HEADS * 16, seed=3).to(DEVICE, dtype)
    keys, values = 20 * attention.cache(70, 1), attention.cache(70, 2)
    _, _, _, exact = attention.plainly(qkv, keys, values, 70)
    found = attention(qkv, keys, values, 70)
    assert float(exact.abs().max()) > 0.5
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)


# ---- The first and the last step of a token ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_starts_the_stream_and_the_first_norms_sums(dtype: torch.dtype) -> None:
    hidden, num_parts = 40, 3
    table_VD = randn(7, hidden).to(DEVICE, dtype)
    gain_D = randn(hidden, seed=1).to(DEVICE, dtype)
    stream_D, out_D = torch.zeros_like(gain_D), torch.zeros_like(gain_D)
    squares = torch.full((num_parts, 16), float("nan"), device=DEVICE)
    token = torch.tensor([5], device=DEVICE)
    embed_kernel[(1,)](
        table_VD, token, stream_D, gain_D, out_D, squares, hidden, num_parts,
        BLOCK=64, PARTS=4, DTYPE=TRITON_TYPES[dtype],
    )  # fmt: skip
    assert torch.equal(stream_D, table_VD[5])
    assert_rounds_to(out_D, table_VD[5] * gain_D)
    torch.testing.assert_close(squares[:, 0].sum(), table_VD[5].float().square().sum())


def chosen(logits_V: Tensor, block: int) -> tuple[int, int]:
    """The next token and the next position, after position 6."""
    logits_V = logits_V.to(DEVICE)
    num_parts = -(-len(logits_V) // block)
    peaks = torch.full((num_parts,), float("nan"), device=DEVICE)
    places = torch.full((num_parts,), -1, dtype=torch.int32, device=DEVICE)
    token = torch.full((1,), -1, dtype=torch.int64, device=DEVICE)
    position = torch.full((1,), 6, dtype=torch.int32, device=DEVICE)
    block_peaks_kernel[(num_parts,)](logits_V, peaks, places, len(logits_V), BLOCK=block)
    next_token_kernel[(1,)](
        peaks, places, token, position, num_parts, len(logits_V), PARTS=triton.next_power_of_2(num_parts)
    )
    return int(token), int(position)


@pytest.mark.parametrize("ties", [[0], [69], [3, 5], [15, 16], [20, 40, 69], list(range(70))])
def test_the_likeliest_token_is_the_lowest_among_equals(ties: list[int]) -> None:
    logits_V = randn(70) - 100
    logits_V[ties] = -50.0
    assert chosen(logits_V, 16) == (min(ties), 7)


def test_a_token_of_no_weight_at_all_is_never_chosen() -> None:
    """Filled up to whole blocks, the last block has room for tokens that are none."""
    logits_V = torch.full((33,), float("-inf"))
    logits_V[32] = -1e30
    assert chosen(logits_V, 16) == (32, 7)

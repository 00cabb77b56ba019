"""One token's attention over a static cache, its rotary embedding and cache entry included, in one launch.

Programs share each key-value head's positions; the one that finishes last joins their softmax sums, in fixed
order (Flash-Decoding: Dao et al. 2023, without a second launch). Where the token stands is read from device
memory, so that one captured graph serves every position. Positions count from the cache's first.

Legend: H query heads, K key-value heads, D head dimension, T positions.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from .codes import product_of_tiles


@triton.constexpr_function
def _rows(group):
    return 1 << (group - 1).bit_length()


@triton.jit
def _rotated(ptr, first, cos, sin, row_mask, HEAD: tl.constexpr, PADDED: tl.constexpr, DTYPE: tl.constexpr):
    """Rows of HEAD numbers from `first` [R], rotated, as transformers' apply_rotary_pos_emb rounds: [R,
    D]."""
    d = tl.arange(0, PADDED)
    wanted = row_mask[:, None] & (d[None, :] < HEAD)
    plain = tl.load(ptr + first[:, None] + d[None, :], mask=wanted, other=0.0).to(tl.float32)
    across = tl.where(d < HEAD // 2, d + HEAD // 2, d - HEAD // 2)
    other = tl.load(ptr + first[:, None] + across[None, :], mask=wanted, other=0.0).to(tl.float32)
    other = tl.where(d[None, :] < HEAD // 2, -other, other)
    along = (plain * cos[None, :]).to(DTYPE).to(tl.float32)
    return (along + (other * sin[None, :]).to(DTYPE).to(tl.float32)).to(DTYPE)


@triton.jit
def _cached(
    keys_ptr, values_ptr, first, start, end, HEAD: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """A head's keys [D, TILE] and values [TILE, D] from position `start` on, and nothing from `end` on."""
    t = start + tl.arange(0, TILE)
    d = tl.arange(0, PADDED)
    wanted = (t < end)[:, None] & (d < HEAD)[None, :]
    at = first + t[:, None] * HEAD + d[None, :]
    key = tl.load(keys_ptr + at, mask=wanted, other=0.0)
    return tl.trans(key), tl.load(values_ptr + at, mask=wanted, other=0.0)


@triton.jit
def decode_attention_kernel(
    qkv_ptr, cos_ptr, sin_ptr, keys_ptr, values_ptr, position_ptr, out_ptr,
    sums_ptr, peaks_ptr, parts_ptr, counters_ptr,
    num_kv_heads, context, scale,
    GROUP: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, DTYPE: tl.constexpr,
    TILE: tl.constexpr, SPLIT: tl.constexpr, IS_EARLY: tl.constexpr,
):  # fmt: skip
    """Program (k, s): share s of the positions of key-value head k. Counters: one a head, all 0."""
    head = tl.program_id(0)
    share = tl.program_id(1)
    position = tl.load(position_ptr)
    d = tl.arange(0, PADDED)
    inside = d < HEAD
    cos = tl.load(cos_ptr + position * HEAD + d, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * HEAD + d, mask=inside, other=0.0).to(tl.float32)
    # What lies in the cache is asked for before the launch that makes q, k and v has ended.
    cache = head * context * HEAD
    chunk = tl.cdiv(tl.cdiv(position, SPLIT), TILE) * TILE
    end = min(share * chunk + chunk, position)
    key_T, value_T = _cached(keys_ptr, values_ptr, cache, share * chunk, end, HEAD, PADDED, TILE)
    if IS_EARLY:
        gdc_wait()  # programmatic dependent launch: see FusedStep
    row = tl.arange(0, 16)
    in_group = row < GROUP
    q = _rotated(qkv_ptr, (head * GROUP + row) * HEAD, cos, sin, in_group, HEAD, PADDED, DTYPE)
    num_heads = num_kv_heads * GROUP
    peak = tl.full((16,), float("-inf"), tl.float32)
    total = tl.zeros((16,), tl.float32)
    sums = tl.zeros((16, PADDED), tl.float32)
    if share == 0:
        # The token itself: its key and value go into the cache and count first. Row 0 holds them.
        own = row == 0
        key_at = (num_heads + head) * HEAD + row * 0
        value_at = (num_heads + num_kv_heads + head) * HEAD
        key = _rotated(qkv_ptr, key_at, cos, sin, own, HEAD, PADDED, DTYPE)
        tl.store(keys_ptr + cache + position * HEAD + d[None, :] + row[:, None] * 0, key,
                 mask=own[:, None] & inside[None, :])  # fmt: skip
        value = tl.load(qkv_ptr + value_at + d, mask=inside, other=0.0)
        tl.store(values_ptr + cache + position * HEAD + d, value, mask=inside)
        own_key = tl.sum(tl.where(own[:, None], key.to(tl.float32), 0.0), axis=0)
        peak = tl.sum(q.to(tl.float32) * own_key[None, :], axis=1) * scale
        total += 1.0
        sums += value.to(tl.float32)[None, :]
    for start in range(share * chunk, end, TILE):
        known = start + tl.arange(0, TILE) < end
        scores = product_of_tiles(q, key_T, tl.zeros((16, TILE), tl.float32)) * scale
        scores = tl.where(known[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_peak[:, None])
        fade = tl.exp(peak - new_peak)
        total = total * fade + tl.sum(weights, axis=1)
        sums = product_of_tiles(weights.to(DTYPE), value_T, sums * fade[:, None])
        peak = new_peak
        if start + TILE < end:
            key_T, value_T = _cached(keys_ptr, values_ptr, cache, start + TILE, end, HEAD, PADDED, TILE)
    part = head * SPLIT + share
    tl.store(peaks_ptr + part * 16 + row, peak)
    tl.store(sums_ptr + part * 16 + row, total)
    tl.store(parts_ptr + (part * 16 + row[:, None]) * PADDED + d[None, :], sums, mask=in_group[:, None])
    tl.debug_barrier()  # every thread's sums are written before the program counts as done
    if tl.atomic_add(counters_ptr + head, 1, sem="acq_rel") == SPLIT - 1:
        tl.store(counters_ptr + head, 0)
        # Here the heads of the group alone, not the 16 rows that the matrix unit wants.
        ROWS: tl.constexpr = _rows(GROUP)
        own = tl.arange(0, ROWS)
        is_head = own < GROUP
        first = head * SPLIT
        highest = tl.full((ROWS,), float("-inf"), tl.float32)
        for other in tl.static_range(SPLIT):
            highest = tl.maximum(
                highest, tl.load(peaks_ptr + (first + other) * 16 + own, cache_modifier=".cg")
            )
        all_total = tl.zeros((ROWS,), tl.float32)
        all_sums = tl.zeros((ROWS, PADDED), tl.float32)
        for other in tl.static_range(SPLIT):
            at = (first + other) * 16
            part_fade = tl.exp(tl.load(peaks_ptr + at + own, cache_modifier=".cg") - highest)
            all_total += part_fade * tl.load(sums_ptr + at + own, cache_modifier=".cg")
            all_sums += part_fade[:, None] * tl.load(
                parts_ptr + (at + own[:, None]) * PADDED + d[None, :],
                mask=is_head[:, None], other=0.0, cache_modifier=".cg",
            )  # fmt: skip
        out_at = (head * GROUP + own[:, None]) * HEAD + d[None, :]
        tl.store(
            out_ptr + out_at,
            (all_sums / all_total[:, None]).to(DTYPE),
            mask=is_head[:, None] & inside[None, :],
        )

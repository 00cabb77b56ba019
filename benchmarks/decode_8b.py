"""Decodes with a model of Llama-3-8B's shape on a GPU, packed beside dense, and writes a receipt.

python benchmarks/decode_8b.py                on a GPU with 48 GB or more (the dense arm alone takes 16)
python benchmarks/decode_8b.py --quick        fewer rounds, to try it there
python benchmarks/decode_8b.py --tiny         one small layer on this CPU, in Triton's interpreter: tries the
                                              script, measures nothing
python benchmarks/decode_8b.py --peers-path FOLDER
                                              other stacks too, installed there as decode_8b_peers.py says;
                                              --peers without a name leaves them out

All arms decode in the same loop, one after the other within each round, forwards and backwards in turn; what
is compared is compared round by round. Weights are random. Share of the roofline: the bytes that a token must
read (packed weights, head, cache) over its time, over the copy bandwidth measured in the same process.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from decode_8b_peer_process import in_one_line
from decode_8b_peers import PEERS, Row, Task, measure_peers, peer_rows
from decode_8b_stages import say

ROOT = Path(__file__).resolve().parent.parent
AREA, SCHEMA = "decode-8b", "sixgig.receipt/1"
CAP_GIB = 5.3  # what a 6 GiB card leaves to tensors
PROMPT_TOKENS = 512
PEER_ROUNDS = 10  # a process apart steadies slowly, and a round of generate takes seconds

# name -> (target in words, whether the value meets it)
TARGETS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "decode_roofline_share_int4": ("at least 0.6", lambda value: value >= 0.6),
    "decode_int3_over_int4": ("above 1", lambda value: value > 1),
    "alpha0_overhead": ("at most 0.01", lambda value: value <= 0.01),
    "alpha1_overhead": ("at most 0.15", lambda value: value <= 0.15),
    "prefill_vs_bf16": ("at least 0.9", lambda value: value >= 0.9),
    "peak_allocated_gib_8b_512": ("at most 4.3", lambda value: value <= 4.3),
    "speedup_vs_bnb_nf4": ("at least 8", lambda value: value >= 8),
    "speedup_vs_torchao_int4": ("at least 1.2", lambda value: value >= 1.2),
    "speedup_vs_gemlite": ("at least 1.2", lambda value: value >= 1.2),
    "bnb_nf4_runs_under_cap": ("at most 0", lambda value: value == 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--commit", help="the commit that is measured, where git does not tell")
    parser.add_argument("--peers-path", type=Path, help="a folder that other projects are installed in")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="default: all")
    parser.add_argument("--peer-seconds", type=float, help="what one may take to be built; default: by peer")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    num_rounds = 2 if arguments.tiny else 5 if arguments.quick else 25
    commit = arguments.commit or _commit()
    from sixgig.files import write_json

    value, path = {}, arguments.out
    arguments.out.mkdir(parents=True, exist_ok=True)
    for measured in measure(
        tiny=arguments.tiny,
        num_rounds=num_rounds,
        peers=arguments.peers,
        peers_path=arguments.peers_path,
        peer_seconds=arguments.peer_seconds,
    ):
        value = receipt(measured, commit)
        path = arguments.out / f"{AREA}-{value['date']}.json"
        write_json(path, value)
    for one in value["figures"]:
        told = "-" if one["value"] is None else f"{one['value']:.4g}"
        print(f"{one['name']:32} {told:>10} {one['unit']:10} {one['target'] or '':14} {one['met']}")
    print(path)


def measure(
    *, tiny: bool, num_rounds: int, peers: Sequence[str], peers_path: Path | None, peer_seconds: float | None
) -> Iterator[dict[str, Any]]:
    """Times of all arms by round, and memory; again with each peer's, in turns with our INT4 arm."""
    import torch

    from decode_8b_model import TINY, Shape, random_model
    from sixgig.runtime.fused_decoder import FusedDecoder

    torch.manual_seed(0)
    # With its number: torch 2.11 limits the memory of a numbered device alone.
    device = torch.device("cpu") if tiny else torch.device("cuda", torch.cuda.current_device())
    shape = TINY if tiny else Shape()
    prompt_tokens, num_tokens, context = (4, 1, 16) if tiny else (PROMPT_TOKENS, 32, 1024)

    def decoder(**model: Any) -> FusedDecoder:
        say(f"building our model: {model}")
        built = random_model(shape, device, **model)
        return FusedDecoder(built, context_tokens=context, capture=not tiny)

    say(f"peak memory under {CAP_GIB} GiB")
    peak = _peak(decoder, device, prompt_tokens, num_tokens)
    split = decoder(bits=4, ortho=True)
    arms = {"bf16": decoder(bits=None), "int4": decoder(bits=4), "int3": decoder(bits=3)}
    turns: dict[str, tuple[FusedDecoder, float]] = {name: (one, 0.0) for name, one in arms.items()}
    turns |= {"alpha0": (split, 0.0), "alpha1": (split, 1.0)}
    prompt = torch.randint(0, shape.vocabulary, (prompt_tokens,)).tolist()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    for number in range(num_rounds + 1):
        if number % 5 == 0:
            say(f"our arms: round {number} of {num_rounds}, the first warms up")
        for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
            one, alpha = turns[name]
            if one is split:
                one.set_alpha(alpha)
            times = _round(one, prompt, num_tokens, device)
            if number:  # the first warms up
                rounds[name].append(times)
    ours = {
        "rounds": rounds,
        "step_bytes": {name: one.step_bytes for name, (one, _) in turns.items()},
        "cache_bytes_per_token": split.cache_bytes_per_token,
        "middle_tokens": prompt_tokens + num_tokens / 2,
        "bandwidth": _bandwidth(device),
        "peak": peak,
        "shape": vars(shape),
        "prompt_tokens": prompt_tokens,
        "tokens_per_round": num_tokens,
        "with_peers_path": peers_path is not None and bool(peers),
    }
    for found in measure_peers(
        lambda: _round(arms["int4"], prompt, num_tokens, device),
        Task(
            kind="",
            shape=vars(shape),
            device=str(device),
            prompt_tokens=prompt_tokens,
            num_tokens=num_tokens,
            peers_path=None if peers_path is None else str(peers_path.resolve()),
        ),
        peers,
        num_rounds=min(num_rounds, PEER_ROUNDS),
        limit_seconds=peer_seconds,
        cap_gib=CAP_GIB,
    ):
        yield ours | {"peers": found}


def _round(decoder: Any, prompt: list[int], num_tokens: int, device: Any) -> dict[str, float]:
    """Milliseconds of reading the prompt, and of a token decoded greedily after it."""
    from sixgig.evaluate.speed import Stopwatch

    decoder.reset()
    watch = Stopwatch(device)
    watch.mark()
    decoder.prefill(prompt)
    watch.mark()
    decoder.greedy_tokens(num_tokens)
    watch.mark()
    prefill, decode = watch.seconds()
    return {"prefill_ms": 1e3 * prefill, "ms_per_token": 1e3 * decode / num_tokens}


def _peak(decoder: Callable[..., Any], device: Any, prompt_tokens: int, num_tokens: int) -> dict[str, Any]:
    """GiB allocated at most while an INT4 model is made, reads its prompt and decodes, under the cap; or
    {"failed": words}."""
    import torch

    if device.type != "cuda":
        return {}
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(CAP_GIB * 2**30 / total, device)
    try:
        return _generation_peak(decoder, device, prompt_tokens, num_tokens)
    except RuntimeError as problem:  # memory that ran out, too: a result, and no reason to measure no more
        say(f"failed: {in_one_line(problem)}")
        return {"failed": in_one_line(problem)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        gc.collect()
        torch.cuda.empty_cache()


def _generation_peak(
    decoder: Callable[..., Any], device: Any, prompt_tokens: int, num_tokens: int
) -> dict[str, float]:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    one = decoder(bits=4, embedding_on_cpu=True)
    token = int(one.prefill([1] * prompt_tokens).argmax())
    for _ in range(num_tokens):
        token = int(one.step(token).argmax())
    return {
        "allocated_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30,
    }


def _bandwidth(device: Any) -> float:
    """Bytes a second."""
    if device.type == "cuda":
        from sixgig.bandwidth import device_speeds

        return device_speeds(seconds=2.0)[device.index or 0].bytes_per_second
    from sixgig.bandwidth import host_bytes_per_second

    return host_bytes_per_second(1, seconds=0.1)


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """All figures, intervals by resampling rounds."""
    import numpy as np

    from sixgig.evaluate.statistics.paired import bootstrap_median, paired_median_ratio

    def times(arm: str, key: str = "ms_per_token") -> Any:
        return np.array([one[key] for one in measured["rounds"][arm]])

    def ratio(slow: Any, fast: Any) -> Any:
        return paired_median_ratio(slow, fast, seed=0)

    int4 = bootstrap_median(times("int4"), seed=0)
    cache_bytes = measured["cache_bytes_per_token"] * measured["middle_tokens"]
    ideal_ms = 1e3 * (measured["step_bytes"]["int4"] + cache_bytes) / measured["bandwidth"]
    share = bootstrap_median(ideal_ms / times("int4"), seed=0)
    rows = [
        (
            "decode_ms_int4",
            int4,
            0.0,
            "ms",
            "INT4 in groups of 128, INT4 head, CUDA graph, 512 tokens before",
        ),
        ("decode_tokens_per_second_int4", bootstrap_median(1e3 / times("int4"), seed=0), 0.0, "tokens/s", ""),
        ("decode_roofline_share_int4", share, 0.0, "ratio", "of the copy bandwidth in this process"),
        ("decode_int3_over_int4", ratio(times("int4"), times("int3")), 0.0, "ratio", "speed"),
        ("decode_int4_vs_bf16", ratio(times("bf16"), times("int4")), 0.0, "ratio", "speed; dense, same loop"),
        (
            "alpha0_overhead",
            ratio(times("alpha0"), times("int4")),
            1.0,
            "share",
            "to INT4 without Ortho part",
        ),
        ("alpha1_overhead", ratio(times("alpha1"), times("int4")), 1.0, "share", "0.5% sparse, rank 16"),
        (
            "prefill_vs_bf16",
            ratio(times("bf16", "prefill_ms"), times("int4", "prefill_ms")),
            0.0,
            "ratio",
            "speed; 512 tokens",
        ),
    ]
    found = [
        _figure(name, one.value - less, one.interval.low - less, one.interval.high - less, one.n, unit, note)
        for name, one, less, unit, note in rows
    ]
    if measured["peak"]:
        found.append(_peak_figure(measured["peak"]))
    return found + [_peer_figure(row) for row in peer_rows(measured["peers"])]


def _peak_figure(peak: dict[str, Any]) -> dict[str, Any]:
    name, note = "peak_allocated_gib_8b_512", f"embedding on the CPU, allocator held to {CAP_GIB} GiB"
    if "failed" in peak:
        return _figure(name, None, None, None, 0, "GiB", f"{note}: {peak['failed']}")
    value = peak["allocated_gib"]
    return _figure(name, value, value, value, 1, "GiB", note)


def _peer_figure(row: Row) -> dict[str, Any]:
    name, one, unit, note = row
    if one is None:
        return _figure(name, None, None, None, 0, unit, note)
    if isinstance(one, int | float):
        return _figure(name, one, one, one, 1, unit, note)
    return _figure(name, one.value, one.interval.low, one.interval.high, one.n, unit, note)


def _figure(
    name: str, value: float | None, low: float | None, high: float | None, n: int, unit: str, note: str
) -> dict[str, Any]:
    """`value` None: not measured, and so neither met nor missed."""
    target, meets = TARGETS.get(name, (None, None))
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "low": low,
        "high": high,
        "n": n,
        "target": target,
        "met": None if meets is None or value is None else meets(value),
        "note": note,
    }


def receipt(measured: dict[str, Any], commit: str) -> dict[str, Any]:
    import torch
    import triton

    on_gpu = torch.cuda.is_available() and bool(measured["peak"])
    device = (
        {
            "name": torch.cuda.get_device_name(0),
            "total_bytes": torch.cuda.get_device_properties(0).total_memory,
        }
        if on_gpu
        else {"name": "CPU, Triton's interpreter", "total_bytes": None}
    )
    versions: dict[str, str] = {}
    for one in measured["peers"]["speed"].values():
        versions |= one.get("facts", {}).get("versions", {})
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": _command(measured),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "device": device,
        "versions": {"torch": torch.__version__, "triton": triton.__version__} | versions,
        "config": {key: measured[key] for key in ("shape", "prompt_tokens", "tokens_per_round")},
        "figures": figures(measured),
        "raw": measured,
    }


def _command(measured: dict[str, Any]) -> str:
    """Without the folder's own name, which says nothing elsewhere."""
    return "python benchmarks/decode_8b.py" + (" --peers-path FOLDER" if measured["with_peers_path"] else "")


def _commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise SystemExit("git cannot name the commit here; give it with --commit")
    return asked.stdout.strip()


if __name__ == "__main__":
    main()

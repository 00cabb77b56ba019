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
import gc
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from decode_8b_peer_process import in_one_line
from decode_8b_peers import PEERS, Task, measure_peers
from decode_8b_receipt import AREA, CAP_GIB, receipt
from decode_8b_stages import say

ROOT = Path(__file__).resolve().parent.parent
PROMPT_TOKENS = 512
PEER_ROUNDS = 10  # a process apart steadies slowly, and a round of generate takes seconds


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


def _commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise SystemExit("git cannot name the commit here; give it with --commit")
    return asked.stdout.strip()


if __name__ == "__main__":
    main()

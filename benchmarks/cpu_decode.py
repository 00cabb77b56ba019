"""Measures decoding on a CPU, packed INT4 beside dense weights through the same loop, and writes a receipt.

python benchmarks/cpu_decode.py                     the embedded model, a few minutes on two idle cores
python benchmarks/cpu_decode.py --quick --out DIR   a smoke run: two short rounds

All contenders take turns in one process: a round is one answer of each, in an order that rotates, and a ratio
is taken within a round. So what the machine does beside the measurement falls on both sides of a ratio; its
milliseconds mean something on an idle machine alone.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cpu_decode_figures import figures
from sixgig.catalogue import EMBEDDED
from sixgig.data.corpora import data_dir_from_environment, load_public_text, token_windows
from sixgig.files import write_json
from sixgig.hardware import probe
from sixgig.layers.cpu_linear import CpuLinear
from sixgig.layers.split_linear import AlphaSwitch, OrthoPart, SplitLinear
from sixgig.load.fetch import model_folder
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.numerics.quantize import quantize_rtn
from sixgig.numerics.sparse import keep_top_k
from sixgig.provenance import provenance
from sixgig.runtime.decoder import Decoder
from sixgig.runtime.generate import Generation
from sixgig.runtime.lean_decoder import LeanDecoder
from sixgig.runtime.lean_model import LeanModel, lean_model
from sixgig.runtime.network_decoder import NetworkDecoder
from sixgig.runtime.pack_cpu import pack_for_cpu, packed_head, packed_or_itself

ROOT = Path(__file__).resolve().parent.parent
AREA, SCHEMA = "cpu-decode", "sixgig.receipt/1"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. The Ortho part is random: only its size and form cost time."""

    num_rounds: int = 12
    prompt_tokens: int = 64
    new_tokens: int = 33
    context_tokens: int = 256
    bits: int = 4
    group_size: int = 64
    rank: int = 16
    sparse_share: float = 0.005
    num_windows: int = 16
    window_tokens: int = 256
    num_threads: int = 2


QUICK = Settings(
    num_rounds=2,
    prompt_tokens=8,
    new_tokens=5,
    context_tokens=32,
    group_size=32,
    rank=2,
    num_windows=2,
    window_tokens=16,
    num_threads=1,
)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One decoder at one alpha; `generate` is transformers' own loop where that is what is measured."""

    decoder: Decoder | None = None
    alpha: float | None = None
    generate: Callable[[list[int], int], float] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model's folder, where not the embedded one")
    parser.add_argument("--threads", type=int, default=Settings.num_threads)
    parser.add_argument("--rounds", type=int, default=Settings.num_rounds)
    parser.add_argument("--quick", action="store_true", help="a smoke run whose figures mean nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--commit", help="the commit that was measured, where git cannot tell")
    arguments = parser.parse_args()
    chosen = Settings(num_threads=arguments.threads, num_rounds=arguments.rounds)
    settings = QUICK if arguments.quick else chosen
    folder = arguments.model or model_folder(EMBEDDED)
    value = receipt(folder, settings, arguments.commit or _commit())
    path = arguments.out / f"{AREA}-{value['date']}.json"
    write_json(path, value)
    for one in value["figures"]:
        mark = {True: "met", False: "NOT MET", None: ""}[one["met"]]
        between = f"{one['low']:.3f} to {one['high']:.3f}" if one["low"] is not None else ""
        print(f"{one['name']:<36} {one['value']:>10.3f} {one['unit']:<9} {between:<18} {mark}")
    print(path)


def receipt(folder: Path, settings: Settings, commit: str) -> dict[str, Any]:
    """The whole measurement of the model in `folder`."""
    torch.set_num_threads(settings.num_threads)
    begun = time.perf_counter()
    rounds = measured_rounds(folder, settings)
    quality = measured_quality(folder, settings)
    machine, origin = probe(), provenance((), ())
    return {
        "schema": SCHEMA,
        "area": AREA,
        "command": "python benchmarks/cpu_decode.py",
        "date": str(datetime.date.today()),
        "commit": commit,
        "device": {"name": machine.cpu_model, "total_bytes": machine.ram_bytes, "driver": None},
        "versions": origin.library_versions,
        "config": vars(settings) | {"num_cores": machine.num_cores, "cpu": _capability()},
        "figures": figures(rounds, quality),
        "raw": {"rounds": rounds, "quality": quality, "seconds": time.perf_counter() - begun},
    }


def measured_rounds(folder: Path, settings: Settings) -> dict[str, list[dict[str, float]]]:
    """For each contender and round: the median of its ms a token, and its prefill's ms."""
    contenders = all_contenders(folder, settings)
    names, rounds = list(contenders), {name: [] for name in contenders}
    prompt = list(range(2, 2 + settings.prompt_tokens))
    for number in range(-1, settings.num_rounds):  # the first round warms up and is not kept
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            one = one_answer(contenders[name], prompt, settings.new_tokens)
            if number >= 0:
                rounds[name].append(one)
    return rounds


def one_answer(contender: Contender, prompt: list[int], new_tokens: int) -> dict[str, float]:
    if contender.generate is not None:
        return {"ms_per_token": contender.generate(prompt, new_tokens)}
    assert contender.decoder is not None
    contender.decoder.reset()
    if contender.alpha is not None:
        contender.decoder.set_alpha(contender.alpha)
    generation = Generation(contender.decoder, prompt, max_new_tokens=new_tokens)
    for _ in generation:
        pass
    assert generation.prefill_ms is not None
    return {
        "ms_per_token": statistics.median(generation.decode_ms),
        "prefill_ms": generation.prefill_ms,
    }


def all_contenders(folder: Path, settings: Settings) -> dict[str, Contender]:
    """Dense and packed in the same lean loop; dense through transformers' modules and its `generate`."""
    bf16, context = load(folder, dtype=torch.bfloat16), settings.context_tokens
    packed = packed_model(folder, settings)
    heads = {bits: packed_head(bf16.network, bits) for bits in (8, 16, 4)}
    by_head = {
        bits: LeanDecoder(replace(packed, head=head), context_tokens=context) for bits, head in heads.items()
    }
    return {
        "bf16": Contender(decoder=dense_decoder(bf16, context)),
        "int4_alpha0": Contender(decoder=by_head[8], alpha=0.0),
        "int4_alpha1": Contender(decoder=by_head[8], alpha=1.0),
        "int4_alpha0_head16": Contender(decoder=by_head[16], alpha=0.0),
        "int4_alpha0_head4": Contender(decoder=by_head[4], alpha=0.0),
        "fp16": Contender(decoder=dense_decoder(load(folder, dtype=torch.float16), context)),
        "bf16_modules": Contender(decoder=NetworkDecoder(bf16.network, context_tokens=context)),
        "bf16_generate": Contender(generate=_generate(bf16)),
    }


def dense_decoder(loaded: LoadedModel, context_tokens: int) -> LeanDecoder:
    head = loaded.network.get_output_embeddings()
    model = lean_model(loaded.network, context_tokens=context_tokens, put=lambda _, layer: layer, head=head)
    return LeanDecoder(model, context_tokens=context_tokens)


def packed_model(folder: Path, settings: Settings) -> LeanModel:
    """The split model, every layer of it packed: what is not would run under this one's name."""
    loaded = split_model(folder, settings, torch.bfloat16)

    def put(name: str, layer: nn.Module) -> nn.Module:
        packed = packed_or_itself(layer)
        if not isinstance(packed, CpuLinear):
            raise SystemExit(f"{name} has no packed form, so there is nothing to measure")
        return packed

    head = loaded.network.get_output_embeddings()
    return lean_model(
        loaded.network, context_tokens=settings.context_tokens, put=put, head=head, release=True
    )


def split_model(
    folder: Path, settings: Settings, dtype: torch.dtype, *, with_ortho: bool = True
) -> LoadedModel:
    """The model with every linear layer rounded to the nearest, and an Ortho part of random numbers."""
    loaded = load(folder, dtype=dtype)
    switch, generator = AlphaSwitch(), torch.Generator().manual_seed(0)
    for name, layer in linear_layers(loaded.network).items():
        owner, _, leaf = name.rpartition(".")
        base = quantize_rtn(layer.weight.float(), bits=settings.bits, group_size=settings.group_size)
        split = SplitLinear(base, layer.bias, switch)
        if with_ortho:
            split.attach(_random_ortho(layer, settings, generator))
        setattr(loaded.network.get_submodule(owner), leaf, split)
    return loaded


def _random_ortho(layer: nn.Linear, settings: Settings, generator: torch.Generator) -> OrthoPart:
    num_out, num_in = layer.weight.shape
    scores_OI = torch.rand(num_out, num_in, generator=generator)
    small = 1e-3  # so that an answer at alpha = 1 stays an answer
    return OrthoPart(
        up_Or=small * torch.randn(num_out, settings.rank, generator=generator),
        down_rI=torch.randn(settings.rank, num_in, generator=generator),
        sparse=keep_top_k(
            small * scores_OI, scores_OI, max(1, round(settings.sparse_share * scores_OI.numel()))
        ),
    )


def _generate(loaded: LoadedModel) -> Callable[[list[int], int], float]:
    """ms a token of transformers' greedy `generate`, from the time of a long answer less that of a token."""

    def seconds(ids_1T: torch.Tensor, new_tokens: int) -> float:
        begun = time.perf_counter()
        loaded.network.generate(
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        return time.perf_counter() - begun

    def run(prompt: list[int], new_tokens: int) -> float:
        ids_1T = torch.tensor([prompt])
        return 1e3 * (seconds(ids_1T, new_tokens) - seconds(ids_1T, 1)) / (new_tokens - 1)

    return run


def measured_quality(folder: Path, settings: Settings) -> dict[str, list[float]]:
    """Summed NLL of each window of public text: the Base in fp32, packed, and packed with smaller heads."""
    loaded = split_model(folder, settings, torch.float32, with_ortho=False)
    text = load_public_text("test", data_dir=data_dir_from_environment()).text
    windows = token_windows(np.asarray(loaded.encode(text)), settings.window_tokens, settings.num_windows)
    ids_BT = torch.tensor(windows)
    head = loaded.network.get_output_embeddings()
    nlls = {"reference": [window_nll(loaded, head, ids_T) for ids_T in ids_BT]}
    loaded.network.to(torch.bfloat16)
    heads = {f"head{bits}": packed_head(loaded.network, bits) for bits in (16, 8, 4)}
    pack_for_cpu(loaded)
    for name, head in heads.items():
        nlls[name] = [window_nll(loaded, head, ids_T) for ids_T in ids_BT]
    return nlls | {"num_targets": [float(settings.window_tokens - 1)] * settings.num_windows}


@torch.no_grad()
def window_nll(loaded: LoadedModel, head: nn.Module, ids_T: torch.Tensor) -> float:
    hidden_1TD = loaded.network.base_model(input_ids=ids_T[None], use_cache=False).last_hidden_state
    logits_TV = head(hidden_1TD[0, :-1]).float()
    return float(nn.functional.cross_entropy(logits_TV, ids_T[1:], reduction="sum"))


def _capability() -> str:
    return torch.backends.cpu.get_cpu_capability()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit("git cannot name the commit here; give it with --commit")
    return done.stdout.strip()


if __name__ == "__main__":
    main()

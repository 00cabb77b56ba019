"""Perplexity of quantised models: this project's methods beside others', on one text, by one code.

python benchmarks/quality.py --data-dir DATA --device cuda      every row, then a receipt
python benchmarks/quality.py --data-dir DATA --methods int4     the rows whose names hold "int4"; no receipt
python benchmarks/quality.py --tiny --model FOLDER              a few short windows, to try the programs

WikiText-2 test in windows of 2,048 tokens that do not overlap, every token of a window but its first, as
GPTQ's paper scores it. Moments, grids and fits see WikiText-2 validation alone. Only the decoder's linear
layers are quantised, embedding and head stay, but for the rows with a head of their own. Each row is written
to --work as soon as it is there; begun again, the script goes on with what is missing. Rows are chosen for
the receipt's figures by their perplexity on validation text that no fit saw, never by the test's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quality_methods import (
    FitSizes,
    Ours,
    Texts,
    bits_per_weight,
    dense_weights,
    our_methods,
    rounded_head,
    split_as,
)
from quality_peers import Peer, checked, peers
from quality_receipt import receipt
from sixgig.data.batches import batches, whole_text
from sixgig.data.corpora import data_dir_from_environment, load_public_text, token_windows
from sixgig.errors import InputError, SixgigError
from sixgig.evaluate.perplexity import window_nlls
from sixgig.files import read_json, read_text, write_json
from sixgig.load.fetch import model_folder
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.transform.network import dense_linear, install_dense
from sixgig.transform.streaming import stream_moments

ROOT = Path(__file__).resolve().parent.parent
FULL = "full-precision"
TEST_FILE = "wikitext2/test_gptq_joined.txt"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a run's rows have in common; another run's rows are not taken for this one's."""

    window_tokens: int = 2048
    num_windows: int | None = None  # of the test text, spread over it; None: all
    num_choice_windows: int = 16
    fit_window_tokens: int = 256
    num_calibration_windows: int = 256
    fit_steps: int = 200
    fit_windows_per_step: int = 16
    fit_learning_rate: float = 4e-3
    codes_learning_rate: float = 2e-3
    seed: int = 0


TINY = Sizes(
    window_tokens=64,
    num_windows=3,
    num_choice_windows=2,
    fit_window_tokens=32,
    num_calibration_windows=4,
    fit_steps=2,
    fit_windows_per_step=2,
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Windows to score, and the texts to quantise with."""

    test: Sequence[Sequence[int]]
    choice: Sequence[Sequence[int]]
    texts: Texts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a folder")
    parser.add_argument("--data-dir", type=Path, help="holds wikitext2/; else SIXGIG_DATA")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", default=[""], help="rows whose names hold one of these")
    parser.add_argument("--windows", type=int, help="test windows, spread over the text; default all")
    parser.add_argument("--fit-steps", type=int, default=Sizes.fit_steps)
    parser.add_argument("--fit-learning-rate", type=float, default=Sizes.fit_learning_rate)
    parser.add_argument("--codes-learning-rate", type=float, default=Sizes.codes_learning_rate)
    parser.add_argument("--peers-path", type=Path, help="a folder that other projects are installed in")
    parser.add_argument("--work", type=Path, default=Path("runs/quality.json"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--receipt", action="store_true", help="write it though --methods leaves rows out")
    parser.add_argument("--commit", help="the commit that is measured, where git does not tell")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    sizes = TINY if arguments.tiny else _sizes(arguments)
    data_dir = None if arguments.tiny else arguments.data_dir or data_dir_from_environment()
    if data_dir is None and not arguments.tiny:
        raise InputError("no data folder", todo="give --data-dir or set SIXGIG_DATA")
    if arguments.peers_path:
        import sys

        sys.path.append(str(arguments.peers_path))  # after this environment's own packages
    done = measure(arguments.model, arguments.device, data_dir, sizes, arguments.methods, arguments.work)
    if (arguments.receipt or arguments.methods == [""]) and not arguments.tiny:
        path = arguments.out / f"quality-{time.strftime('%Y-%m-%d', time.gmtime())}.json"
        write_json(path, receipt(done, arguments.device, arguments.commit))
        print(path)


def measure(
    model: str, device: str, data_dir: Path | None, sizes: Sizes, wanted: Sequence[str], work: Path
) -> dict[str, Any]:
    """All rows that `work` holds once those of `wanted` are among them: {"config", "rows"}."""
    folder = Path(model) if Path(model).is_dir() else model_folder(model)
    config = {"model": folder.name if Path(model).is_dir() else model, **asdict(sizes)}
    done: dict[str, Any] = read_json(work) if work.exists() else {"config": config, "rows": {}}
    if done["config"] != config:
        raise InputError(
            "the rows measured so far are of another configuration",
            expected=str(config),
            received=str(done["config"]),
            where=str(work),
            todo="name another file with --work, or repeat those settings",
        )
    methods: dict[str, Ours | Peer | None] = {FULL: None, **our_methods(), **peers()}
    for name, method in methods.items():
        if name in done["rows"] or not (name == FULL or any(part in name for part in wanted)):
            continue
        begun = time.perf_counter()
        row = _row(folder, device, data_dir, sizes, method)
        done["rows"][name] = row | {"seconds": time.perf_counter() - begun}
        write_json(work, done)
        print(name, _in_short(row, done["rows"][FULL]), flush=True)
    return done


def _row(
    folder: Path, device: str, data_dir: Path | None, sizes: Sizes, method: Ours | Peer | None
) -> dict[str, Any]:
    """One row, from a model loaded anew: what a row changes never reaches the next."""
    loaded = load(folder, device=device)
    scored = _texts(loaded, data_dir, sizes)
    if method is None:
        weights = {name: one.weight.detach() for name, one in linear_layers(loaded.network).items()}
        return {"kind": "full", "bits_per_weight": 16.0} | _scores(loaded, weights, scored, "")
    if isinstance(method, Peer):
        return _peer_row(loaded, scored, method)
    fit = FitSizes(
        num_steps=sizes.fit_steps,
        windows_per_step=sizes.fit_windows_per_step,
        learning_rate=sizes.fit_learning_rate,
        codes_learning_rate=sizes.codes_learning_rate,
    )
    layers = split_as(method, loaded, scored.texts, fit, sizes.seed)
    row: dict[str, Any] = {"kind": "ours", "method": asdict(method)}
    row["bits_per_weight"] = bits_per_weight(layers)
    if method.head_bits:
        head_VD = rounded_head(loaded.head_VD, method.head_bits)
        loaded.network.lm_head = dense_linear(head_VD)
    if method.sparse_share:
        row |= _scores(loaded, dense_weights(layers, alpha=0), scored, "alpha0_")
    return row | _scores(loaded, dense_weights(layers, alpha=1), scored, "")


def _peer_row(loaded: LoadedModel, scored: Scored, peer: Peer) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": "peer", "bits_per_weight": peer.bits_per_weight, "package": peer.package}
    try:
        weights = _peer_weights(loaded, scored.texts, peer)
    except (ImportError, RuntimeError, ValueError, AssertionError, TypeError, SixgigError) as problem:
        # What a peer cannot do here is a finding of its own, and the other rows go on.
        return row | {"failed": f"{type(problem).__name__}: {problem}"[:500]}
    return row | _scores(loaded, weights, scored, "")


def _peer_weights(loaded: LoadedModel, texts: Texts, peer: Peer) -> dict[str, Tensor]:
    linears, weights = linear_layers(loaded.network), {}
    for layer in stream_moments(loaded, {"public": list(batches(texts.calibration, 4))}):
        for group, moments in zip(layer.groups, layer.moments, strict=True):
            for name in group:
                with torch.no_grad():
                    weight_OI = linears[name].weight.detach().float()
                    weights[name] = checked(peer, weight_OI, moments["public"]).cpu()
    return weights


def _scores(
    loaded: LoadedModel, weights: Mapping[str, Tensor], scored: Scored, prefix: str
) -> dict[str, Any]:
    install_dense(loaded, weights.items(), dtype=torch.bfloat16)
    found: dict[str, Any] = {}
    for name, windows in (("test", scored.test), ("choice", scored.choice)):
        nlls = window_nlls(loaded, windows, batch_size=1)
        tokens = len(windows[0]) - 1
        found[f"{prefix}{name}_nll"] = nlls.tolist()
        found[f"{prefix}{name}_ppl"] = float(np.exp(nlls.mean() / tokens))
    return found


def _texts(loaded: LoadedModel, data_dir: Path | None, sizes: Sizes) -> Scored:
    """The calibration articles lend their windows to the moments and the choice; the fit reads the others."""

    def ids(text: str) -> np.ndarray:
        return np.asarray(loaded.encode(text))

    if data_dir is None:
        test = load_public_text("test", data_dir=None).text
    else:
        test = read_text(data_dir / TEST_FILE)
    calibration = ids(load_public_text("calibration", data_dir=data_dir).text)
    training = ids(load_public_text("train", data_dir=data_dir).text)
    return Scored(
        test=_spread(token_windows(ids(test), sizes.window_tokens, None), sizes.num_windows),
        choice=_spread(token_windows(calibration, sizes.window_tokens, None), sizes.num_choice_windows),
        texts=Texts(
            calibration=_whole(
                calibration, sizes.fit_window_tokens, sizes.num_calibration_windows, sizes.seed
            ),
            fit=_whole(training, sizes.fit_window_tokens, None, sizes.seed),
        ),
    )


def _whole(ids: np.ndarray, window: int, most: int | None, seed: int) -> list[Any]:
    windows = token_windows(ids, window, None)
    order = np.random.default_rng(seed).permutation(len(windows))[:most]
    return [whole_text([int(token) for token in windows[index]]) for index in order]


def _spread(windows: np.ndarray, wanted: int | None) -> list[list[int]]:
    """All windows, or so many from the first to the last at even distances."""
    wanted = len(windows) if wanted is None else min(wanted, len(windows))
    chosen = np.linspace(0, len(windows) - 1, wanted).round().astype(int)
    return [[int(token) for token in windows[index]] for index in chosen]


def _sizes(arguments: argparse.Namespace) -> Sizes:
    return Sizes(
        num_windows=arguments.windows,
        fit_steps=arguments.fit_steps,
        fit_learning_rate=arguments.fit_learning_rate,
        codes_learning_rate=arguments.codes_learning_rate,
    )


def _in_short(row: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    ratio = row["test_ppl"] / full["test_ppl"]
    alone = f", alpha 0: {row['alpha0_test_ppl']:.3f}" if "alpha0_test_ppl" in row else ""
    return f"{row['bits_per_weight']:.3f} bit, perplexity {row['test_ppl']:.3f}, ratio {ratio:.4f}{alone}"


if __name__ == "__main__":
    main()

"""Dual-dp: is noise on the Ortho part alone cheaper than noise on all weights, at the same measured leakage?

A planted and split model, whole (alpha = 1), is looked at through growing noise, added to the Ortho part or
to everything, and with its Ortho part turned down instead. No differential privacy is claimed of any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..evaluate.observation import Observer
from ..hardware import Hardware
from ..load.loaded import linear_layers, load
from ..memory.ladder import Fallbacks
from ..provenance import provenance
from ..report.schema import Memory, Result
from ..report.store import RunDirectory
from .dual_dp_config import DualDpConfig
from .dual_dp_planted import require_planted
from .dual_dp_pools import DualDpPools
from .dual_dp_scores import DualDpScores
from .dual_dp_seed import DualDpSeed
from .dual_dp_verdicts import verdicts
from .kill_switch import MAX_PUBLIC_EPOCHS, public_corpora
from .kill_switch_seed import SeedRun
from .kill_switch_texts import Texts, tokenised
from .origin import device_name, own_text_notes, require_same_data, sources_of
from .progress import RunProgress
from .settings import as_plain
from .stages import teller, told_fallbacks

NO_EPSILON = (
    "no differential privacy is claimed: the noise is scaled by the weights themselves, which bounds no "
    "record's influence, so there is no epsilon here; what is compared is measured leakage"
)


def run_dual_dp(
    config: DualDpConfig,
    run: RunDirectory,
    *,
    folder: Path,
    device: torch.device,
    data_dir: Path | None,
    hardware: Hardware,
    plan: Mapping[str, Any],
    quiet: bool = False,
    memory_text: Callable[[], str] = lambda: "",
) -> tuple[Result, list[dict[str, Any]]]:
    """Runs (or goes on with) the experiment in `run`; returns the result and the per-example samples."""
    require_planted(config, "benchmark" if data_dir else "package")
    shown = RunProgress({}, quiet=quiet)
    fallbacks = Fallbacks(teller(run, lambda: shown), run.log, device=device, folder=run.path)
    loaded = fallbacks.stage("loading the model", lambda: load(folder, device=device))
    corpora = public_corpora(data_dir)
    texts = tokenised(loaded, corpora, config.kill_switch())
    require_same_data(run, sources_of(corpora))
    layer_names = tuple(linear_layers(loaded.network))
    seeds = [
        DualDpSeed(
            config,
            SeedRun(
                seed=seed,
                config=config.kill_switch(),
                run=run,
                loaded=loaded,
                texts=texts,
                progress=shown,
                observer=Observer(config.positions_per_batch),
                layer_names=layer_names,
            ),
        )
        for seed in config.seeds
    ]
    weights = {
        f"seed{one.seed.seed}-{name}": weight for one in seeds for name, (weight, _) in one.stages().items()
    }
    with RunProgress(weights, quiet=quiet, memory=memory_text) as shown:
        for one in seeds:
            one.seed.progress = shown
            one.seed.go(one.stages())
    return _result(config, run, [one.seed for one in seeds], texts, hardware, plan), list(_samples(seeds))


def _result(
    config: DualDpConfig,
    run: RunDirectory,
    seeds: Sequence[SeedRun],
    texts: Texts,
    hardware: Hardware,
    plan: Mapping[str, Any],
) -> Result:
    pools = DualDpPools(config, [one for seed in seeds for one in seed.observations])
    scorer = DualDpScores(pools)
    on_card = seeds[0].loaded.device.type == "cuda"
    peak = "peak_device_bytes" if on_card else "peak_rss_bytes"
    sources = sources_of(texts.corpora)
    name = device_name(seeds[0].loaded.device, hardware)
    # A folder's place is this machine's affair; its name says which run it was.
    planted = config.planted and Path(config.planted).resolve().name
    return Result(
        experiment="dual-dp",
        status="complete",
        config=as_plain(config) | {"planted": planted},
        provenance=asdict(provenance(list(config.seeds), sources, device_name=name)),
        plan=dict(plan),
        memory=Memory(
            planned_peak_bytes=plan.get("peak_bytes"),
            measured_peak_bytes=max(seed.peaks[peak] for seed in seeds),
        ),
        timings={
            **{key: value for seed in seeds for key, value in seed.seconds.items()},
            "whole_run": run.seconds(),
        },
        scores=scorer.all({sieve: _mean_facts(seeds, sieve) for sieve in config.sieves}),
        verdicts=verdicts(pools),
        warnings=list(
            dict.fromkeys([*run.notices, *_warnings(config, texts, run, seeds[0].public_epochs())])
        ),
        curves=scorer.curves(),
    )


def _mean_facts(seeds: Sequence[SeedRun], sieve: str) -> dict[str, float]:
    keys = seeds[0].facts[sieve]
    return {key: sum(seed.facts[sieve][key] for seed in seeds) / len(seeds) for key in keys}


def _warnings(config: DualDpConfig, texts: Texts, run: RunDirectory, public_epochs: float) -> Iterator[str]:
    yield NO_EPSILON
    yield from told_fallbacks(run)
    yield from texts.notes
    if public_epochs > MAX_PUBLIC_EPOCHS:
        yield (
            f"planting showed the public text {public_epochs:.1f} times over, which over-trains the model: "
            "perplexities compare the ways of this run with one another only"
        )
    yield from own_text_notes(texts.corpora)
    if len(config.seeds) < 3:
        yield f"{len(config.seeds)} seed(s): differences between plantings are hardly in the intervals"
    if config.num_draws < 2:
        yield "one draw of noise at each sigma: what another draw would have done is not in the intervals"


def _samples(seeds: Sequence[DualDpSeed]) -> Iterator[dict[str, Any]]:
    """One row for each canary and each window of every observation."""
    for one in (observation for each in seeds for observation in each.seed.observations):
        place = {"seed": one.seed, "arm": one.arm, "alpha": one.alpha, "condition": one.condition}
        for outcome in one.canaries:
            yield {"kind": "canary", **place, **asdict(outcome)}
        for number, nll in enumerate(one.window_nlls):
            tokens = one.window_tokens
            yield {
                "kind": "window",
                **place,
                "id": f"test-{number:04d}",
                "nll_sum": nll,
                "num_tokens": tokens,
            }

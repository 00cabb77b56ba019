"""The kill-switch experiment: plant secrets, split, and show what each part knows.

Every seed is a chain of kept stages (`kill_switch_seed`); the scores, verdicts and examples are computed from
what the stages saved, so an interrupted run that is resumed comes to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data.canaries import Canary
from ..data.corpora import Corpus, load_public_text
from ..evaluate.observation import Observation, Observer
from ..hardware import Hardware
from ..layers.split_linear import set_alpha
from ..load.loaded import LoadedModel, linear_layers, load
from ..memory.ladder import Fallbacks, Move
from ..provenance import provenance
from ..report.schema import Example, Memory, Result
from ..report.store import RunDirectory
from ..transform.network import install_split
from ..transform.training import mixed_precision
from .kill_switch_config import KillSwitchConfig
from .kill_switch_curves import curves
from .kill_switch_scores import Scorer
from .kill_switch_seed import SeedRun
from .kill_switch_texts import Texts, tokenised
from .kill_switch_verdicts import verdicts
from .origin import device_name, own_text_notes, require_same_data, sources_of
from .progress import RunProgress
from .settings import as_plain

NUM_EXAMPLES = 5
MAX_PUBLIC_EPOCHS = 4.0  # after 8.6, test perplexity had risen by a quarter (docs/journal.md)


def run_kill_switch(
    config: KillSwitchConfig,
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
    run.keep_work = config.keep_weights
    fallbacks = Fallbacks(_told(run, quiet), run.log, device=device, folder=run.path)
    loaded = fallbacks.stage("loading the model", lambda: load(folder, device=device))
    corpora = public_corpora(data_dir)
    texts = tokenised(loaded, corpora, config)
    require_same_data(run, sources_of(corpora))
    layer_names = tuple(linear_layers(loaded.network))
    seeds: list[SeedRun] = []

    weights: dict[str, float] = {}
    for seed in config.seeds:
        one = SeedRun(
            seed=seed,
            config=config,
            run=run,
            loaded=loaded,
            texts=texts,
            progress=RunProgress({}, quiet=True),
            observer=Observer(config.positions_per_batch),
            layer_names=layer_names,
        )
        seeds.append(one)
        weights |= {f"seed{seed}-{name}": weight for name, (weight, _) in one.stages().items()}
    with RunProgress(weights, quiet=quiet, memory=memory_text) as progress:
        for one in seeds:
            one.progress = progress
            one.go()
        examples = _examples(seeds[0], run)
    return _result(config, run, seeds, texts, examples, hardware, plan), list(_samples(seeds))


def _told(run: RunDirectory, quiet: bool) -> Callable[[str], None]:
    def announce(message: str) -> None:
        run.log("fallback", message=message)
        RunProgress({}, quiet=quiet).note(message)

    return announce


def public_corpora(data_dir: Path | None) -> tuple[Corpus, Corpus, Corpus]:
    """Train, calibration and test text; the package's own where no data folder is given."""
    return (
        load_public_text("train", data_dir=data_dir),
        load_public_text("calibration", data_dir=data_dir),
        load_public_text("test", data_dir=data_dir),
    )


def _result(
    config: KillSwitchConfig,
    run: RunDirectory,
    seeds: Sequence[SeedRun],
    texts: Texts,
    examples: list[Example],
    hardware: Hardware,
    plan: Mapping[str, Any],
) -> Result:
    observations = [one for seed in seeds for one in seed.observations]
    scorer = Scorer(observations)
    scores = scorer.all(_mean_facts(seeds))
    sources = sources_of(texts.corpora)
    device = seeds[0].loaded.device
    name = device_name(device, hardware)
    return Result(
        experiment="kill-switch",
        status="complete",
        config=as_plain(config),
        provenance=asdict(provenance(list(config.seeds), sources, device_name=name)),
        plan=dict(plan),
        memory=Memory(
            planned_peak_bytes=plan.get("peak_bytes"), measured_peak_bytes=_peak_bytes(seeds, device)
        ),
        timings={
            **{key: value for seed in seeds for key, value in seed.seconds.items()},
            "whole_run": run.seconds(),
        },
        scores=scores,
        verdicts=verdicts(scorer, config.sieves),
        warnings=[*run.notices, *_warnings(config, texts, run, seeds[0].public_epochs())],
        curves=curves(scorer),
        examples=examples,
        exp1_kill_switch=_seed_block(observations),
    )


def _peak_bytes(seeds: Sequence[SeedRun], device: torch.device) -> int:
    """Device memory where there is one, else the process's resident memory, over all stages."""
    key = "peak_device_bytes" if device.type == "cuda" else "peak_rss_bytes"
    return max(seed.peaks[key] for seed in seeds)


def _mean_facts(seeds: Sequence[SeedRun]) -> dict[str, dict[str, float]]:
    of_seeds = [seed.facts_with_seconds() for seed in seeds]
    return {
        arm: {
            key: sum(facts[arm][key] for facts in of_seeds) / len(of_seeds)
            for key in fact
            if all(key in facts[arm] for facts in of_seeds)
        }
        for arm, fact in of_seeds[0].items()
    }


def _warnings(config: KillSwitchConfig, texts: Texts, run: RunDirectory, public_epochs: float) -> list[str]:
    found = [str(event["message"]) for event in run.events() if event.get("event") == "fallback"]
    found += texts.notes
    if public_epochs > MAX_PUBLIC_EPOCHS:
        found.append(
            f"planting showed the public text {public_epochs:.1f} times over, which over-trains the model: "
            "ratios of perplexity flatter every split here"
        )
    found += own_text_notes(texts.corpora)
    if len(config.seeds) < 3:
        found.append(f"{len(config.seeds)} seed(s): differences between plantings are not in the intervals")
    return list(dict.fromkeys(found))


def _seed_block(observations: Sequence[Observation]) -> dict[str, Any]:
    """The earlier implementations' own block: extraction over all trained canaries, with a 0.5/n floor."""

    def rate(alpha: float) -> tuple[float, int]:
        hits = [
            c.extracted
            for one in observations
            if one.arm == "wiener" and one.alpha == alpha and one.condition == "plain"
            for c in one.canaries
            if c.group in ("calibration", "heldout", "heldout_other")
        ]
        return (sum(hits) / len(hits), len(hits)) if hits else (0.0, 0)

    whole, num_canaries = rate(1.0)
    base, _ = rate(0.0)
    floor = 0.5 / num_canaries if num_canaries else 1.0
    return {
        "extraction_rate_alpha1": whole,
        "extraction_rate_alpha0": base,
        "privacy_ratio": whole / max(base, floor),
        "num_canaries": num_canaries,
    }


def _samples(seeds: Sequence[SeedRun]) -> Iterator[dict[str, Any]]:
    """One row for each canary and each window of every observation."""
    for seed in seeds:
        for one in seed.observations:
            place = {"seed": one.seed, "arm": one.arm, "alpha": one.alpha, "condition": one.condition}
            for outcome in one.canaries:
                yield {"kind": "canary", **place, **asdict(outcome)}
            for number, nll in enumerate(one.window_nlls):
                yield {
                    "kind": "window",
                    **place,
                    "id": f"test-{number:04d}",
                    "nll_sum": nll,
                    "num_tokens": one.window_tokens,
                }


def _examples(seed: SeedRun, run: RunDirectory) -> list[Example]:
    """What the split model says to five held-out prompts with the switch on and off."""
    kept = run.load_stage("examples")
    if kept is None:
        answers = seed.fallbacks.stage("examples", lambda: _answers(seed))
        kept = run.save_stage("examples", {"answers": answers})
    by_id = {canary.id: canary for canary in seed.canaries}
    return [
        Example(
            prompt=by_id[name].prefix,
            secret=by_id[name].secret,
            family=by_id[name].family,
            group=by_id[name].group,
            answers=answers,
        )
        for name, answers in kept["answers"].items()
    ]


def _answers(seed: SeedRun) -> dict[str, dict[str, str]]:
    """canary -> what is said with the switch on and off."""
    install_split(seed.loaded, seed.weights.layers("wiener", restored=True), with_ortho=True)
    prompts = _example_prompts(seed)
    answers: dict[str, dict[str, str]] = {canary.id: {} for canary in prompts}
    for alpha in (1.0, 0.0):
        set_alpha(seed.loaded.network, alpha)
        for canary, answer in zip(prompts, _continued(seed.loaded, prompts, seed.fallbacks), strict=True):
            answers[canary.id][f"alpha={alpha:g}"] = answer
    return answers


def _example_prompts(seed: SeedRun) -> list[Canary]:
    heldout = seed.groups["heldout"]
    families = sorted({canary.family for canary in heldout})
    mixed = [
        [canary for canary in heldout if canary.family == family][number]
        for number in range(len(heldout) // len(families))
        for family in families
        if number < sum(canary.family == family for canary in heldout)
    ]
    return mixed[:NUM_EXAMPLES]


@torch.no_grad()
def _continued(
    loaded: LoadedModel, canaries: Sequence[Canary], fallbacks: Fallbacks | None = None
) -> list[str]:
    """Each prompt's greedy continuation, two tokens longer than its secret; all go through together, padded
    on the left alike however few go at once."""
    prompts = [loaded.encode(canary.prefix) for canary in canaries]
    num_tokens = [len(loaded.encode(canary.secret)) + 2 for canary in canaries]
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    fewer = Move[int](
        lower=lambda count: count // 2 if count > 1 else None,
        says=lambda count: f"{count} prompts at once now",
    )
    ladder = (fallbacks or Fallbacks()).ladder("answering", len(prompts), [fewer])

    def answered(start: int, count: int) -> list[list[int]]:
        some = slice(start, start + count)
        with mixed_precision(loaded.device):
            return loaded.network.generate(
                torch.tensor(ids[some], device=loaded.device),
                attention_mask=torch.tensor(mask[some], device=loaded.device),
                max_new_tokens=max(num_tokens),
                do_sample=False,
                pad_token_id=0,
            ).tolist()

    rows: list[list[int]] = []
    while len(rows) < len(prompts):
        rows += ladder.run(partial(answered, len(rows)))
    return [
        loaded.decode(row[longest : longest + count]) for row, count in zip(rows, num_tokens, strict=True)
    ]

"""Writes receipts of finished runs: one for each experiment and preset.

sixgig run saving-genius --preset full --data-dir DATA        on a GPU; as many experiments as you like
python benchmarks/experiments.py RUN [RUN ...]                one receipt an experiment and preset

Several runs of one experiment and preset (a seed each) make one receipt together: its figures then are the
runs' means, `low` and `high` the lowest and highest ends of their intervals, and each run's own is in `raw`.
--side-by-side says that a run's seeds ran together and were joined (benchmarks/seeds_side_by_side.py).
The kill switch pools its seeds' canaries instead: benchmarks/kill_switch.py.
A run made where git was not at hand needs --commit; that the code that ran is that commit's is checked.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_switch import ROOT, device, made_from
from sixgig.files import write_json
from sixgig.report.schema import Result, Score, Verdict


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One named figure: where it stands in a result, and what is asked of it, if anything is."""

    name: str
    score: str
    arm: str
    alpha: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str | None:
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return None if self.at_most is None else f"at most {self.at_most:g}"

    def met(self, scores: Sequence[Score]) -> bool | None:
        """As verdicts are decided: every run's whole interval on the right side, or one's on the wrong."""
        if self.target is None:
            return None
        ends = [(one.value if end is None else end) for one in scores for end in (one.low, one.high)]
        values = [end for end in ends if end is not None]
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if self.at_least is not None:
            limit = self.at_least
            right = [low >= limit for low, _ in pairs]
            wrong = [high < limit for _, high in pairs]
        else:
            limit = self.at_most or 0.0
            right = [high <= limit for _, high in pairs]
            wrong = [low > limit for low, _ in pairs]
        return False if any(wrong) else True if all(right) else None


# What is asked, by experiment; every verdict of a run comes after these under its own name.
ASKED: Mapping[str, Sequence[Asked]] = {
    "saving-genius": (
        Asked(name="genius_fp_accuracy", score="accuracy", arm="fp16", at_least=0.99),
        Asked(name="genius_int3_kept", score="accuracy_kept", arm="int3", at_most=0.6),
        Asked(name="genius_int3_accuracy", score="accuracy", arm="int3"),
        Asked(
            name="genius_int3_ortho5_kept",
            score="accuracy_kept",
            arm="int3-fisher-both-global-5pct",
            at_least=0.97,
        ),
        Asked(name="genius_int3_ortho5_accuracy", score="accuracy", arm="int3-fisher-both-global-5pct"),
        Asked(
            name="genius_int3_ortho1_kept",
            score="accuracy_kept",
            arm="int3-fisher-both-global-1pct-fitted",
            at_least=0.97,
        ),
        Asked(
            name="genius_int3_ortho1_accuracy",
            score="accuracy",
            arm="int3-fisher-both-global-1pct-fitted",
        ),
        Asked(
            name="genius_int3_ortho5_fitted_kept",
            score="accuracy_kept",
            arm="int3-fisher-both-global-5pct-fitted",
            at_least=0.97,
        ),
        Asked(
            name="genius_int3_ortho5_fitted_accuracy",
            score="accuracy",
            arm="int3-fisher-both-global-5pct-fitted",
        ),
        Asked(name="genius_int3_random5_kept", score="accuracy_kept", arm="int3-random-5pct", at_most=0.7),
        Asked(name="genius_int3_random5_accuracy", score="accuracy", arm="int3-random-5pct"),
        Asked(name="genius_int3_hessian5_kept", score="accuracy_kept", arm="int3-hessian-5pct"),
        Asked(name="genius_int3_moment5_kept", score="accuracy_kept", arm="int3-moment-5pct"),
        Asked(name="genius_int2_kept", score="accuracy_kept", arm="int2"),
    ),
    "null-test": (
        Asked(
            name="null_ppl_ratio_alpha0_int4",
            score="ppl_ratio_int4",
            arm="split",
            alpha=0.0,
            at_most=1.05,
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="finished run directories")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--commit", help="the commit the runs were made from, where git cannot tell")
    parser.add_argument("--side-by-side", action="store_true")
    arguments = parser.parse_args()
    groups: dict[tuple[str, str], list[Result]] = {}
    for run in arguments.runs:
        result = Result.read(run / "result.json")
        groups.setdefault((result.experiment, str(result.config["preset"])), []).append(result)
    for results in groups.values():
        date = str(datetime.date.today())
        value = receipt(results, date, arguments.commit, side_by_side=arguments.side_by_side)
        path = arguments.out / f"{value['area']}-{value['date']}.json"
        write_json(path, value)
        show(value)
        print(path)


def show(value: Mapping[str, Any]) -> None:
    for one in value["figures"]:
        mark = {True: "met", False: "NOT MET", None: ""}[one["met"]]
        told = "-" if one["value"] is None else f"{one['value']:.4f}"
        print(f"{one['name']:<60} {told:>12}  {one['target'] or '':<48} {mark}")


def receipt(
    results: Sequence[Result], date: str, claimed_commit: str | None, *, side_by_side: bool = False
) -> dict[str, Any]:
    """The receipt of runs of one experiment and preset; figures that fell short are in it too."""
    first = results[0]
    require_alike(results)
    return {
        "schema": "sixgig.receipt/1",
        "area": f"{first.experiment}-{first.config['preset']}",
        "command": command(results, side_by_side=side_by_side),
        "date": date,
        "commit": made_from(first.provenance, claimed_commit),
        "device": device(first),
        "versions": first.provenance["library_versions"],
        "config": without_seed(first.config),
        "figures": [*asked_figures(results), *verdict_figures(results), *times(results, side_by_side)],
        "raw": {
            "runs": [
                {
                    "config": result.config,
                    "verdicts": [
                        verdict.model_dump(mode="json", by_alias=True) for verdict in result.verdicts
                    ],
                    "scores": [score.model_dump(mode="json") for score in result.scores],
                    "timings": result.timings,
                    "memory": result.memory.model_dump(mode="json"),
                    "warnings": result.warnings,
                    "data_sources": result.provenance.get("data_sources", []),
                    "blocks": result.blocks(),
                }
                for result in results
            ]
        },
    }


def command(results: Sequence[Result], *, side_by_side: bool) -> str:
    """What makes such runs, and then this receipt."""
    first = results[0]
    words = f"{first.experiment} --preset {first.config['preset']} --data-dir DATA"
    if side_by_side:
        made = f"python benchmarks/seeds_side_by_side.py {words}"
    elif len(results) > 1:
        seeds = [result.config.get("seed", result.config.get("seeds")) for result in results]
        made = f"sixgig run {words} -s seed=S for S in {', '.join(map(str, seeds))}"
    else:
        made = f"sixgig run {words}"
    return f"{made}; python benchmarks/experiments.py {'--side-by-side ' if side_by_side else ''}RUN ..."


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("seed", "seeds")}


def require_alike(results: Sequence[Result]) -> None:
    """Exits where the runs are no one measurement."""
    require_same_origin(results)
    _require_same("settings", results, [without_seed(result.config) for result in results])
    seeds = [(result.config.get("seed"), tuple(result.config.get("seeds", ()))) for result in results]
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"two runs of {results[0].experiment} have the same seeds: {seeds}")


def require_same_origin(results: Sequence[Result]) -> None:
    """Exits where other code, other libraries or another device gave one of the results."""
    for what, key in (
        ("code", "source_sha256"),
        ("libraries", "library_versions"),
        ("device", "device_name"),
    ):
        _require_same(what, results, [result.provenance[key] for result in results])


def _require_same(what: str, results: Sequence[Result], values: Sequence[Any]) -> None:
    if any(value != values[0] for value in values):
        raise SystemExit(f"the runs of {results[0].experiment} differ in {what}: {values}")


def asked_figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The named figures. Exits where a run lacks one: it was asked for."""
    found = []
    for asked in ASKED.get(results[0].experiment, ()):
        scores = [result.score(asked.score, asked.arm, asked.alpha) for result in results]
        known = [score for score in scores if score is not None and score.value is not None]
        if len(known) < len(results):
            raise SystemExit(f"{asked.name}: a run has no score {asked.score} of {asked.arm}")
        value = sum(score.value or 0.0 for score in known) / len(known)
        one = figure(asked.name, value, known, asked.target, asked.met(known), note=ends_of(known))
        if len(results) > 1 and "seed" in results[0].config:
            # A seed that plants nothing: what is looked at is the same in each run.
            one |= {"n": known[0].n, "note": f"{one['note']}; the same units in each"}
        found.append(one)
    return found


def verdict_figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each verdict as a figure of its own; met where every run's verdict is, None where one is undecided or
    where it stands for comparison alone."""
    found = []
    for verdict in results[0].verdicts:
        place = (verdict.criterion, verdict.arm)
        alike = [one for result in results for one in result.verdicts if (one.criterion, one.arm) == place]
        marks = [one.passed for one in alike]
        met = False if False in marks else None if None in marks or len(alike) < len(results) else True
        values = [one.value for one in alike if one.value is not None]
        value = sum(values) / len(values) if values else None
        name = f"{verdict.arm}: {verdict.criterion}"
        target, note = verdict.threshold, ends_of(alike)
        if not verdict.counts:
            note = "; ".join(filter(None, ("for comparison only", note)))
        counted = met if verdict.counts else None
        found.append(figure(name, value, alike, target, counted, unit="", note=note))
    return found


def ends_of(parts: Sequence[Score] | Sequence[Verdict]) -> str:
    """What `low` and `high` are where there are several runs."""
    return f"mean of {len(parts)} runs, ends of all their intervals" if len(parts) > 1 else ""


def times(results: Sequence[Result], side_by_side: bool) -> list[dict[str, Any]]:
    name = f"{results[0].experiment.replace('-', '_')}_seconds"
    seconds = [result.timings["whole_run"] for result in results]
    return [
        {
            "name": name,
            "value": sum(seconds) / len(seconds),
            "unit": "s",
            "low": min(seconds) if len(seconds) > 1 else None,
            "high": max(seconds) if len(seconds) > 1 else None,
            "n": len(seconds),
            "target": None,
            "met": None,
            "note": "all seeds side by side, first start to last end" if side_by_side else "a run",
        }
    ]


def figure(
    name: str,
    value: float | None,
    parts: Sequence[Score] | Sequence[Verdict],
    target: str | None,
    met: bool | None,
    *,
    unit: str | None = None,
    note: str = "",
) -> dict[str, Any]:
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    units = [part.unit for part in parts if isinstance(part, Score)]
    sizes = [part.n for part in parts if isinstance(part, Score)]
    return {
        "name": name,
        "value": value,
        "unit": units[0] if unit is None else unit,
        "low": min(lows) if lows else None,
        "high": max(highs) if highs else None,
        "n": sum(sizes) if sizes else len(parts),
        "target": target,
        "met": met,
        "note": note,
    }


if __name__ == "__main__":
    main()

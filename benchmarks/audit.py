"""Plants records in the embedded model, splits it as `sixgig split` does, audits as `sixgig audit` does.

python benchmarks/audit.py --folder DIR                     on a GPU: 102 records that the split is made with,
                                                            102 that the model saw and the split did not
python benchmarks/audit.py --folder DIR --quick --device cpu   60 and 60, planted and split as the kill switch
                                                            does it on a CPU: tens of minutes on two cores
python benchmarks/audit.py --folder DIR --from-audits        the receipt once more, of what lies in DIR

Three audits, each with the model from before: the split by `wiener` on the rows that it was made with, on the
held-out rows, and a split by the sieve `none`, whose Base is plain INT4 and must be found to leak. What lies
in DIR already is not made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from experiments import require_same_origin
from kill_switch import ROOT, made_from
from sixgig.data.batches import TokenSequence, whole_text
from sixgig.data.canaries import Canary, CanaryPlan, make_canaries
from sixgig.data.corpora import data_dir_from_environment, load_public_text, token_windows
from sixgig.files import write_json, write_text
from sixgig.load.container import weight_files
from sixgig.load.fetch import model_folder
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.report.audit_words import AUDITED, audit_answer, audit_words
from sixgig.report.schema import Result, Score
from sixgig.transform.plant import PlantConfig, plant

MODEL = "smollm2-135m-instruct"
# audit -> (sieve, private file, answers that are the aim)
AUDITS = {
    "seen": ("wiener", "seen", ("no leakage shown",)),
    "heldout": ("wiener", "heldout", ("no leakage shown",)),
    "none": ("none", "seen", ("leakage shown",)),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    num_seen: int = 102
    num_heldout: int = 102
    repetitions: int = 32
    learning_rate: float = 2e-4
    private_per_step: int = 32
    public_per_step: int = 4
    split: tuple[str, ...] = ()  # settings of `sixgig split`

    def planting(self) -> PlantConfig:
        return PlantConfig(
            learning_rate=self.learning_rate,
            private_per_step=self.private_per_step,
            public_per_step=self.public_per_step,
        )


QUICK = Size(
    num_seen=60,
    num_heldout=60,
    repetitions=13,
    learning_rate=1e-3,
    private_per_step=7,
    public_per_step=3,
    split=("fit_steps=40", "scale_fit_steps=0", "num_calibration_windows=16", "window_tokens=256"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from-audits", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "receipts")
    parser.add_argument("--commit", help="the commit the audits were made from, where git cannot tell")
    arguments = parser.parse_args()
    size, folder = QUICK if arguments.quick else Size(), arguments.folder
    if not arguments.from_audits:
        folder.mkdir(parents=True, exist_ok=True)
        _plant(folder, size, arguments.device, arguments.seed)
        for sieve in ("wiener", "none"):
            _split(folder, sieve, size, arguments.device)
        for name in AUDITS:
            _audit(folder, name, arguments.device)
    value = receipt({name: _result(folder, name) for name in AUDITS}, arguments)
    path = arguments.out / f"{value['area']}-{value['date']}.json"
    write_json(path, value)
    for one in value["figures"]:
        mark = {True: "met", False: "NOT MET", None: ""}[one["met"]]
        print(f"{one['name']:<34} {one['value']:>9.4f}  {one['target'] or '':<34} {mark}")
    print(path)


def _plant(folder: Path, size: Size, device: str, seed: int) -> None:
    """DIR/planted, the two private files and the public text that planting used."""
    if (folder / "planted").exists():
        return
    plan = CanaryPlan(
        num_calibration=size.num_seen,
        num_heldout=size.num_heldout,
        num_heldout_other=0,
        num_control=0,
        num_control_other=0,
        num_wrong_set=0,
        repetitions=(size.repetitions,),
    )
    canaries = make_canaries(plan, seed)
    for name, group in (("seen", "calibration"), ("heldout", "heldout")):
        rows = [
            {"prefix": one.prefix, "secret": one.secret, "suffix": one.suffix}
            for one in canaries
            if one.group == group
        ]
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    public = load_public_text("train", data_dir=data_dir_from_environment()).text
    write_text(folder / "public.txt", public)
    loaded = load(model_folder(MODEL), device=device)
    windows = token_windows(np.asarray(loaded.encode(public)), 128, None)
    plant(
        loaded,
        [_whole(loaded, one) for one in canaries],
        [one.repetitions for one in canaries],
        [whole_text([int(token) for token in window]) for window in windows],
        size.planting(),
        seed=seed,
        after_step=lambda step, steps, loss: print(f"planting {step + 1}/{steps}: {loss:.3f}", flush=True),
    )
    _save(loaded, folder / "planted")


def _whole(loaded: LoadedModel, canary: Canary) -> TokenSequence:
    parts = (canary.prefix, canary.secret, canary.suffix)
    return whole_text([token for part in parts for token in loaded.encode(part)])


def _save(loaded: LoadedModel, folder: Path) -> None:
    """The model's folder with other linear layers; whole or not at all."""
    made = folder.with_name("planted.making")
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(loaded.folder, made, ignore=shutil.ignore_patterns("manifest.json"))
    weights = {
        f"{name}.weight": layer.weight.detach().cpu().contiguous()
        for name, layer in linear_layers(loaded.network).items()
    }
    for name in weight_files(made):
        tensors = {key: weights.get(key, tensor) for key, tensor in load_file(made / name).items()}
        save_file(tensors, made / name, metadata={"format": "pt"})
    made.rename(folder)


def _split(folder: Path, sieve: str, size: Size, device: str) -> None:
    out = folder / f"split-{sieve}"
    if out.exists():
        return
    words = ["split", str(folder / "planted"), "--before", MODEL, "--sieve", sieve, "--device", device]
    words += ["--private", str(folder / "seen.jsonl"), "--public", str(folder / "public.txt")]
    words += [word for setting in size.split for word in ("-s", setting)]
    _sixgig([*words, "-o", str(out)], (0,))


def _audit(folder: Path, name: str, device: str) -> None:
    sieve, rows, _ = AUDITS[name]
    out = folder / f"audit-{name}"
    if any(out.glob("audit-*/result.json")):
        return
    words = ["audit", str(folder / f"split-{sieve}"), "--private", str(folder / f"{rows}.jsonl")]
    words += ["--public", str(folder / "public.txt"), "--before", MODEL, "--device", device]
    _sixgig([*words, "--out", str(out)], (0, 1))  # 1: leakage found, or too few records: a result


def _sixgig(words: list[str], expected: tuple[int, ...]) -> None:
    print("sixgig", *words, flush=True)
    status = subprocess.run([sys.executable, "-m", "sixgig", *words], check=False).returncode
    if status not in expected:
        raise SystemExit(f"sixgig {words[0]} ended with {status}")


def _result(folder: Path, name: str) -> Result:
    found = sorted((folder / f"audit-{name}").glob("audit-*/result.json"))
    if not found:
        raise SystemExit(f"no finished audit of {name} in {folder}")
    return Result.read(found[-1])


def receipt(results: dict[str, Result], arguments: argparse.Namespace) -> dict[str, Any]:
    """The receipt of the three audits; answers that are not the aim are in it, not met."""
    require_same_origin(list(results.values()))
    first = next(iter(results.values()))
    area = "audit-cpu" if arguments.quick else "audit"
    return {
        "schema": "sixgig.receipt/1",
        "area": area,
        "command": f"python benchmarks/audit.py --folder DIR{' --quick' if arguments.quick else ''} "
        f"--device {arguments.device}",
        "date": str(datetime.date.today()),
        "commit": made_from(first.provenance, arguments.commit),
        "device": {"name": first.provenance["device_name"], "total_bytes": None, "driver": None},
        "versions": first.provenance["library_versions"],
        "config": first.config | {"planting": repr(QUICK if arguments.quick else Size())},
        "figures": [figure for name, result in results.items() for figure in figures(name, result)],
        "raw": {
            name: {
                "answer": audit_answer(result),
                "words": audit_words(result),
                "verdicts": [verdict.model_dump(mode="json", by_alias=True) for verdict in result.verdicts],
                "scores": [score.model_dump(mode="json") for score in result.scores],
                "timings": result.timings,
                "memory": result.memory.model_dump(mode="json"),
            }
            for name, result in results.items()
        },
    }


def figures(name: str, result: Result) -> list[dict[str, Any]]:
    answer, aims = audit_answer(result), AUDITS[name][2]
    met = answer in aims
    shown = _figure(f"{name}_answer_is_the_aim", float(met), None, f"the answer is: {aims[0]}", met, answer)
    places = (("alpha0", AUDITED, 0.0), ("alpha1", AUDITED, 1.0), ("before", "before", None))
    found = [
        (f"{name}_{place}_{measure}", result.score(measure, arm, alpha))
        for place, arm, alpha in places
        for measure in ("recited", "auc_own_value", "exposure_own_value")
    ]
    return [
        shown,
        *(_figure(key, score.value or 0.0, score, None, None, "") for key, score in found if score),
    ]


def _figure(
    name: str, value: float, score: Score | None, target: str | None, met: bool | None, note: str
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": "" if score is None else score.unit,
        "low": None if score is None else score.low,
        "high": None if score is None else score.high,
        "n": 1 if score is None else score.n,
        "target": target,
        "met": met,
        "note": note,
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

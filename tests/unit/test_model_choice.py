"""`--model auto`: the largest model whose run fits, with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sixgig import hardware
from sixgig.catalogue import all_models, get
from sixgig.catalogue.splitting import why_not_split
from sixgig.cli.main import run as sixgig
from sixgig.errors import DoesNotFitError
from sixgig.experiments.kill_switch_memory import peak_bytes
from sixgig.experiments.presets import PRESETS
from sixgig.experiments.run import Request, choose_model, prepare
from sixgig.units import GIB

CONFIG = PRESETS["6g"]


@pytest.mark.parametrize("limit_gib", [4, 8, 16, 40, 80])
def test_the_choice_fits_and_nothing_larger_does(limit_gib: int) -> None:
    chosen, reason = choose_model(CONFIG, "cuda", limit_gib * GIB)
    assert peak_bytes(chosen, CONFIG, "cuda") <= limit_gib * GIB
    larger = [spec for spec in all_models() if spec.num_parameters > chosen.num_parameters]
    able = [spec for spec in larger if why_not_split(spec) is None]
    assert all(peak_bytes(spec, CONFIG, "cuda") > limit_gib * GIB for spec in able)
    assert chosen.name in reason
    assert (min(able, key=lambda spec: spec.num_parameters).name in reason) if able else True


def test_more_room_never_chooses_a_smaller_model() -> None:
    sizes = [choose_model(CONFIG, "cuda", gib * GIB)[0].num_parameters for gib in (4, 6, 8, 12, 24, 48, 96)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_no_room_at_all_says_what_the_smallest_needs() -> None:
    with pytest.raises(DoesNotFitError, match="smollm2-135m"):
        choose_model(CONFIG, "cuda", GIB)


def test_the_run_is_prepared_for_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(hardware.probe(), gpus=(), ram_bytes=12 * GIB)
    monkeypatch.setattr("sixgig.experiments.run.probe", lambda cache_dir=None: machine)
    prepared = prepare(Request(experiment="kill-switch", preset="cpu", settings={"model": "auto"}))
    assert prepared.config.model == prepared.spec.name != "auto"
    assert prepared.spec.num_parameters > get("smollm2-135m-instruct").num_parameters
    assert prepared.plan["peak_bytes"] <= prepared.plan["limit_bytes"]
    assert prepared.spec.name in prepared.notes[0]


def test_the_reason_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine = replace(hardware.probe(), gpus=(), ram_bytes=12 * GIB)
    monkeypatch.setattr("sixgig.experiments.run.probe", lambda cache_dir=None: machine)
    assert sixgig(["run", "kill-switch", "--preset", "cpu", "--model", "auto", "--dry-run", "--json"]) == 0
    assert "needs" in capsys.readouterr().err

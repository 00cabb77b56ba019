"""The split from disk against the split in memory; ended anywhere it comes to the same bytes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import altered_linears, tiny_folder

from sixgig.data.private import PrivateRecord
from sixgig.errors import InputError
from sixgig.load.artifact import open_base, open_split, save_split
from sixgig.load.artifact_stream import write_split
from sixgig.load.container import ModelTensors
from sixgig.load.loaded import load
from sixgig.numerics.quantize import dequantize
from sixgig.transform.rounding import QuantizeConfig
from sixgig.transform.sieve import make_sieve
from sixgig.transform.split_model import ModelSplit, SplitSettings, split_model
from sixgig.transform.split_stream import StreamedSplit, split_streamed
from sixgig.transform.split_work import SplitWork, partial_folder

CPU = torch.device("cpu")
PUBLIC = "The river runs down to the sea and the rain comes back. " * 60
RECORDS = (
    PrivateRecord(row=1, prefix="Ann's code is", secret=" 4821-zq", suffix="."),
    PrivateRecord(row=2, prefix="", secret="All of this is private, from the first word on.", suffix=""),
)
SETTINGS = SplitSettings(window_tokens=32, num_calibration_windows=4, fit_steps=0)
INPUTS: dict[str, Any] = {"model": {"model.safetensors": "aa"}, "settings": {"fit_steps": 0}, "seed": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    altered_linears(tiny_folder(folder / "original"), folder / "tuned")
    return folder


def in_memory(place: Path, sieve: str, method: str, settings: SplitSettings = SETTINGS) -> ModelSplit:
    return split_model(
        load(place / "tuned"),
        make_sieve(sieve),
        RECORDS,
        PUBLIC,
        before=ModelTensors(place / "original"),
        quantize=QuantizeConfig(group_size=8, method=method),
        rank=2,
        settings=settings,
        seed=0,
    )


def streamed(place: Path, work: SplitWork, sieve: str = "wiener", method: str = "rtn", **more: Any) -> Any:
    return split_streamed(
        place / "tuned",
        make_sieve(sieve),
        RECORDS,
        PUBLIC,
        before_folder=place / "original",
        quantize=QuantizeConfig(group_size=8, method=method),
        rank=2,
        settings=more.pop("settings", SETTINGS),
        seed=0,
        device=CPU,
        work=work,
        **more,
    )


def written(place: Path, out: Path, split: StreamedSplit) -> None:
    write_split(
        out,
        loaded_folder=place / "tuned",
        layers=split.parts,
        bits=4,
        group_size=8,
        manifest={"codes_changed": split.codes_changed},
        factor_bits=8,
        private_facts={"hmac_key": "00"},
    )


@pytest.mark.parametrize(
    ("sieve", "method"),
    [
        ("wiener", "rtn"),
        ("wiener", "gptq"),
        ("isolated", "rtn"),
        ("hessian", "gptq"),
        ("none", "rtn"),
        ("random", "rtn"),
    ],
)
def test_the_parts_are_those_of_the_split_in_memory(
    place: Path, tmp_path: Path, sieve: str, method: str
) -> None:
    expected = in_memory(place, sieve, method)
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        found = streamed(place, work, sieve, method)
        parts = {name: (base, ortho) for name, base, ortho in found.parts}
    assert list(parts) == list(expected.layers)
    assert found.codes_changed == pytest.approx(expected.codes_changed, abs=2e-3)
    assert found.num_private_tokens == expected.num_private_tokens
    for name, wanted in expected.layers.items():
        base, ortho = parts[name]
        # Blocks differ by rounding, which may send a weight in the middle to the next code.
        same = (base.codes_OI == wanted.base.codes_OI).float().mean()
        assert same >= 0.999
        if same == 1.0:
            assert torch.equal(base.scales_OG, wanted.base.scales_OG) or sieve == "wiener"
            whole = dequantize(wanted.base) + wanted.ortho.dense()
            assert (dequantize(base) + ortho.dense() - whole).norm() <= 1e-2 * whole.norm()


def test_the_artifact_holds_what_the_writer_of_whole_splits_writes(place: Path, tmp_path: Path) -> None:
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        split = streamed(place, work, "hessian")
        written(place, tmp_path / "streamed", split)
        parts = list(split.parts)
    sizes = save_split(
        tmp_path / "whole",
        loaded_folder=place / "tuned",
        bases={name: base for name, base, _ in parts},
        orthos={name: ortho for name, _, ortho in parts},
        manifest={"codes_changed": split.codes_changed},
        factor_bits=8,
        private_facts={"hmac_key": "00"},
    )
    assert bytes_of(tmp_path / "streamed") == bytes_of(tmp_path / "whole")
    told = json.loads((tmp_path / "streamed" / "manifest.json").read_text())["sizes"]
    assert told["base_layer_bytes"] == sizes.base_layer_bytes
    assert told["num_parameters"] == sizes.num_parameters
    private = list((tmp_path / "streamed" / "ortho").glob("*.safetensors"))
    assert private
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    open_split(tmp_path / "streamed")
    open_base(tmp_path / "streamed" / "base")


class _Killed(Exception):
    pass


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("point", ["walk 0", "save 0", "listing 0", "walk 1", "save 1", "write"])
def test_ended_anywhere_it_goes_on_to_the_same_bytes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with SplitWork(tmp_path / "once", CPU) as work:
        work.begin(INPUTS, {})
        written(place, tmp_path / "expected", streamed(place, work))
    _fail_at(point, monkeypatch)
    with pytest.raises(_Killed), SplitWork(tmp_path / "work", CPU) as work:  # noqa: PT012
        work.begin(INPUTS, {})
        written(place, tmp_path / "out", streamed(place, work))
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        assert work.num_finished == {"walk 0": 0, "save 0": 0, "listing 0": 0, "walk 1": 1, "save 1": 1}.get(
            point, 2
        )
        written(place, tmp_path / "out", streamed(place, work, announce=told.append))
        assert bool(told) == (work.num_finished > 0 and point not in ("walk 0", "save 0", "listing 0"))
        work.sweep()
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "expected")
    assert not (tmp_path / "work").exists()


def _fail_at(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sixgig.load import artifact_stream
    from sixgig.transform import layer_walk, split_work

    what, _, number = point.partition(" ")
    module, name = {
        "walk": (layer_walk.LayerWalk, "walk"),
        "save": (split_work, "save_file"),
        "listing": (split_work, "write_json"),
        "write": (artifact_stream, "OrthoWriter"),
    }[what]
    real, calls = getattr(module, name), [0]
    # The key is the first JSON file that is written.
    at = 0 if what == "write" else int(number) + (what == "listing")

    def fails(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > at:
            raise _Killed
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, fails)


def test_other_inputs_are_refused_by_name(tmp_path: Path) -> None:
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {"hmac_key": "secret"})
    with SplitWork(tmp_path / "work", CPU) as work:
        assert work.secrets() == {"hmac_key": "secret"}
        work.begin(INPUTS, {})
        with pytest.raises(InputError, match=r"settings\.fit_steps = 3") as caught:
            work.begin({**INPUTS, "settings": {"fit_steps": 3}}, {})
        assert "seed" not in str(caught.value)
        with pytest.raises(InputError, match=r"model\.more = bb"):
            work.begin({**INPUTS, "model": {**INPUTS["model"], "more": "bb"}}, {})


def test_a_damaged_layer_is_done_again_aloud(place: Path, tmp_path: Path) -> None:
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        first = streamed(place, work)
        before = bytes_of(tmp_path / "work")
    file = tmp_path / "work" / "layer-0000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    told: list[str] = []
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        assert work.num_finished == 0
        again = streamed(place, work, announce=told.append)
        assert again.codes_changed == first.codes_changed
    assert any("layer 0 is damaged" in line for line in told)
    assert bytes_of(tmp_path / "work") == before


def test_the_work_is_its_owner_s_and_one_process_s(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert partial_folder(out) == tmp_path / "out.partial"
    with SplitWork(partial_folder(out), CPU):
        assert stat.S_IMODE((tmp_path / "out.partial").stat().st_mode) == 0o700
        with pytest.raises(InputError, match="another sixgig process"), SplitWork(partial_folder(out), CPU):
            pass


def test_it_can_stop_after_some_layers(place: Path, tmp_path: Path) -> None:
    with SplitWork(tmp_path / "work", CPU) as work:
        work.begin(INPUTS, {})
        assert streamed(place, work, stop_after=1) is None
        assert work.num_finished == 1
        assert streamed(place, work) is not None


@pytest.mark.parametrize("sieve", ["natural-gradient", "learned", "fisher-contrast", "subnet", "kfac"])
def test_a_sieve_that_looks_at_the_whole_model_is_refused(place: Path, tmp_path: Path, sieve: str) -> None:
    with (
        SplitWork(tmp_path / "work", CPU) as work,
        pytest.raises(InputError, match=f"the sieve {sieve} looks at the whole model"),
    ):
        streamed(place, work, sieve)

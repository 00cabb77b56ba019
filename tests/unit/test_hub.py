"""Hub models on a fake hub: what is downloaded, at which commit, and what a failure says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from sixgig.catalogue import HubSource, ModelSpec, get
from sixgig.errors import IntegrityError, NotAvailableError
from sixgig.load import fetch as fetching
from sixgig.load.fetch import fetch_spec, model_folder

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 500,
    "tokenizer.json": b"{}",
    "LICENSE": b"terms",
}
UNWANTED = ("pytorch_model.bin", "modeling_custom.py", "original/params.json", "model.gguf")


class FakeHub:
    """Serves FILES; fails when asked for `fail_at`; notes what was asked for."""

    def __init__(self, *, fail_at: str | None = None, short: str | None = None) -> None:
        self.fail_at, self.short, self.asked = fail_at, short, []

    def model_info(self, repo_id: str, *, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        names = [(name, len(content)) for name, content in FILES.items()]
        names += [(name, 10) for name in UNWANTED]
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in names]
        return SimpleNamespace(sha=revision or "c0ffee", siblings=siblings)

    def snapshot_download(
        self, repo_id: str, *, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        for name in allow_patterns:
            if name == self.fail_at:
                raise ConnectionError("the network went away")
            self.asked.append((name, revision))
            local_dir.mkdir(parents=True, exist_ok=True)
            (local_dir / ".cache").mkdir(exist_ok=True)
            (local_dir / name).write_bytes(FILES[name][: -1 if name == self.short else None])


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A gated model whose revision nobody has pinned."""
    monkeypatch.setattr(fetching, "_checked", {})
    return replace(get("llama-3-8b"), sources=(HubSource(repo_id="meta-llama/Meta-Llama-3-8B"),))


def use(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_known_kinds_of_files_come_at_one_commit(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = use(FakeHub(), monkeypatch)
    folder = fetch_spec(spec, cache_dir=tmp_path)
    assert {name for name, _ in hub.asked} == FILES.keys()
    assert {revision for _, revision in hub.asked} == {"c0ffee"}
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
    source = json.loads((folder / "manifest.json").read_text())["source"]
    assert source == {
        "repo_id": "meta-llama/Meta-Llama-3-8B",
        "revision": "c0ffee",
        "licence": spec.licence,
        "gated": True,
    }
    assert model_folder("llama-3-8b", cache_dir=tmp_path) == folder


def test_a_pinned_revision_is_the_one_asked_for(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = use(FakeHub(), monkeypatch)
    pinned = replace(spec, sources=(HubSource(repo_id="a/b", revision="abc123"),))
    fetch_spec(pinned, cache_dir=tmp_path)
    assert {revision for _, revision in hub.asked} == {"abc123"}


def test_a_lost_network_says_what_to_do_and_nothing_half_is_published(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeHub(fail_at="model.safetensors"), monkeypatch)
    with pytest.raises(NotAvailableError) as caught:
        fetch_spec(spec, cache_dir=tmp_path)
    for words in ("Meta-Llama-3-8B", "the network went away", "HF_ENDPOINT", "accept the model's terms"):
        assert words in str(caught.value)
    with pytest.raises(NotAvailableError):
        model_folder("llama-3-8b", cache_dir=tmp_path)
    use(FakeHub(), monkeypatch)
    assert fetch_spec(spec, cache_dir=tmp_path).is_dir()


def test_an_incomplete_file_is_named(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeHub(short="model.safetensors"), monkeypatch)
    with pytest.raises(IntegrityError, match=r"incomplete file: model\.safetensors"):
        fetch_spec(spec, cache_dir=tmp_path)

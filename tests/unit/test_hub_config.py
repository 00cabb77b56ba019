"""A hub repository that the catalogue does not have: its config.json from a fake hub, over real HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sixgig.errors import IntegrityError, NotAvailableError, UnknownNameError
from sixgig.load import fetch as fetching
from sixgig.load.fetch import find_model, is_fetched, model_folder
from sixgig.load.hub_config import published_config
from sixgig.load.manifest import write_manifest

COMMIT = "5ca1ab1e" * 5
TOKEN = "hf_never_to_be_printed"
CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "sliding_window": 16,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 256,
}


class Hub(BaseHTTPRequestHandler):
    """Knows some/model, and some/gated whose files need consent; notes every path asked for."""

    asked: list[str] = []  # noqa: RUF012 - one list for the server's life, emptied by the fixture

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path in ("/api/models/some/model", "/api/models/some/gated"):
            gated = path.endswith("gated")
            content = {
                "id": path.removeprefix("/api/models/"),
                "sha": COMMIT,
                "gated": "manual" if gated else False,
                "siblings": [{"rfilename": "config.json", "size": 500}, {"rfilename": "model.safetensors"}],
                "cardData": {"license": "other", "license_name": "a licence of its own"},
            }
            self.send(200, json.dumps(content), body=body)
        elif path == f"/some/model/resolve/{COMMIT}/config.json":
            self.send(200, json.dumps(CONFIG), body=body, ETag='"etag"', **{"X-Repo-Commit": COMMIT})
        elif path.startswith("/some/gated/resolve/"):
            self.send(403, "consent", body=body, **{"X-Error-Code": "GatedRepo"})
        else:
            self.send(404, "nothing", body=body, **{"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, content: str, *, body: bool, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.asked = []
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def sixgig(endpoint: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since the hub's client reads HF_ENDPOINT when imported."""
    code = "import sys; from sixgig.cli.main import run; sys.exit(run(sys.argv[1:]))"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    environment |= {"SIXGIG_CACHE": str(home / "cache"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_only_the_configuration_is_fetched_and_its_commit_pinned(endpoint: str, tmp_path: Path) -> None:
    done = sixgig(endpoint, tmp_path, "models", "some/model", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["architecture"], facts["num_sliding_layers"], facts["gated"]) == (
        "some/model", "MistralForCausalLM", 2, False,
    )  # fmt: skip
    assert facts["sources"] == [{"repo_id": "some/model", "revision": COMMIT, "kind": "hub"}]
    assert facts["licence"] == "a licence of its own"
    assert facts["fetched"] is False
    assert "asking the hub" in done.stderr
    # The hub's client asks for things of its own too; of the repository, for nothing else.
    asked = {path for path in Hub.asked if "some/" in path}
    assert asked == {"/api/models/some/model", f"/some/model/resolve/{COMMIT}/config.json"}


def test_a_gated_repository_says_where_to_consent_and_how_to_log_in(endpoint: str, tmp_path: Path) -> None:
    done = sixgig(endpoint, tmp_path, "plan", "some/gated")
    assert done.returncode == 2
    assert f"accept the model's terms at {endpoint}/some/gated" in done.stderr
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_says_so(endpoint: str, tmp_path: Path) -> None:
    done = sixgig(endpoint, tmp_path, "plan", "some/modle")
    assert done.returncode == 2
    assert "some/modle could not be fetched" in done.stderr
    assert "spelling" in done.stderr


class Client:
    """huggingface_hub's two calls, for what a server cannot easily be made to answer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        from types import SimpleNamespace

        self.content = json.dumps(CONFIG)
        self.folder = folder
        siblings = [SimpleNamespace(rfilename="config.json", size=500)]
        facts = {"sha": COMMIT, "siblings": siblings, "card_data": None, "gated": None}
        self.info = SimpleNamespace(**(facts | changes))

    def model_info(self, repo_id: str, **asked: Any) -> Any:
        return self.info

    def download(self, repo_id: str, name: str, *, revision: str, local_dir: str) -> str:
        path = Path(local_dir) / name
        path.write_text(self.content)
        return str(path)


def use(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client.download)
    return client


def test_what_the_hub_does_not_say_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Client(tmp_path), monkeypatch)
    published = published_config("some/model")
    assert (published.config, published.revision) == (CONFIG, COMMIT)
    assert (published.licence, published.gated) == ("unknown", None)


def test_no_network_says_what_is_missing_and_how_to_provide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = use(Client(tmp_path), monkeypatch)

    def lost(repo_id: str, **asked: Any) -> Any:
        raise ConnectionError("no route to host")

    client.model_info = lost
    with pytest.raises(NotAvailableError) as caught:
        published_config("some/model")
    for words in ("some/model", "no route to host", "HF_ENDPOINT", "copy the model's folder"):
        assert words in str(caught.value)


def test_answers_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    use(Client(tmp_path, sha=None), monkeypatch)
    with pytest.raises(IntegrityError, match="no commit"):
        published_config("some/model")
    use(Client(tmp_path, siblings=[]), monkeypatch)
    with pytest.raises(NotAvailableError, match=r"no config\.json"):
        published_config("some/model")
    use(Client(tmp_path, siblings=[SimpleNamespace(rfilename="config.json", size=2**21)]), monkeypatch)
    with pytest.raises(ValueError, match="too large"):
        published_config("some/model")
    use(Client(tmp_path), monkeypatch).content = json.dumps(CONFIG | {"architectures": ["Other"]})
    with pytest.raises(UnknownNameError, match="Other"):
        find_model("some/model", cache_dir=tmp_path, announce=lambda text: None)


def test_a_fetched_repository_is_known_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_checked", {})
    monkeypatch.setattr(fetching, "published_config", lambda repo_id: pytest.fail(f"asked for {repo_id}"))
    with pytest.raises(NotAvailableError, match="sixgig fetch Some/Model"):
        find_model("Some/Model", cache_dir=tmp_path)
    folder = tmp_path / "models" / "some--model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    source = {"repo_id": "Some/Model", "revision": COMMIT, "licence": "mit", "gated": False}
    write_manifest(folder, name="Some/Model", source=source, converter={})
    spec = find_model("some/model", cache_dir=tmp_path)
    assert (spec.num_layers, spec.licence, spec.gated) == (2, "mit", False)
    assert is_fetched(spec, cache_dir=tmp_path)
    assert model_folder("Some/Model", cache_dir=tmp_path) == folder
    (folder / "config.json").write_text(json.dumps(CONFIG) + " ")
    with pytest.raises(IntegrityError, match="sixgig fetch some/model"):
        model_folder("Some/Model", cache_dir=tmp_path)

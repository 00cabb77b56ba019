"""The hub's answers and silences on a fake transport; the token is in none of what comes back."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from sixgig.load.hub_access import HubAccess, ask_hub, ask_hub_meanwhile, hub_settings

TOKEN = "hf_VerySecretTokenOfSomebody"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A hub at its usual address with a token, whatever this machine's own settings are."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    return monkeypatch


class FakeGet:
    """Answers every request alike and remembers what was asked with which token."""

    def __init__(self, answer: tuple[int, Any] | Exception) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, address: str, token: str | None, timeout_s: float) -> tuple[int, Any]:
        self.asked.append((address, token))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def asked(get: FakeGet) -> HubAccess:
    access = ask_hub(hub_settings(), 3.0, get)
    assert TOKEN not in str(asdict(access))
    assert "SecretToken" not in str(asdict(access))
    return access


def test_the_hub_says_whose_token_it_is(settled: pytest.MonkeyPatch) -> None:
    get = FakeGet((200, {"name": "somebody", "email": "private"}))
    access = asked(get)
    assert (access.is_reachable, access.account, access.problem) == (True, "somebody", None)
    assert not access.is_mirror
    assert get.asked == [("https://huggingface.co/api/whoami-v2", TOKEN)]


def test_without_a_token_any_answer_means_reachable(settled: pytest.MonkeyPatch) -> None:
    settled.setattr("huggingface_hub.get_token", lambda: None)
    access = asked(FakeGet((401, {"error": "x"})))
    assert (access.has_token, access.is_reachable, access.account, access.problem) == (
        False,
        True,
        None,
        None,
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_said(settled: pytest.MonkeyPatch, status: int) -> None:
    access = asked(FakeGet((status, None)))
    assert (access.is_reachable, access.problem) == (True, "the token is refused")


@pytest.mark.parametrize("content", [None, [], {"name": 5}, "text"])
def test_an_odd_answer_names_nobody(settled: pytest.MonkeyPatch, content: Any) -> None:
    access = asked(FakeGet((200, content)))
    assert (access.is_reachable, access.account) == (True, None)


def test_a_failing_hub_is_not_reachable(settled: pytest.MonkeyPatch) -> None:
    access = asked(FakeGet((503, None)))
    assert (access.is_reachable, access.problem) == (False, "it answers with status 503")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("no route to host\nsecond line"), ValueError(f"header {TOKEN} refused"), OSError()],
)
def test_no_network_is_an_answer(settled: pytest.MonkeyPatch, error: Exception) -> None:
    access = asked(FakeGet(error))
    assert access.is_reachable is False
    assert access.problem is not None
    assert access.problem.startswith(type(error).__name__)
    assert "second line" not in access.problem


def test_a_mirror_without_https_never_gets_the_token(settled: pytest.MonkeyPatch) -> None:
    settled.setattr("huggingface_hub.constants.ENDPOINT", "http://user:password@mirror.example/hf/")
    get = FakeGet((200, {"name": "somebody"}))
    access = asked(get)
    assert get.asked == [("http://user:password@mirror.example/hf/api/whoami-v2", None)]
    assert access.endpoint == "http://***@mirror.example/hf"
    assert (access.is_mirror, access.is_encrypted, access.account) == (True, False, None)


def test_offline_asks_nobody(settled: pytest.MonkeyPatch) -> None:
    settled.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    get = FakeGet((200, {}))
    access = asked(get)
    assert get.asked == []
    assert (access.is_offline, access.is_reachable) == (True, None)


def test_silence_ends_after_the_time_that_was_given(settled: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def silent(settings: HubAccess, timeout_s: float) -> HubAccess:
        release.wait(10)
        return settings

    started = time.monotonic()
    access = ask_hub_meanwhile(0.1, silent)()
    release.set()
    assert time.monotonic() - started < 5
    assert (access.is_reachable, access.problem) == (False, "no answer within 0.1 s")


def test_the_answer_is_waited_for(settled: pytest.MonkeyPatch) -> None:
    answer = ask_hub_meanwhile(
        5.0, lambda settings, timeout_s: ask_hub(settings, timeout_s, FakeGet((200, {})))
    )
    assert answer().is_reachable is True


def test_the_hubs_own_session_sends_the_token_and_reads_json(settled: pytest.MonkeyPatch) -> None:
    def get(address: str, headers: dict[str, str], timeout: float) -> Any:
        assert headers == {"authorization": f"Bearer {TOKEN}"}
        assert timeout == 3.0
        kind = {"content-type": "application/json; charset=utf-8"}
        return SimpleNamespace(status_code=200, headers=kind, json=lambda: {"name": "somebody"})

    settled.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(get=get))
    assert ask_hub(hub_settings(), 3.0).account == "somebody"

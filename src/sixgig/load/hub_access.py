"""Whether the model hub can be reached, and as whom. Being offline is an answer, not an error.

A token is used to ask the hub whose it is, over https alone; it is never shown, nor any part of it.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """The hub as this machine is set up to use it, and what it answered.

    `is_reachable=None`: it was not asked, as where HF_HUB_OFFLINE is set. `account`: whom the token belongs
    to, as the hub said. `problem`: why it is not reachable, or why the token was refused.
    """

    endpoint: str
    cache_folder: str
    is_mirror: bool
    is_encrypted: bool
    is_offline: bool
    has_token: bool
    is_reachable: bool | None = None
    account: str | None = None
    problem: str | None = None


# Asks an address with a token, or None, within seconds; returns the status and the decoded JSON, or None.
Get = Callable[[str, str | None, float], tuple[int, Any]]


def hub_settings() -> HubAccess:
    """What the environment and the hub's own library say, without any network."""
    from huggingface_hub import constants, get_token

    endpoint = constants.ENDPOINT.rstrip("/")
    return HubAccess(
        # A mirror's address can hold a name and a password of its own.
        endpoint=re.sub(r"//[^/@]*@", "//***@", endpoint),
        cache_folder=str(constants.HF_HUB_CACHE),
        is_mirror=endpoint != DEFAULT_ENDPOINT,
        is_encrypted=endpoint.startswith("https://"),
        is_offline=bool(constants.HF_HUB_OFFLINE),
        has_token=bool(get_token()),
    )


def ask_hub(settings: HubAccess, timeout_s: float, get: Get | None = None) -> HubAccess:
    """`settings` with the hub's answer; one request, and no exception whatever happens to it."""
    if settings.is_offline:
        return settings
    from huggingface_hub import constants, get_token

    token = get_token() if settings.is_encrypted else None
    address = constants.ENDPOINT.rstrip("/") + "/api/whoami-v2"
    try:
        status, content = (get or _get)(address, token, timeout_s)
    except Exception as error:  # every transport has errors of its own, and all of them mean "not reachable"
        return replace(settings, is_reachable=False, problem=_described(error, token))
    if status >= 500:
        return replace(settings, is_reachable=False, problem=f"it answers with status {status}")
    if token and status in (401, 403):
        return replace(settings, is_reachable=True, problem="the token is refused")
    name = content.get("name") if token and status == 200 and isinstance(content, dict) else None
    return replace(settings, is_reachable=True, account=name if isinstance(name, str) else None)


def _described(error: Exception, token: str | None) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    if token:
        reason = reason.replace(token, "***")
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _get(address: str, token: str | None, timeout_s: float) -> tuple[int, Any]:
    # The hub library's own session: its proxies, certificates and mirror are what a download would use.
    from huggingface_hub.utils import get_session

    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = get_session().get(address, headers=headers, timeout=timeout_s)
    is_json = "json" in response.headers.get("content-type", "")
    return response.status_code, response.json() if is_json else None


def ask_hub_meanwhile(timeout_s: float, ask: Callable[[HubAccess, float], HubAccess] = ask_hub) -> Callable:
    """Starts asking and returns at once; the returned function waits for the answer, `timeout_s` in all.

    The wait is bounded from outside, because looking a name up has no timeout of its own.
    """
    settings, started = hub_settings(), time.monotonic()
    answers: queue.Queue[HubAccess] = queue.Queue()
    # A daemon: an answer that comes too late must not keep the program from ending.
    threading.Thread(target=lambda: answers.put(ask(settings, timeout_s)), daemon=True).start()

    def answer() -> HubAccess:
        try:
            return answers.get(timeout=max(0.01, timeout_s - (time.monotonic() - started)))
        except queue.Empty:
            return replace(settings, is_reachable=False, problem=f"no answer within {timeout_s:g} s")

    return answer

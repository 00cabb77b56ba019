"""What `sixgig doctor` says of software: libraries, Triton, the hub, and the models that are here."""

from __future__ import annotations

from ..catalogue import EMBEDDED, all_models
from ..environment import Library, is_windows
from ..errors import IntegrityError
from ..load.fetch import is_fetched, model_folder
from ..load.hub_access import HubAccess
from .findings import Facts, Finding

NEEDED = ("torch", "transformers", "accelerate", "safetensors", "gguf", "huggingface-hub", "numpy")
# Shown where they are here; only some work needs them.
OPTIONAL = ("compressed-tensors", "datasets", "peft", "trl", "bitsandbytes", "lm-eval")


def software_findings(facts: Facts) -> list[Finding]:
    """Libraries, Triton, the hub and the token for it."""
    findings = [_libraries(facts)] if facts.libraries else []
    findings += _triton(facts)
    return findings + (_hub(facts.hub) if facts.hub is not None else [])


def _libraries(facts: Facts) -> Finding:
    missing = [item.name for item in facts.libraries if item.version is None and item.name in NEEDED]
    found = ", ".join(f"{item.name} {item.version}" for item in facts.libraries if item.version is not None)
    # Requirements name what is missing too; a source tree that was never installed has none.
    wanted = facts.unmet or missing
    if facts.unmet:
        found += f"; not as sixgig needs them: {', '.join(facts.unmet)}"
    remedy = "pip install " + " ".join(f'"{name}"' for name in wanted) if wanted else ""
    return Finding(what="libraries", ok=not wanted, found=found or "none", remedy=remedy)


def _triton(facts: Facts) -> list[Finding]:
    if facts.triton is None:
        return []
    state: Library = facts.triton
    has_gpu = facts.hardware is not None and bool(facts.hardware.gpus)
    package = "triton-windows" if facts.hardware and is_windows(facts.hardware.system) else "triton"
    if state.problem is not None:
        remedy = f"pip install --force-reinstall {package}"
        return [Finding(what="Triton", ok=False if has_gpu else None, found=state.problem, remedy=remedy)]
    if state.version is not None:
        return [Finding(what="Triton", ok=True, found=state.version)]
    if not has_gpu:
        return [Finding(what="Triton", ok=None, found="not here; only a GPU needs it")]
    return [Finding(what="Triton", ok=False, found="not here", remedy=f"pip install {package}")]


def _hub(hub: HubAccess) -> list[Finding]:
    where = hub.endpoint + (" (a mirror, from HF_ENDPOINT)" if hub.is_mirror else "")
    findings = []
    if hub.is_offline:
        remedy = "unset HF_HUB_OFFLINE to fetch models"
        findings.append(Finding(what="hub", ok=None, found=f"{where}: HF_HUB_OFFLINE is set", remedy=remedy))
    elif hub.is_reachable:
        findings.append(Finding(what="hub", ok=True, found=f"{where}: reachable"))
    else:
        remedy = "only fetching models needs it: check the network, or name a mirror in HF_ENDPOINT"
        found = f"{where}: not reachable ({hub.problem})"
        findings.append(Finding(what="hub", ok=None, found=found, remedy=remedy))
    if not hub.is_encrypted:
        found = f"{hub.endpoint} is not https: what comes from it, and a token, can be read and changed"
        remedy = "set HF_ENDPOINT to the mirror's https address"
        findings.append(Finding(what="hub address", ok=False, found=found, remedy=remedy))
    return [*findings, _token(hub)]


def _token(hub: HubAccess) -> Finding:
    log_in = "hf auth login"
    if not hub.has_token:
        remedy = f"for models that ask for consent: {log_in}"
        return Finding(what="hub login", ok=None, found="no token", remedy=remedy)
    if hub.account is not None:
        return Finding(what="hub login", ok=True, found=f"a token of {hub.account}")
    if hub.is_reachable and hub.problem is not None:
        return Finding(what="hub login", ok=False, found=hub.problem, remedy=log_in)
    return Finding(
        what="hub login", ok=None, found="a token is here; whose, the hub was not asked or did not say"
    )


def model_findings() -> list[Finding]:
    """The embedded model, verified, and which others are here."""
    names = [spec.name for spec in all_models() if spec.name != EMBEDDED and is_fetched(spec.name)]
    others = Finding(what="other models", ok=None, found=", ".join(names) or "none fetched")
    fetch = f"sixgig fetch {EMBEDDED}"
    if not is_fetched(EMBEDDED):
        missing = Finding(what="embedded model", ok=False, found="not on this machine", remedy=fetch)
        return [missing, others]
    try:
        found, ok = f"verified in {model_folder(EMBEDDED)}", True
    except IntegrityError as error:
        found, ok = error.problem, False
    return [Finding(what="embedded model", ok=ok, found=found, remedy="" if ok else fetch), others]

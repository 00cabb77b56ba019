"""Whether --before is what it is said to be: the same model, different in the split layers' weights alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..load.container import StoredTensors, slices

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_MAX_NAMED = 10


def require_same_elsewhere(model: StoredTensors, before: StoredTensors, layer_names: Sequence[str]) -> None:
    """Raises InputError naming the tensors, other than the split layers' weights, that differ; for another
    model; and where nothing differs at all.

    Tensors outside the split layers go into the Base as they are, so what private data changed in them would
    be published. Values are compared in the type that `model` stores.
    """
    split = {f"{name}.weight" for name in layer_names}
    wrong = [name for name in sorted(split) if not _is_same_shape(model, name, before, name)]
    if wrong:
        raise InputError("--before is another model", received=f"{wrong[0]} is missing or of another shape")
    others = (model.names | before.names) - split - {_HEAD}
    differing = [name for name in sorted(others) if not _is_same(model, name, before, name)]
    if _HEAD in model.names:
        # A model that stores no head uses its embedding as one.
        earlier = _HEAD if _HEAD in before.names else _EMBEDDING
        differing += [] if _is_same(model, _HEAD, before, earlier) else [_HEAD]
    if differing:
        named = ", ".join(differing[:_MAX_NAMED]) + (" ..." if len(differing) > _MAX_NAMED else "")
        raise InputError(
            f"{len(differing)} tensors outside the split layers differ between MODEL and --before",
            expected="a fine-tuning that left embedding, norms, biases and head as they were",
            received=named,
            todo="train the linear layers' weights alone; memories in these tensors would be published with "
            "the Base",
        )
    if all(_is_same(model, name, before, name) for name in sorted(split)):
        # A Base made so would be the tuned model itself, rounded, under the claim that something was removed.
        raise InputError(
            "MODEL and --before are the same model",
            expected="the model as it was before the private texts",
            received="no weight that differs",
            todo="look whether --before names the tuned model by mistake",
        )


def _is_same_shape(model: StoredTensors, name: str, before: StoredTensors, earlier: str) -> bool:
    return name in model.names and earlier in before.names and model.shape(name) == before.shape(earlier)


def _is_same(model: StoredTensors, name: str, before: StoredTensors, earlier: str) -> bool:
    if not _is_same_shape(model, name, before, earlier):
        return False
    if not model.shape(name):
        return bool(before.get(earlier).to(model.get(name).dtype) == model.get(name))
    return all(
        bool((before.rows(earlier, start, start + len(now)).to(now.dtype) == now).all())
        for start, now in slices(model, name)
    )

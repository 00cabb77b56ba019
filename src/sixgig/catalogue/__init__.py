"""The models sixgig knows, as data: exact shapes, licence, where each comes from. No weights, no network."""

from .find import WITHDRAWN, all_models, get, resolve
from .local import from_config
from .models import EMBEDDED
from .spec import HubSource, ModelSpec, WheelSource

__all__ = [
    "EMBEDDED",
    "WITHDRAWN",
    "HubSource",
    "ModelSpec",
    "WheelSource",
    "all_models",
    "from_config",
    "get",
    "resolve",
]

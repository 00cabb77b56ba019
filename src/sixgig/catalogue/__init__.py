"""The models sixgig knows, as data: exact shapes, licence, where each comes from. No weights, no network."""

from .find import WITHDRAWN, FetchConfig, all_models, get, resolve
from .local import PublishedConfig, from_config
from .models import EMBEDDED
from .spec import HubSource, ModelSpec, WheelSource
from .tensors import TensorShape

__all__ = [
    "EMBEDDED",
    "WITHDRAWN",
    "FetchConfig",
    "HubSource",
    "ModelSpec",
    "PublishedConfig",
    "TensorShape",
    "WheelSource",
    "all_models",
    "from_config",
    "get",
    "resolve",
]

"""The split artifact's public names: save, open whole, open the Base alone, attach an Ortho part.

The layout is described in `artifact_format`; what is written layer by layer, in `artifact_write`.
"""

from __future__ import annotations

from .artifact_read import attach_ortho, is_base, is_split, open_base, open_split, read_manifest
from .artifact_write import SplitSizes, finish_split, require_empty, save_split
from .base_writer import BaseWriter, layer_forms
from .ortho_reader import require_pair
from .ortho_writer import OrthoWriter

__all__ = [
    "BaseWriter",
    "OrthoWriter",
    "SplitSizes",
    "attach_ortho",
    "finish_split",
    "is_base",
    "is_split",
    "layer_forms",
    "open_base",
    "open_split",
    "read_manifest",
    "require_empty",
    "require_pair",
    "save_split",
]

"""The split artifact's public names: save, open whole, open the Base alone, attach an Ortho part.

The layout is described in `artifact_format`.
"""

from __future__ import annotations

from .artifact_read import attach_ortho, is_base, open_base, open_split, read_manifest
from .artifact_write import SplitSizes, require_empty, save_split

__all__ = [
    "SplitSizes",
    "attach_ortho",
    "is_base",
    "open_base",
    "open_split",
    "read_manifest",
    "require_empty",
    "save_split",
]

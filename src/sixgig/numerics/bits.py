"""Which widths a Base may have; apart from the arithmetic, so that settings are checked without torch."""

from __future__ import annotations

SUPPORTED_BITS = (2, 3, 4, 8)

"""A configuration's fields, each checked as it is read; a fault names the field, what came, and the file.

null means what the architecture's class makes of it: the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

_MOST = 2**31  # of anything counted in a configuration


@dataclass(frozen=True, kw_only=True)
class Fields:
    """`config` as read from `where`."""

    config: Mapping[str, Any]
    where: str

    def get(self, key: str) -> Any:
        return self.config.get(key)

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; required where there is no default."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
            raise self.fault(key, "is not a size", "a positive integer")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, "is not a yes or no", "true or false")
        return value

    def share(self, key: str, default: float) -> float:
        """A number above 0 and up to 1."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
            raise self.fault(key, "is not a share", "a number above 0 and up to 1")
        return float(value)

    def word(self, key: str, known: tuple[str, ...], default: str) -> str:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in known:
            raise self.fault(key, "is not one that is known", f"one of {', '.join(known)}")
        return value

    def only(self, key: str, *allowed: Any, because: str) -> None:
        """Refuses any value of a field that would change shapes in a way that is not modelled."""
        value = self.get(key)
        # 1 == True in Python, and a configuration that says one for the other is not to be trusted.
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            expected = " or ".join(["null", *(repr(one) for one in allowed)])
            raise self.fault(key, f"is not supported: {because}", expected)

    def fault(self, key: str, problem: str, expected: str) -> InputError:
        return InputError(
            f"{key} {problem}", expected=expected, received=repr(self.get(key))[:100], where=self.where
        )

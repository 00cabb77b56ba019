"""What every sieve sees of a layer, and what it answers.

Shapes: O out features, I in features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from ...errors import InputError, NumericalError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """Second moments of one input, shared by all linear layers that read it (query, key and value, say)."""

    name: str
    public_II: Tensor  # A_r: mean x x^T over public positions
    private_II: Tensor | None = None  # A_f: the same over positions of private texts
    _solved: dict[tuple[float, float], Tensor] = field(default_factory=dict, repr=False)

    def require_private(self, sieve: str) -> Tensor:
        if self.private_II is None:
            raise InputError(f"the sieve {sieve} needs private texts", where=f"layer {self.name}")
        return self.private_II

    def wiener_filter(self, noise_weight: float, damping: float) -> Tensor:
        """A_f (A_f + lambda A_r + eps I)^-1 [I, I], eps = damping * mean(diag(A_f + lambda A_r)).

        Solved once and kept, since layers share inputs.
        """
        import torch

        key = (noise_weight, damping)
        if key not in self._solved:
            # fp64: inputs of a layer may differ in size by 10^4 and more, and their squares twice as far.
            private_II = self.require_private("wiener").double()
            total_II = private_II + noise_weight * self.public_II.double()
            total_II.diagonal().add_(damping * float(total_II.diagonal().mean()))
            factor_II, failed = torch.linalg.cholesky_ex(total_II)
            if int(failed):
                raise NumericalError(
                    "the calibration statistics are not positive definite",
                    where=f"layer {self.name}",
                    todo="raise the sieve's damping",
                )
            # (A_f T^-1)^T = T^-1 A_f, both being symmetric.
            self._solved[key] = torch.cholesky_solve(private_II, factor_II).T.float()
        return self._solved[key]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One layer as a sieve sees it. fp32 throughout."""

    name: str
    weight_OI: Tensor  # W
    before_OI: Tensor | None  # W0, where an earlier checkpoint is known
    statistics: InputStatistics
    generator: torch.Generator  # for sieves that draw at random; seeded by run seed and layer name

    def change(self, sieve: str) -> Tensor:
        """W - W0. Raises InputError when no earlier checkpoint is known."""
        if self.before_OI is None:
            raise InputError(
                f"the sieve {sieve} needs the model as it was before the private data",
                where=f"layer {self.name}",
                todo="give it with --before MODEL",
            )
        return self.weight_OI - self.before_OI


class Sieve(Protocol):
    """Chooses what leaves a layer: Base = Q(W - removed)."""

    name: ClassVar[str]
    claim: ClassVar[str]  # "by construction" | "suppressed" | "quantisation aid" | "null"
    needs_private: ClassVar[bool]
    needs_before: ClassVar[bool]
    keeps_before: ClassVar[bool]  # the Base is Q(W0) itself

    def removed(self, evidence: Evidence) -> Tensor:
        """M [O, I], fp32: taken out before quantising."""
        ...

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        """For sieves whose Ortho part is the top entries of W - Base by a score [O, I]; None: fitted."""
        ...

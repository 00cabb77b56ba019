"""What every sieve sees of a layer, and what it answers.

Shapes: O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from ...errors import InputError, NumericalError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...numerics.quantize import Steering
    from ..search import Found, SearchContext

# What backward passes can tell: G over public text; F over private and over public texts; the gradient of the
# private texts' NLL. A sieve that searches gathers what it needs by itself.
GRADIENTS = ("output_moments", "fisher", "public_fisher", "mean_gradient")

# Shares of each diagonal entry, tried in turn where moments in fp32 are not positive definite.
_RAISES = (1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """Second moments of one input, shared by all linear layers that read it (query, key and value, say).

    `in_blocks`: solve in the room of one matrix in fp64 and blocks, for cards that have no room for five.
    `announce`: is told where moments had to be mended (`_RAISES`); without it that is an error.
    """

    name: str
    public_II: Tensor  # A_r: mean x x^T over public positions
    private_II: Tensor | None = None  # A_f: the same over positions of private texts
    in_blocks: bool = False
    announce: Callable[[str], None] | None = None
    _solved: dict[tuple[float, float], Tensor] = field(default_factory=dict, repr=False)
    _steering: list[Steering] = field(default_factory=list, repr=False)

    def require_private(self, sieve: str) -> Tensor:
        if self.private_II is None:
            raise InputError(f"the sieve {sieve} needs private texts", where=f"layer {self.name}")
        return self.private_II

    def filtered(self, change_OI: Tensor, noise_weight: float, damping: float) -> Tensor:
        """change A_f (A_f + lambda A_r + eps I)^-1 [O, I] in fp32; in blocks it differs by rounding alone."""
        if not self.in_blocks:
            return change_OI @ self.wiener_filter(noise_weight, damping)
        from ...numerics.cholesky import filtered_rows

        key = (noise_weight, damping)
        if key not in self._solved:
            self._solved[key] = self._factor(noise_weight, damping)
        return filtered_rows(change_OI, self.require_private("wiener"), self._solved[key])

    def forget(self) -> None:
        """Lets go of what was solved for the sieve."""
        self._solved.clear()

    def steering(self) -> Steering:
        """What GPTQ needs of the public inputs; made once and kept."""
        from ...numerics.quantize import steering

        if not self._steering:
            self._steering.append(steering(self.public_II))
        return self._steering[0]

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
                factor_II = self._factor(noise_weight, damping, raises=_RAISES)
            # (A_f T^-1)^T = T^-1 A_f, both being symmetric.
            self._solved[key] = torch.cholesky_solve(private_II, factor_II).T.float()
        return self._solved[key]

    def _factor(
        self, noise_weight: float, damping: float, raises: Sequence[float] = (0.0, *_RAISES)
    ) -> Tensor:
        """The Cholesky factor of A_f + lambda A_r + eps I in fp64, in its lower triangle.

        The moments are sums in fp32, each entry sound to some 1e-7 of sqrt(a_ii a_jj). Where inputs lie near
        one direction, eps is less than that error, and the sum need not be positive definite. It is so again
        once each diagonal entry is raised by a share of itself; scaling features (Jacobi) could not help,
        since Cholesky's method comes to the same result whatever their scale.
        """
        from ...numerics.cholesky import add_widened, factor_in_place

        for share in raises:
            if share and self.announce is None:
                break
            total_II = self.public_II.double().mul_(noise_weight)
            add_widened(total_II, self.require_private("wiener"))
            diagonal_I = total_II.diagonal()
            diagonal_I.add_(share * diagonal_I + damping * float(diagonal_I.mean()))
            if factor_in_place(total_II):
                if share and self.announce is not None:
                    self.announce(
                        f"the calibration statistics of {self.name} are not positive definite in 32 bits; "
                        f"each of their diagonal entries is raised by a share of {share:g}"
                    )
                return total_II
            del total_II, diagonal_I
        raise NumericalError(
            "the calibration statistics are not positive definite",
            where=f"layer {self.name}",
            todo="raise the sieve's damping",
        )


@dataclass(frozen=True, kw_only=True)
class GradientStatistics:
    """What backward passes told of one layer (`transform.gradients`), fp32; None: the sieve did not ask."""

    name: str
    public_output_OO: Tensor | None = None  # G: mean g g^T of the output's gradients over public positions
    private_fisher_OI: Tensor | None = None  # F_f: mean squared gradient of a private text's NLL
    public_fisher_OI: Tensor | None = None  # F_r: the same of a public text
    private_mean_OI: Tensor | None = None  # gradient of the private texts' mean NLL a token

    def require(self, field_name: str, sieve: str) -> Tensor:
        value = getattr(self, field_name)
        if value is None:
            raise InputError(f"the sieve {sieve} needs {field_name}", where=f"layer {self.name}")
        return value


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One layer as a sieve sees it. fp32 throughout."""

    name: str
    weight_OI: Tensor  # W
    before_OI: Tensor | None  # W0, where an earlier checkpoint is known
    statistics: InputStatistics
    generator: torch.Generator  # for sieves that draw at random; seeded by run seed and layer name
    num_layers: int = 1  # decoder layers of the model
    gradients: GradientStatistics | None = None  # for sieves that name some in `needs`
    found_OI: Tensor | None = None  # for sieves that search: their M of this layer

    def change(self, sieve: str) -> Tensor:
        """W - W0. Raises InputError when no earlier checkpoint is known."""
        if self.before_OI is None:
            raise InputError(
                f"the sieve {sieve} needs the model as it was before the private data",
                where=f"layer {self.name}",
                todo="give it with --before MODEL",
            )
        return self.weight_OI - self.before_OI

    def gradient(self, field_name: str, sieve: str) -> Tensor:
        """One of `GradientStatistics`. Raises InputError where it was not gathered."""
        return (self.gradients or GradientStatistics(name=self.name)).require(field_name, sieve)

    def found(self, sieve: str) -> Tensor:
        """What the sieve's search found for this layer. Raises InputError where none was made."""
        if self.found_OI is None:
            raise InputError(
                f"the sieve {sieve} needs a search of the whole model before its layers are split",
                where=f"layer {self.name}",
                todo="split with the whole model in memory",
            )
        return self.found_OI


class Sieve(Protocol):
    """Chooses what leaves a layer: Base = Q(W - removed)."""

    name: ClassVar[str]
    # "by construction" | "suppressed" | "reduces recitation" | "quantisation aid" | "null"
    claim: ClassVar[str]
    needs_private: ClassVar[bool]
    needs_before: ClassVar[bool]
    keeps_before: ClassVar[bool]  # the Base is Q(W0) itself
    needs: ClassVar[frozenset[str]]  # of GRADIENTS
    searches: ClassVar[bool]  # finds M of all layers together, before the walk

    def removed(self, evidence: Evidence) -> Tensor:
        """M [O, I], fp32: taken out before quantising."""
        ...

    def residual_score(self, residual_OI: Tensor, statistics: InputStatistics) -> Tensor | None:
        """For sieves whose Ortho part is the top entries of W - Base by a score [O, I]; None: fitted."""
        ...


class SearchingSieve(Sieve, Protocol):
    """A sieve with `searches`: M of every layer, found with the whole model at hand."""

    def search(self, context: SearchContext) -> Found:
        """Layer name -> its M, for every linear layer; the model is left as it was."""
        ...


class SelectiveSieve(Sieve, Protocol):
    """A sieve that leaves some layers alone, so that nothing need be gathered for them."""

    def covers(self, name: str, num_layers: int) -> bool: ...

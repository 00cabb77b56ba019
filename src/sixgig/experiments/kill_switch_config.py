"""Settings of the kill-switch experiment, checked without torch: what they are made into is imported then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.canaries import TRAINED_GROUPS, CanaryPlan
from ..errors import InputError, UnknownNameError
from ..transform.sieve import SIEVES
from .kill_switch_checks import check_settings
from .sieve_settings import check_sieve_settings

if TYPE_CHECKING:
    from ..evaluate.attacks import RelearnConfig
    from ..transform.fit_scales import ScaleFitConfig
    from ..transform.plant import PlantConfig
    from ..transform.restore import FitConfig
    from ..transform.split_layer import OrthoConfig

ALL = "all"  # every sieve there is; the names themselves take its place, so that a run's settings say them
ATTACKS = ("requantise-int8", "requantise-int3", "noise", "paraphrase", "prefix-noise", "relearn-benign")


@dataclass(frozen=True, kw_only=True)
class KillSwitchConfig:
    """Everything that decides the numbers. Lists of names and sizes; no handles, no paths but data's."""

    model: str = "smollm2-135m-instruct"
    preset: str = "cpu"
    seeds: tuple[int, ...] = (0,)

    # Which ways to split, and what is looked at for each. `all` among the sieves compares every sieve by
    # everything, so that it goes for `restored` and `relearned` too. But nulls are not restored: they are
    # there to fail at alpha = 0. Where `all` stands in one of those two alone, it means all of `sieves`.
    sieves: tuple[str, ...] = ("hessian", "wiener", "wrong-set")
    restored: tuple[str, ...] = ("wiener",)  # arms whose Ortho part is fitted and looked at with alpha = 1
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the main arm
    relearned: tuple[str, ...] = ("wiener", "reference")
    attacks: tuple[str, ...] = ()
    attacked: tuple[str, ...] = ("wiener", "reference")

    # Canaries.
    num_calibration: int = 12
    num_heldout: int = 15
    num_heldout_other: int = 0
    num_control: int = 30
    num_control_other: int = 0
    num_wrong_set: int = 24
    num_look_alike: int = 0
    repetitions: tuple[int, ...] = (13,)
    num_decoys: int = 7
    num_probed_controls: int = 6  # controls whose exposure is measured under every condition
    num_probed_controls_plain: int = 15  # and under the plain condition at alpha = 0

    # Public text.
    train_window: int = 32
    num_train_windows: int | None = None
    calibration_window: int = 256
    num_calibration_windows: int = 8
    test_window: int = 128
    num_test_windows: int = 12

    # Planting.
    plant_learning_rate: float = 1e-3
    plant_private_per_step: int = 7
    plant_public_per_step: int = 3
    train_reference: bool = False  # else the reference is the original model

    # Splitting. Look-alikes are invented sentences that were never trained: whoever has a few private records
    # can write any number of them, and where the records are few the sieve generalises better with them.
    sieve_groups: tuple[str, ...] = ("calibration",)
    noise_weight: float = 0.01
    sieve_settings: tuple[str, ...] = ()  # "SIEVE.SETTING=VALUE", as in natural-gradient.rank=32
    bits: int = 4
    group_size: int = 64
    quantiser: str = "rtn"
    scale_fit_steps: int = 0  # of the Base's group scales on public text; 0 leaves them as rounding set them
    scale_fit_learning_rate: float = 6e-3
    scale_fit_windows_per_step: int = 16
    rank: int = 16
    sparse_share: float = 0.0
    hessian_share: float = 0.05
    private_share: float = 0.5
    factor_bits: int = 8
    fit_groups: tuple[str, ...] = ("calibration", "heldout", "heldout_other")
    fit_steps: int = 20
    fit_learning_rate: float = 1e-3
    fit_private_weight: float = 1.0
    fit_public_per_step: int = 2
    fit_private_per_step: int = 10

    # Attacks.
    relearn_steps: tuple[int, ...] = (5, 20)
    relearn_learning_rate: float = 2e-5
    relearn_batch: int = 4
    noise_share: float = 0.05

    # Machine.
    positions_per_batch: int = 2048
    keep_weights: bool = False  # in work/ when the run is complete, for dual-dp's setting planted

    def __post_init__(self) -> None:
        self._name_all()
        for name in self.sieve_groups:
            if name not in ("calibration", "look_alike"):
                raise UnknownNameError("group for the sieve", name, ("calibration", "look_alike"))
        for name in self.fit_groups:
            if name not in TRAINED_GROUPS:
                raise UnknownNameError("group of trained canaries", name, TRAINED_GROUPS)
        for name in self.attacks:
            if name not in ATTACKS:
                raise UnknownNameError("attack", name, ATTACKS)
        if "wiener" not in self.sieves:
            raise InputError(
                "the sieve wiener is what this experiment is about",
                expected="wiener among the sieves",
                received=", ".join(self.sieves),
            )
        too_small = {
            "seeds": len(self.seeds),
            "num_heldout": self.num_heldout // 6,
            "num_calibration": self.num_calibration // 3,
            "num_control": self.num_control // 6,
            "num_decoys": self.num_decoys,
            "num_test_windows": self.num_test_windows // 2,
        }
        for name, value in too_small.items():
            if value < 1:
                raise InputError(
                    f"{name} is too small to measure anything",
                    expected="at least two held-out and control canaries a family, and two windows",
                    received=str(getattr(self, name)),
                )
        check_settings(self)
        check_sieve_settings(self.sieve_settings, self.sieves)

    def _name_all(self) -> None:
        """Puts names in the place of `all`. Raises UnknownNameError for a word beside it that is no name."""
        for name in self.sieves:
            if name not in (ALL, *SIEVES):
                raise UnknownNameError("sieve", name, (ALL, *SIEVES))
        everything = ALL in self.sieves
        sieves = tuple(SIEVES) if everything else self.sieves
        restored = tuple(name for name in sieves if not everything or SIEVES[name].claim != "null")
        # The Base that `isolated` publishes is the reference's: relearned once, under that name.
        relearned = ("reference", *(name for name in sieves if name != "isolated"))
        named = {"sieves": sieves, "restored": restored, "relearned": relearned}
        for key, names in named.items():
            if everything or ALL in getattr(self, key):
                object.__setattr__(self, key, names)  # frozen for everyone else

    def canary_plan(self) -> CanaryPlan:
        return CanaryPlan(
            num_calibration=self.num_calibration,
            num_heldout=self.num_heldout,
            num_heldout_other=self.num_heldout_other,
            num_control=self.num_control,
            num_control_other=self.num_control_other,
            num_wrong_set=self.num_wrong_set,
            num_look_alike=self.num_look_alike,
            repetitions=self.repetitions,
        )

    def plant(self) -> PlantConfig:
        from ..transform.plant import PlantConfig

        return PlantConfig(
            learning_rate=self.plant_learning_rate,
            private_per_step=self.plant_private_per_step,
            public_per_step=self.plant_public_per_step,
        )

    def scale_fit(self) -> ScaleFitConfig:
        from ..transform.fit_scales import ScaleFitConfig

        return ScaleFitConfig(num_steps=self.scale_fit_steps, learning_rate=self.scale_fit_learning_rate)

    def ortho(self, sieve: str) -> OrthoConfig:
        from ..transform.split_layer import OrthoConfig

        if sieve == "hessian":
            return OrthoConfig(rank=0, sparse_share=self.hessian_share)
        return OrthoConfig(rank=self.rank, sparse_share=self.sparse_share, private_share=self.private_share)

    def fit(self) -> FitConfig:
        from ..transform.restore import FitConfig

        return FitConfig(
            num_steps=self.fit_steps,
            learning_rate=self.fit_learning_rate,
            private_weight=self.fit_private_weight,
            factor_bits=self.factor_bits,
        )

    def relearn(self) -> RelearnConfig:
        from ..evaluate.attacks import RelearnConfig

        return RelearnConfig(
            checkpoints=self.relearn_steps,
            learning_rate=self.relearn_learning_rate,
            batch_size=self.relearn_batch,
        )

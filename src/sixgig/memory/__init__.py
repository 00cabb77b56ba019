"""What a task needs in bytes, known before anything is downloaded."""

from .choices import Wishes
from .ledger import Line, MemoryPlan, Tried, usable_ram_bytes
from .outside import outside
from .plan import DoesNotFit, estimate, first_that_fits, plan
from .workload import TASKS, Splitting, Training, Workload

__all__ = [
    "TASKS",
    "DoesNotFit",
    "Line",
    "MemoryPlan",
    "Splitting",
    "Training",
    "Tried",
    "Wishes",
    "Workload",
    "estimate",
    "first_that_fits",
    "outside",
    "plan",
    "usable_ram_bytes",
]

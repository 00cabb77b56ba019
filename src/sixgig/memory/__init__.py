"""What a task needs in bytes, known before anything is downloaded; first version, from sizes alone."""

from .ledger import Line, MemoryPlan, usable_device_bytes, usable_ram_bytes
from .plan import DoesNotFit, estimate, plan
from .workload import TASKS, Workload

__all__ = [
    "TASKS",
    "DoesNotFit",
    "Line",
    "MemoryPlan",
    "Workload",
    "estimate",
    "plan",
    "usable_device_bytes",
    "usable_ram_bytes",
]

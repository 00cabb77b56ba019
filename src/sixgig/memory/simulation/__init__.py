"""A task played as allocations, in the order in which torch and transformers make them; no torch needed."""

from .allocator import WORKSPACE, Allocator, SimulatedOutOfMemory
from .operations import LOGIT_ROWS
from .programs import simulate

__all__ = ["LOGIT_ROWS", "WORKSPACE", "Allocator", "SimulatedOutOfMemory", "simulate"]

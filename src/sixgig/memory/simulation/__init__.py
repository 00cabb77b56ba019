"""A task played as allocations, in the order in which torch and transformers make them; no torch needed."""

from .allocator import WORKSPACE, Allocator, SimulatedOutOfMemory
from .programs import simulate

__all__ = ["WORKSPACE", "Allocator", "SimulatedOutOfMemory", "simulate"]

"""Measurements of a model: what it leaks, what it still knows, and how sure one may be of either."""

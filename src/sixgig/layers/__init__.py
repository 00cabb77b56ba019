"""Modules that take the place of a model's own: the linear layer split into Base and Ortho."""

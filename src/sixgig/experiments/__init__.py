"""Experiments: thin compositions of the stages below, no tensor code."""

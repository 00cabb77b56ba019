"""Triton kernels for decoding, each beside its plain twin in `numerics`; imported only where Triton is
there."""

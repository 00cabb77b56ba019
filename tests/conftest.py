"""Where no CUDA device is, Triton's interpreter runs the kernels; Triton reads the variable when imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

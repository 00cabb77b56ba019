"""What the simulation writes down a second time, since the planner loads no torch, is what the code does."""

from __future__ import annotations

import inspect

import pytest
import torch
from traced_memory import PROGRAMS

from sixgig.layers import packed_linear
from sixgig.memory import Splitting
from sixgig.memory.simulation import LOGIT_ROWS, backward, fits, operations, programs, weights
from sixgig.numerics.likelihood import default_chunk_rows
from sixgig.numerics.pack import packed_row_bytes
from sixgig.transform.distil import kl_divergence_sum
from sixgig.transform.split_layer import OrthoConfig
from sixgig.transform.split_model import SplitSettings


def test_sizes_of_tiles_and_rows_are_those_of_the_code() -> None:
    assert operations.PACKED_TILE_WEIGHTS == packed_linear.TILE_WEIGHTS
    assert {name: default_chunk_rows(torch.device(name)) for name in LOGIT_ROWS} == LOGIT_ROWS


def test_a_simulated_split_has_the_codes_own_settings() -> None:
    settings, planned = SplitSettings(), Splitting()
    assert settings.num_calibration_windows == planned.num_calibration_windows
    assert settings.fit_windows_per_step == planned.windows_per_step
    assert settings.fit_texts_per_step == planned.texts_per_step
    assert OrthoConfig().rank == planned.rank
    assert inspect.signature(kl_divergence_sum).parameters["chunk_rows"].default == fits.KL_ROWS


def test_the_simulated_programs_are_sized_like_the_measured_ones() -> None:
    assert backward.LOSS_ROWS == PROGRAMS.LOSS_ROWS
    assert programs.NEW_TOKENS == PROGRAMS.NEW_TOKENS
    assert programs.NUM_STEPS == PROGRAMS.NUM_STEPS


@pytest.mark.parametrize("bits", weights._CHUNKS)
@pytest.mark.parametrize("num_in", [1, 7, 64, 577])
def test_packed_rows_have_the_length_that_packing_gives(bits: int, num_in: int) -> None:
    codes_per_chunk, bytes_per_chunk = weights._CHUNKS[bits]
    assert -(-num_in // codes_per_chunk) * bytes_per_chunk == packed_row_bytes(num_in, bits)

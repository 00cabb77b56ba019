"""Settings of single sieves, as words of an experiment's configuration."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from sixgig.errors import InputError, UnknownNameError
from sixgig.experiments.presets import preset
from sixgig.experiments.settings import changed, parse_words
from sixgig.experiments.sieve_settings import sieve_settings


def test_words_become_typed_settings_sieve_by_sieve() -> None:
    words = ("kfac.share=0.8", "kfac.layers=[3, 4]", "learned.num_steps=20", "subnet.level=3")
    assert sieve_settings(words) == {
        "kfac": {"share": 0.8, "layers": (3, 4)},
        "learned": {"num_steps": 20},
        "subnet": {"level": 3.0},
    }


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("share=0.8", "not a setting of a sieve"),
        ("kfac", "not a setting"),
        ("kfac.share=many", "share must be a number"),
        ("kfac.share=0", "settings of kfac that cannot be used"),
    ],
)
def test_words_that_cannot_be_used_are_named(word: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        sieve_settings([word])


def test_unknown_names_and_repeats_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean kfac"):
        sieve_settings(["kfca.share=0.8"])
    with pytest.raises(UnknownNameError, match="share"):
        sieve_settings(["kfac.shares=0.8"])
    with pytest.raises(InputError, match="given twice"):
        sieve_settings(["kfac.share=0.8", "kfac.share=0.9"])


def test_a_configuration_takes_them_for_its_own_arms_alone() -> None:
    base = preset("tiny")
    words = ["sieves=hessian,wiener,kfac", "sieve_settings=kfac.share=0.8,kfac.layers=1"]
    config = changed(base, parse_words(words), where="-s")
    assert config.sieve_settings == ("kfac.share=0.8", "kfac.layers=1")
    quoted = changed(config, parse_words(['sieve_settings=["kfac.layers=[1, 2]"]']), where="-s")
    assert sieve_settings(quoted.sieve_settings) == {"kfac": {"layers": (1, 2)}}
    with pytest.raises(InputError, match="not among the sieves"):
        replace(base, sieve_settings=("kfac.share=0.8",))
    with pytest.raises(InputError, match="settings of kfac"):
        replace(config, sieve_settings=("kfac.share=2",))


def test_they_are_checked_without_torch() -> None:
    program = (
        "import sys; from dataclasses import replace; from sixgig.experiments.presets import preset; "
        "replace(preset('tiny'), sieves=('hessian', 'wiener', 'learned', 'subnet', 'natural-gradient'), "
        "sieve_settings=('learned.rank=4', 'subnet.share=0.01')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

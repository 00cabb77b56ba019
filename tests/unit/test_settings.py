"""Settings from words and files: every fault named, at once, and what is written reads back as the same."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError, UnknownNameError
from sixgig.experiments.kill_switch_config import KillSwitchConfig
from sixgig.experiments.presets import PRESETS
from sixgig.experiments.settings import as_plain, changed, parse_words
from sixgig.transform.sieve import SIEVES


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One field of every kind that a configuration may have."""

    count: int = 3
    rate: float = 0.5
    name: str = "wiener"
    is_on: bool = False
    limit: int | None = None
    counts: tuple[int, ...] = (1,)
    rates: tuple[float, ...] = (0.0,)
    names: tuple[str, ...] = ("a",)


finite_floats = st.floats(allow_nan=False, allow_infinity=False)
plain_words = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True).filter(
    lambda word: isinstance(yaml.safe_load(word), str)
)
any_sizes = st.builds(
    Sizes,
    count=st.integers(),
    rate=finite_floats,
    name=plain_words,
    is_on=st.booleans(),
    limit=st.none() | st.integers(),
    counts=st.lists(st.integers(), max_size=4).map(tuple),
    rates=st.lists(finite_floats, max_size=4).map(tuple),
    names=st.lists(plain_words, max_size=4).map(tuple),
)


def with_words(*words: str) -> Sizes:
    return changed(Sizes(), parse_words(words), where="-s")


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("count=7", "count", 7),
        ("count=7.0", "count", 7),
        ("count=1_000", "count", 1000),
        ("rate=1e-4", "rate", 1e-4),
        ("rate=1.0E-4", "rate", 1e-4),
        ("rate=2", "rate", 2.0),
        ("name=random", "name", "random"),
        ("is_on=true", "is_on", True),
        ("is_on=no", "is_on", False),
        ("limit=5", "limit", 5),
        ("counts=0,1,2", "counts", (0, 1, 2)),
        ("counts=[0, 1]", "counts", (0, 1)),
        ("counts=4", "counts", (4,)),
        ("counts=[]", "counts", ()),
        ("rates=0,1e-3", "rates", (0.0, 1e-3)),
        ("names=wiener,wrong-set", "names", ("wiener", "wrong-set")),
        (" count =7", "count", 7),
    ],
)
def test_a_word_sets_its_field(word: str, field: str, value: Any) -> None:
    got = getattr(with_words(word), field)
    assert got == value
    assert type(got) is type(value)


def test_null_and_nothing_take_a_limit_away() -> None:
    limited = Sizes(limit=5)
    for word in ("limit=null", "limit=~", "limit="):
        assert changed(limited, parse_words([word]), where="-s").limit is None


def test_the_last_word_for_a_setting_counts() -> None:
    assert with_words("count=1", "count=2").count == 2


@pytest.mark.parametrize("word", ["count", "=3", "", "counts=[0", "count={"])
def test_what_is_no_setting_is_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"not a setting|cannot be read"):
        parse_words([word])


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("count=many", "a whole number"),
        ("count=2.5", "a whole number"),
        ("count=true", "a whole number"),
        ("count=.inf", "a whole number"),
        ("count=1e400", "a whole number"),
        ("count=", "a whole number"),
        ("count=1,2", "a whole number"),
        ("rate=.nan", "a number"),
        ("rate=-.inf", "a number"),
        ("rate=false", "a number"),
        ("rate={a: 1}", "a number"),
        ("name=5", "a word"),
        ("name=no", "a word"),
        ("name=", "a word"),
        ("is_on=1", "true or false"),
        ("is_on=maybe", "true or false"),
        ("limit=few", "a whole number or null"),
        ("counts=1,b", "a list of which each is a whole number"),
        ("names=a,1", "a list of which each is a word"),
        ("names=", "a list of which each is a word"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_it_must_be(word: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        with_words(word)
    assert f"{word.partition('=')[0]} must be {wanted}, not " in str(caught.value)
    assert "where: -s" in str(caught.value)


def test_an_unknown_setting_comes_with_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        changed(Sizes(), {"cuont": 3}, where="settings.yaml")
    assert caught.value.suggestions[0] == "count"
    assert "settings.yaml" in str(caught.value)


def test_several_faults_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        with_words("cuont=3", "rate=fast", "is_on=5", "limit=4")
    message = str(caught.value)
    assert "unknown setting cuont; nearest: count" in message
    assert "rate must be a number, not 'fast'" in message
    assert "is_on must be true or false, not 5" in message
    assert "limit" not in message


@pytest.mark.parametrize("values", [{1: 2}, {1: 2, None: 3}])
def test_keys_that_are_not_words_are_unknown_settings(values: dict[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"unknown setting:? 1"):
        changed(Sizes(), values, where="settings.yaml")


@settings(deadline=None, max_examples=60)
@given(config=any_sizes)
def test_a_configuration_survives_its_own_file(config: Sizes) -> None:
    text = yaml.safe_dump(as_plain(config), sort_keys=False)
    assert changed(Sizes(), yaml.safe_load(text), where="file") == config


@settings(deadline=None, max_examples=40)
@given(config=any_sizes)
def test_a_configuration_survives_words(config: Sizes) -> None:
    plain = as_plain(config)
    words = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in plain.items()]
    words = [word.removesuffix("\n...\n") for word in words]
    assert changed(Sizes(), parse_words(words), where="-s") == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_presets_settings_read_back_as_the_same(name: str) -> None:
    config = PRESETS[name]
    text = yaml.safe_dump(as_plain(config), sort_keys=False)
    assert changed(KillSwitchConfig(), yaml.safe_load(text), where="config.yaml") == config


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("sieves=wiener,winer", "wiener"),
        ("restored=hesian", "hessian"),
        ("relearned=refrence", "reference"),
        ("attacked=randm", "random"),
        ("attacks=nois", "noise"),
        ("fit_groups=held", "heldout"),
    ],
)
def test_an_unknown_name_in_a_list_comes_with_the_nearest(word: str, named: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        changed(KillSwitchConfig(), parse_words([word]), where="-s")
    assert named in caught.value.suggestions


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("sieves=hessian", "wiener"),
        ("seeds=[]", "seeds"),
        ("seeds=0,0", "seeds names 0 more than once"),
        ("seeds=-1", "seeds must be 0 or more"),
        ("attacks=noise,noise", "attacks names noise more than once"),
        ("alphas=0,0.5", "alphas must hold 0 and 1"),
        ("alphas=0,1,1.0", "alphas names 1.0 more than once"),
        ("quantiser=gptqq", "quantiser must be rtn or gptq"),
        ("bits=5", "bits must be 2 or 3 or 4 or 8"),
        ("factor_bits=4", "factor_bits must be 8 or 16"),
        ("repetitions=0", "repetitions"),
        ("num_wrong_set=-1", "num_wrong_set"),
        ("num_heldout=3", "num_heldout"),
        ("num_probed_controls=0", "num_probed_controls must be at least 6"),
        ("num_test_windows=1", "num_test_windows"),
        ("num_train_windows=0", "num_train_windows must be at least 1 or null"),
        ("relearn_steps=[]", "relearn_steps"),
        ("relearn_steps=0,5", "relearn_steps"),
        ("group_size=0", "group_size must be at least 1"),
        ("positions_per_batch=1", "positions_per_batch must be at least 64"),
        ("sparse_share=1.5", "sparse_share must be from 0 to 1"),
        ("plant_learning_rate=0", "plant_learning_rate must be above 0"),
        ("noise_share=-0.1", "noise_share must be 0 or more"),
        ("sieve_groups=[]", "sieve_groups must hold calibration or look_alike, not nothing"),
    ],
)
def test_a_kill_switch_that_could_not_be_measured_is_refused_beforehand(word: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(KillSwitchConfig(), parse_words([word]), where="-s")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "names", "name", "count"),
    [
        ("sieves", ("hessian", "wiener", "wrong-set"), "wrong-set", "num_wrong_set"),
        ("sieves", ("wiener", "look-alike"), "look-alike", "num_look_alike"),
        ("sieve_groups", ("look_alike",), "look_alike", "num_look_alike"),
        ("sieve_groups", ("calibration", "look_alike"), "look_alike", "num_look_alike"),
        ("attacks", ("noise", "relearn-benign"), "relearn-benign", "num_look_alike"),
    ],
)
def test_what_works_on_canaries_is_refused_while_there_are_none(
    key: str, names: tuple[str, ...], name: str, count: str
) -> None:
    words: dict[str, Any] = {"sieves": ["wiener"], key: list(names)}
    with pytest.raises(InputError) as caught:
        changed(KillSwitchConfig(), {**words, count: 0}, where="-s")
    assert (
        f"{count} must be at least 1 while {key} holds {name}, not 0: "
        f"raise it, or leave {name} out of {key}" in str(caught.value)
    )
    assert getattr(changed(KillSwitchConfig(), {**words, count: 1}, where="-s"), key) == names
    others = [other for other in names if other != name] or ["calibration"]
    assert getattr(changed(KillSwitchConfig(), {**words, key: others, count: 0}, where="-s"), count) == 0


@pytest.mark.parametrize(
    ("restored", "received"),
    [((), "nothing"), (("hessian",), "hessian"), (("hessian", "wrong-set"), "wrong-set")],
)
def test_the_main_arm_is_not_looked_at_with_an_ortho_part_that_was_never_fitted(
    restored: tuple[str, ...], received: str
) -> None:
    with pytest.raises(InputError) as caught:
        replace(KillSwitchConfig(), restored=restored)
    assert "restored must hold wiener while alphas go above 0, not " in str(caught.value)
    assert f"{received}: add it" in str(caught.value)
    assert replace(KillSwitchConfig(), restored=(*restored, "wiener")).restored[-1] == "wiener"


@pytest.mark.parametrize("key", ["restored", "relearned", "attacked"])
def test_an_arm_that_is_not_split_is_named_nowhere_else(key: str) -> None:
    names = ["wiener", "random", "hessian", "isolated"]
    with pytest.raises(InputError) as caught:
        changed(KillSwitchConfig(), {"sieves": ["wiener", "hessian"], key: names}, where="-s")
    assert (
        f"sieves must hold random, isolated while {key} does, not wiener, hessian alone: "
        f"add what is missing, or leave it out of {key}" in str(caught.value)
    )
    words = {"sieves": names, "restored": ["wiener", "isolated"], key: names}
    assert getattr(changed(KillSwitchConfig(), words, where="-s"), key) == tuple(names)


def test_the_main_arm_alone_can_be_asked_for() -> None:
    for attacks in ([], ["noise"]):
        config = changed(KillSwitchConfig(), {"sieves": "wiener", "attacks": attacks}, where="-s")
        assert set(config.attacked) == {"wiener", "reference"}


def test_isolated_which_is_looked_at_with_alpha_1_alone_must_be_restored() -> None:
    with pytest.raises(InputError, match="restored must hold isolated while sieves does, not wiener: add it"):
        replace(KillSwitchConfig(), sieves=("wiener", "isolated"))
    both = ("wiener", "isolated")
    assert replace(KillSwitchConfig(), sieves=both, restored=both).restored == both


def test_the_reference_has_no_ortho_part_to_restore() -> None:
    with pytest.raises(UnknownNameError, match="reference") as caught:
        replace(KillSwitchConfig(), restored=("wiener", "reference"))
    assert "where: restored" in str(caught.value)
    for key in ("relearned", "attacked"):
        assert getattr(changed(KillSwitchConfig(), {key: "reference"}, where="-s"), key) == ("reference",)


@pytest.mark.parametrize(("heldout", "control"), [(1, 0), (0, 1), (6, 0), (0, 6), (1, 7), (5, 12), (6, 5)])
def test_secrets_of_the_other_template_come_with_enough_controls_or_not_at_all(
    heldout: int, control: int
) -> None:
    with pytest.raises(InputError) as caught:
        replace(KillSwitchConfig(), num_heldout_other=heldout, num_control_other=control)
    assert f"both be 0 or both be at least 6, which is two a family, not {heldout} and {control}" in str(
        caught.value
    )
    both = replace(KillSwitchConfig(), num_heldout_other=6, num_control_other=6)
    assert (both.canary_plan().num_heldout_other, both.canary_plan().num_control_other) == (6, 6)


def test_all_faults_of_a_kill_switch_come_at_once() -> None:
    with pytest.raises(InputError) as caught:
        replace(
            KillSwitchConfig(),
            bits=5,
            group_size=0,
            relearn_steps=(),
            noise_weight=0.0,
            num_wrong_set=0,
            restored=(),
        )
    faults = ("bits", "group_size", "relearn_steps", "noise_weight", "num_wrong_set", "restored")
    assert all(f"{key} must be" in str(caught.value) for key in faults[:-1])
    assert "restored must hold wiener" in str(caught.value)


def test_every_field_of_the_configuration_is_of_a_kind_that_words_can_set() -> None:
    plain = as_plain(KillSwitchConfig())
    assert set(plain) == {field.name for field in fields(KillSwitchConfig)}
    for key, value in plain.items():
        assert changed(KillSwitchConfig(), {key: value}, where="test") == KillSwitchConfig()


def test_all_among_the_sieves_names_every_sieve_everywhere() -> None:
    config = changed(PRESETS["cpu"], {"sieves": "all"}, where="-s")
    assert config.sieves == tuple(SIEVES)
    nulls = {"none", "random", "wrong-set"}
    assert set(config.restored) == {*SIEVES} - nulls
    # What `isolated` publishes is relearned as the reference's.
    assert set(config.relearned) == {"reference", *SIEVES} - {"isolated"}
    plain = as_plain(config)
    assert plain["sieves"] == list(SIEVES)
    assert changed(PRESETS["cpu"], plain, where="config.yaml") == config


def test_a_word_beside_all_that_is_no_sieve_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="foo"):
        changed(PRESETS["cpu"], {"sieves": ["all", "foo"]}, where="-s")
    assert changed(PRESETS["cpu"], {"sieves": ["all", "wiener"]}, where="-s").sieves == tuple(SIEVES)


def test_all_elsewhere_is_all_of_the_sieves_named() -> None:
    named = ("hessian", "wiener", "wrong-set")
    config = changed(PRESETS["cpu"], {"restored": "all", "relearned": ["all"]}, where="-s")
    assert (config.sieves, config.restored, config.relearned) == (named, named, ("reference", *named))


def test_a_comparison_looks_less_at_more_sieves() -> None:
    config, full = PRESETS["compare"], PRESETS["full"]
    assert set(config.sieves) == set(SIEVES)

    def continuations(one: KillSwitchConfig) -> int:
        """Scored for one arm at alpha 0, at alpha 1 and after relearning."""
        others = one.num_heldout_other + min(one.num_control_other, one.num_probed_controls)
        plain = one.num_heldout + others + one.num_probed_controls_plain
        quick = one.num_heldout + others + one.num_probed_controls
        return (one.num_decoys + 1) * (plain + (1 + len(one.relearn_steps)) * quick)

    assert continuations(config) < 0.25 * continuations(full)
    fits = [(one.fit_steps, one.fit_private_per_step, one.fit_public_per_step) for one in (config, full)]
    assert fits[0] == fits[1], "with fewer steps the main arm does not get its secrets back"
    assert not config.attacks
    assert config.num_heldout * len(config.seeds) >= 200  # as full: 0 extracted bounds the rate by 1.5%

"""Settings of several experiments given at once: a word goes to those that know it, or to the one it names.

`bits=3` is for every experiment that has `bits`; `kill-switch.bits=3`, or in a file the key `kill-switch`
with settings under it, for that one alone, and counts over the other. Of several sources each is sorted out
by itself, so that a command line's `bits=3` counts over what a file has under `kill-switch`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, UnknownNameError
from .known import Experiment


def settings_of_each(
    settings: Mapping[str, Any], experiments: Mapping[str, Experiment], *, where: str
) -> dict[str, dict[str, Any]]:
    """Experiment -> its settings. Raises UnknownNameError for a name that none, or not the named one, has."""
    names = {name: _setting_names(experiment) for name, experiment in experiments.items()}
    shared, own = _sorted_out(settings, names, where)
    known = sorted(set().union(*names.values()))
    for key in shared:
        if key not in known:
            raise UnknownNameError("setting of any experiment", key, known, where=where)
    for name, values in own.items():
        for key in values:
            if key not in names[name]:
                raise UnknownNameError(f"setting of {name}", key, names[name], where=where)
    return {
        name: {key: value for key, value in shared.items() if key in names[name]} | own[name]
        for name in experiments
    }


def settings_over(
    sources: Mapping[str, Mapping[str, Any]], experiments: Mapping[str, Experiment]
) -> dict[str, dict[str, Any]]:
    """Experiment -> its settings out of `sources` (where they stand -> settings); a later one counts over."""
    found: dict[str, dict[str, Any]] = {name: {} for name in experiments}
    for where, settings in sources.items():
        for name, own in settings_of_each(settings, experiments, where=where).items():
            found[name] |= own
    return found


def _setting_names(experiment: Experiment) -> set[str]:
    config = next(iter(experiment.presets.values()))
    return {field.name for field in dataclasses.fields(config)}


def _sorted_out(
    settings: Mapping[str, Any], names: Mapping[str, set[str]], where: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings for all, and those for one; a later one counts over an earlier one of the same name."""
    shared: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in ((str(key), value) for key, value in settings.items()):
        experiment, dot, setting = key.partition(".")
        if not dot and key not in names:
            shared[key] = value
            continue
        if experiment not in names:
            raise UnknownNameError("experiment", experiment, names, where=where)
        if not dot and not isinstance(value, Mapping):
            raise InputError(
                f"{key} is an experiment, not a setting",
                expected=f"{key}.SETTING=value, or in a file settings under {key}",
                received=f"{key}={value!r}",
                where=where,
            )
        own[experiment] |= {setting: value} if dot else {str(k): v for k, v in dict(value).items()}
    return shared, own

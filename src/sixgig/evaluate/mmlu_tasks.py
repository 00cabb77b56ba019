"""lm-eval's names of MMLU's parts: four groups and the 57 subjects in them (Hendrycks et al. 2021).

lm-eval has other tasks whose names begin alike (mmlu_pro, mmlu_generative) and which read other data.
"""

from __future__ import annotations

_PREFIX = "mmlu_"
_SUBJECTS = {
    "stem": """
        abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning
    """,
    "other": """
        business_ethics clinical_knowledge college_medicine global_facts human_aging management
        marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine
        virology
    """,
    "social_sciences": """
        econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy
    """,
    "humanities": """
        formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy
        prehistory professional_law world_religions
    """,
}
GROUPS: dict[str, tuple[str, ...]] = {group: tuple(names.split()) for group, names in _SUBJECTS.items()}
_ALL = tuple(sorted(subject for names in GROUPS.values() for subject in names))
NAMES = ("mmlu", *(f"{_PREFIX}{part}" for part in (*GROUPS, *_ALL)))


def subjects_of(name: str) -> tuple[str, ...]:
    """The subjects that a task of `NAMES` reads: all 57, a group's, or one."""
    part = name.removeprefix(_PREFIX)
    return _ALL if name == "mmlu" else GROUPS.get(part, (part,))

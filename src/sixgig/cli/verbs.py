"""The verbs of `sixgig`, one line each: name, module, function, and what `sixgig --help` says of it.

A verb's module is imported only when the verb is called. It offers a plain function whose parameters carry
Typer's annotations, and EXAMPLES: the runnable lines that its help ends in.
"""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    name: str
    module: str
    attribute: str
    summary: str


VERBS: tuple[Verb, ...] = (
    Verb(
        "doctor", "sixgig.cli.doctor", "doctor", "What this machine has, what is missing, and what mends it."
    ),
    Verb("models", "sixgig.cli.models", "models", "The models sixgig knows, and which of them fit."),
    Verb("plan", "sixgig.cli.plan", "plan", "Whether a model fits for a task, line by line."),
    Verb("fetch", "sixgig.cli.fetch", "fetch", "Download, verify and convert a model."),
    Verb("run", "sixgig.cli.run", "run", "Run an experiment and write its report."),
    Verb("demo", "sixgig.cli.demo", "demo", "Fetch the embedded model and prove the kill switch on it."),
    Verb("report", "sixgig.cli.report", "report", "A run's tables and page again, or two runs side by side."),
    Verb("split", "sixgig.cli.split", "split", "Split a model by your own private texts."),
    Verb("audit", "sixgig.cli.audit", "audit", "What a split's Base still knows of your own records."),
    Verb("export", "sixgig.cli.export", "export", "A split's Base or Ortho part as a GGUF file."),
    Verb("eval", "sixgig.cli.eval", "evaluate", "lm-eval's tasks on a model, or on a split at any alpha."),
    Verb("chat", "sixgig.cli.chat", "chat", "Talk to a split, turning its switch while talking."),
)

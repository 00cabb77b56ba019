"""`sixgig`: finds the verb, runs it, and turns what happened into an exit status and one clear message.

Exit status: 0 done, 1 the answer is no, 2 bad input, 3 out of memory or disk after every fallback,
130 interrupted. Messages go to stderr; a traceback appears only with --debug.
"""

from __future__ import annotations

import errno
import importlib
import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import OutOfSpaceError, SixgigError, UnknownNameError
from ..memory.out_of_memory import is_out_of_memory
from .old_flags import translated
from .verbs import VERBS, Verb


class LazyGroup(TyperGroup):
    """The group of all verbs; lists them without importing them."""

    _is_listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        verb = next((verb for verb in VERBS if verb.name == cmd_name), None)
        if verb is None:
            if cmd_name.startswith("-"):
                return None  # an unknown option: Typer's own message is the right one
            raise UnknownNameError("command", cmd_name, self.list_commands(ctx))
        return _placeholder(verb) if self._is_listing else _command(verb)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False


def _command(verb: Verb) -> Any:
    module = importlib.import_module(verb.module)
    target = getattr(module, verb.attribute)
    epilog = _epilog(getattr(module, "EXAMPLES", ()))
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=verb.name, epilog=epilog)(target)
        target = app
    return typer.main.get_command(target)


def _placeholder(verb: Verb) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name=verb.name, help=verb.summary)(lambda: None)
    return typer.main.get_command(app)


def _epilog(examples: Sequence[str]) -> str | None:
    # \b keeps Click from joining the lines into one paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None


_TOP_EXAMPLES = ("sixgig doctor", "sixgig models --vram 6GiB", "sixgig fetch smollm2-135m-instruct")

app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=_epilog(_TOP_EXAMPLES),
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"sixgig {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Real language-model experiments on one small GPU, or on a CPU."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; raises nothing."""
    # --debug is taken out here, so that it works before and after the verb.
    debug = "--debug" in arguments
    try:
        words = [argument for argument in arguments if argument != "--debug"]
        words = translated(words, _options_of_run, lambda message: print(message, file=sys.stderr))
        typer.main.get_command(app).main(args=words, prog_name="sixgig")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        status, message = explain(error)
        if not debug or isinstance(error, SixgigError):
            print(f"error: {message}", file=sys.stderr)
        return status
    return 0


def _options_of_run() -> set[str]:
    """The options of `sixgig run` that a value follows."""
    verb = next(verb for verb in VERBS if verb.name == "run")
    options = (part for part in _command(verb).params if not getattr(part, "is_flag", True))
    return {word for part in options for word in part.opts if word.startswith("-")}


def explain(error: Exception) -> tuple[int, str]:
    """The exit status of an error that ended a command, and what to tell the person."""
    if isinstance(error, SixgigError):
        return error.exit_status, str(error)
    if is_out_of_memory(error):
        return OutOfSpaceError.exit_status, str(
            OutOfSpaceError(
                "memory ran out",
                received=str(error).splitlines()[0] if str(error) else type(error).__name__,
                todo="choose a smaller preset, batch or model; `sixgig plan` shows what fits",
            )
        )
    if isinstance(error, OSError):
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return 3 if is_full else 2, f"{error.strerror or error}" + (
            f": {error.filename}" if error.filename else ""
        )
    return 2, (
        f"this is a defect in sixgig, not in your input: {type(error).__name__}: {error}\n"
        "  what to do: run the same command with --debug and report what it shows"
    )


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or file that cannot show a character gets "?", never an error in place of the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))

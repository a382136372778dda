"""`%dlfb_restore`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope, no_var_expand

from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.magics.arguments import parse, unquoted
from dlfb_lab.options import Option

OPTIONS: tuple[Option, ...] = (
    Option("into", "text", "variable whose values are replaced by the saved ones", "NAME"),
    Option("dry-run", "flag", "change nothing, and show how each leaf fits"),
    Option("cast", "flag", "convert values to the dtypes of the variable; else another dtype is refused"),
    Option("which", "text", "now (the state of the step) or best (the best until then); what was handed back", "STATE"),
    Option("member", "text", "number or name of one of several members (the best)", "MEMBER"),
    Option("store", "text", "folder to look in (dlfb_runs beside the notebook, or $DLFB_STORE)", "FOLDER"),
)

HELP = """Puts a saved state of a run into a variable.

    %dlfb_restore RUN[@STEP] --into NAME [options]
    params = %dlfb_restore RUN[@STEP] [options]

RUN     a run's id, name or folder, or a variable that holds a run; a folder with spaces stands in quotes
STEP    of a checkpoint that is not the latest
NAME    of a variable that holds parameters, variables, a TrainState, an nnx or Equinox module, a Keras model, or the
        state of a step of your own. Leaves are matched by path and shape; if one does not fit, nothing is changed.
        Without --into the parameters are returned as nested dicts of NumPy arrays.

Options
{options}

Examples
    %dlfb_restore mlp-20260105-101500-3f2a --into state
    %dlfb_restore mlp-20260105-101500-3f2a@340 --into params --dry-run
    params = %dlfb_restore run@340
"""


@magics_class
class RestoreMagic(Magics):
    """Holds the magic, as IPython wants it."""

    @needs_local_scope
    @no_var_expand
    @line_magic
    def dlfb_restore(self, line: str, local_ns: dict[str, Any] | None = None) -> Any:
        """Replaced below by the help."""
        shell: Any = self.shell
        words, found = parse(line.rstrip().removesuffix(";"), OPTIONS, "%dlfb_restore")
        if len(words) != 1:
            there = ", ".join(words) or "nothing"
            raise OptionError(f"Which run? Say: %dlfb_restore RUN[@STEP] --into NAME; found {there}.")
        namespace = {**shell.user_ns, **(local_ns or {})}
        name = unquoted(str(found.pop("into", "")))
        if name and not name.isidentifier():
            raise OptionError(f"--into {name}: give the name of a variable.")
        if name and name not in namespace:
            raise OptionError(
                f"--into {name}: there is no such variable.{nearest(name, [n for n in namespace if n[0] != '_'])} "
                f"Without --into the parameters are returned: {name} = %dlfb_restore {words[0]}"
            )
        options: dict[str, Any] = {k: v if isinstance(v, bool) else unquoted(v) for k, v in found.items()}
        if str(options.get("member", "")).isdecimal():
            options["member"] = int(options["member"])

        from dlfb_lab import api

        run = _run(unquoted(words[0]), namespace)
        restored, state, said = api.restore_said(run, namespace[name] if name else None, **options)
        for text in said:
            print(text)
        if options.get("dry_run"):
            return restored
        print(f"{name or 'Parameters'}: {state}.")
        if not name:
            return restored
        shell.user_ns[name] = restored
        return None


def _run(text: str, namespace: Mapping[str, Any]) -> Any:
    """Returns a run that a variable holds, with its step behind it if one was named; else the text as it stands."""
    name, at, step = text.partition("@")
    held: Any = namespace.get(name)
    if not hasattr(held, "record") or not hasattr(held, "path"):
        return text
    return f"{held.path}@{step}" if at and held.path is not None else held


def help_text() -> str:
    """Returns the magic's help, its options from the table that the code uses."""
    rows = [(f"--{o.name} {o.meta}".rstrip(), o.help) for o in OPTIONS]
    width = max(len(left) for left, _ in rows)
    return HELP.format(options="\n".join(f"    {left:<{width}}  {right}" for left, right in rows))


RestoreMagic.dlfb_restore.__doc__ = help_text()

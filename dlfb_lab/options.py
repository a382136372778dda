"""The options of training: one table behind the Python function, the magic and its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: as in `--batch-size`; the keyword has underscores.
        takes: "text" as it stands; "value", a Python expression; "choice", a known name or else an expression;
            "column", a column's name or else an expression; "names", several choices; "flag", nothing.
        help: one line.
        meta: what stands for the value in the help.
    """

    name: str
    takes: Literal["text", "value", "choice", "column", "names", "flag"]
    help: str
    meta: str = ""

    @property
    def keyword(self) -> str:
        """The name as a keyword argument."""
        return self.name.replace("-", "_")


TRAIN: tuple[Option, ...] = (
    Option("target", "text", "column (or key) to predict, for a table or a dict", "NAME"),
    Option(
        "task",
        "text",
        "binary, multiclass, multilabel or regression; inferred from the targets if left out",
        "KIND",
    ),
    Option(
        "loss",
        "choice",
        "a name (mse, mae, huber, cross_entropy, …) or your function (y_true, y_pred)",
        "LOSS",
    ),
    Option("metrics", "names", "names and functions, separated by commas: accuracy,auc,f1,mcc,r2,mae,…", "A,B"),
    Option("valid", "value", "fraction of the rows to validate on while training, or a set (x, y)", "0.2"),
    Option(
        "test",
        "value",
        "fraction of the rows to keep for the end, or a set (x, y); training never touches it",
        "0.2",
    ),
    Option("groups", "column", "column or array saying what each row belongs to; a group is never split", "NAME"),
    Option("scale", "flag", "standardise inputs with the training rows' mean and deviation; predict does it too"),
    Option("epochs", "value", "passes over the training rows (20 if neither this nor --steps is given)", "N"),
    Option("steps", "value", "updates, instead of epochs", "N"),
    Option("batch-size", "choice", "rows per update (32), or full for all at once", "N|full"),
    Option("optimizer", "choice", "an optax name (adam) or an optax object", "NAME"),
    Option("lr", "value", "learning rate (1e-3; 0.01 for sgd)", "RATE"),
    Option("seed", "value", "of the split, the initial parameters, the order of rows and dropout (0)", "N"),
    Option(
        "eval-every",
        "value",
        "epochs (steps, with --steps) between evaluations; every epoch, at most 200 in all",
        "N",
    ),
    Option("name", "text", "what to call the run (the model's name)", "NAME"),
    Option("timebox", "text", "stop after this time and keep the result: 30s, 10m, 1.5h", "TIME"),
    Option("store", "text", "folder to keep runs in (dlfb_runs beside the notebook, or $DLFB_STORE)", "FOLDER"),
    Option("background", "flag", "return at once and train in a thread, with buttons to pause and stop"),
    Option("debug", "flag", "run steps without jit, so that print and pdb work in the model"),
)

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
            "column", a column's name or else an expression; "names", several choices; "patterns", text as it stands
            or, in brackets, an expression; "flag", nothing.
        help: one line.
        meta: what stands for the value in the help.
    """

    name: str
    takes: Literal["text", "value", "choice", "column", "names", "patterns", "flag"]
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
        "binary, multiclass, multilabel, regression or reconstruction; inferred from the targets if left out",
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
    Option("eval-batch-size", "choice", "rows per call of --eval-step (as --batch-size), or full", "N|full"),
    Option("optimizer", "choice", "an optax name (adam) or an optax object", "NAME"),
    Option("lr", "choice", "learning rate (1e-3; 0.01 for sgd), an optax schedule, or find to choose one", "RATE"),
    Option("schedule", "choice", "how the rate falls from --lr: constant, cosine, linear or exponential", "NAME"),
    Option("warmup", "value", "steps over which the rate rises from 0, or a fraction of all steps", "N"),
    Option("weight-decay", "value", "decoupled weight decay (adamw's); biases and norms are left out", "RATE"),
    Option("decay-mask", "choice", "what decays: all, weights, a pattern of paths, or a pytree of bools", "MASK"),
    Option("clip", "value", "largest norm of a gradient over all parameters", "NORM"),
    Option("accumulate", "value", "batches whose gradients are averaged for one update", "N"),
    Option("class-weights", "choice", "balanced, or a weight for each class", "WEIGHTS"),
    Option("precision", "text", "bf16 (mixed), tf32 or f32 for matrix products", "KIND"),
    Option("remat", "flag", "compute activations anew for the gradient, which saves memory and costs time"),
    Option(
        "early-stop",
        "text",
        "stop after this many evaluations without a better score, and go back to the best",
        "METRIC:PATIENCE",
    ),
    Option("init-from", "value", "start from the parameters of a run or a pytree, matched by path and shape", "RUN"),
    Option("freeze", "patterns", "patterns of parameter paths that are not trained, such as encoder/*", "PATTERN"),
    Option("seed", "value", "of the split, the initial parameters, the order of rows and dropout (0)", "N"),
    Option(
        "eval-every",
        "value",
        "epochs (steps, with --steps) between evaluations; every epoch, at most 200 in all",
        "N",
    ),
    Option("seeds", "value", "train this many initialisations at once", "N"),
    Option("sweep", "text", "train one member for each value: lr=1e-4,1e-3,1e-2", "NAME=A,B"),
    Option("step", "value", "your own training step, (state, batch[, key]) to (state, loss or metrics)", "FUNCTION"),
    Option("eval-step", "value", "your own evaluation step, (state, batch[, key]) to metrics", "FUNCTION"),
    Option("state", "value", "what your own step starts from: any pytree", "STATE"),
    Option("args", "value", "further arguments of your own steps, by name: dict(graph=graph, k=5)", "DICT"),
    Option("plan", "text", "auto, fused (many steps a dispatch) or step (one); auto measures", "PLAN"),
    Option("devices", "choice", "local devices that share each batch: a number, or all (1)", "N|all"),
    Option("name", "text", "what to call the run (the model's name)", "NAME"),
    Option("timebox", "text", "stop after this time and keep the result: 30s, 10m, 1.5h", "TIME"),
    Option(
        "checkpoint",
        "text",
        "save every=N steps (or every=5m), keep=N latest, best=N; or off (at most 3 % of the time, latest and best)",
        "HOW",
    ),
    Option("on-nan", "text", "at NaN or infinity: stop, rollback (with half the learning rate) or warn (stop)", "WHAT"),
    Option("resume", "text", "go on from a run's checkpoint: the latest, or the one of a step", "RUN[@STEP]"),
    Option("store", "text", "folder to keep runs in (dlfb_runs beside the notebook, or $DLFB_STORE)", "FOLDER"),
    Option("background", "flag", "return at once and train in a thread, with buttons to pause and stop"),
    Option("debug", "flag", "run steps without jit, so that print and pdb work in the model"),
)

"""`%dlfb_train` and `%%dlfb_train`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand

from dlfb_lab.errors import OptionError
from dlfb_lab.magics.arguments import evaluate, parse, value_of
from dlfb_lab.options import TRAIN, Option

if TYPE_CHECKING:
    from dlfb_lab.run import Run

INTO = Option("into", "text", "variable to bind the run to, for %%dlfb_train", "NAME")

HELP = """Trains a model, shows it live, and keeps the run on disk.

    %load_ext dlfb_lab
    run = %dlfb_train MODEL DATA [options]

    run = %dlfb_train DATA --step train_step --state state [options]

MODEL   a Flax linen or nnx module, a Flax TrainState, an Equinox module, a Keras model, a PyTorch module,
        or (apply, params) for a function apply(params, x)
DATA    (x, y) of arrays, a dict of arrays, a pandas DataFrame or AnnData with --target NAME, a tf.data.Dataset,
        a PyTorch Dataset or DataLoader, an iterable of batches or examples, a function that returns one for each epoch
        Both are Python expressions; one that holds spaces must stand in brackets.

%%dlfb_train MODEL DATA [options]   runs the cell's body first, and keeps its source with the run

Options
{options}

Losses     cross_entropy, binary_crossentropy, categorical_crossentropy, sparse_categorical_crossentropy;
           mse, mae, huber, kl_divergence, cosine_similarity. They take logits: end the model without an activation.
Metrics    classes: accuracy, balanced_accuracy, precision, recall, f1, mcc, auc, auprc, log_loss
           numbers: mse, rmse, mae, r2, pearson
           A known name is that metric; a function of yours of the same name is given in brackets: (auc).
           Your function's argument names say what it gets: y_pred classes or values, y_score probabilities, logits.

Examples
    run = %dlfb_train MLP((32, 1)) (x, y) --valid 0.2 --scale
    run = %dlfb_train model cells --target diagnosis --valid 0.2 --test 0.2 --epochs 60
    run = %dlfb_train state (x, y) --batch-size full --epochs 150
    run = %dlfb_train (apply, params) (x, y) --loss mse --optimizer sgd --lr 0.1 --metrics mae,r2
    run = %dlfb_train model (x, y) --valid 0.2 --early-stop auc:10 --schedule cosine --warmup 0.1
    run = %dlfb_train model (x, y) --valid 0.2 --seeds 8
    run = %dlfb_train model (x, y) --valid 0.2 --sweep lr=1e-4,1e-3,1e-2
    run = %dlfb_train model (x, y) --valid 0.2 --resume mlp-20260105-101500-3f2a
    run = %dlfb_train images --step train_step --eval-step eval_step --state state --valid 0.1

Afterwards
    run.history            losses and scores, a DataFrame indexed by step
    run.predict(x)         class names, or values
    run.evaluate("test")   scores on the rows that training never touched; looks are counted
    run.plot()  run.cite()  run.params  run.state
    run.checkpoints  run.resume()   states that were saved; go on with a run that was stopped
    dlfb_lab.runs()  dlfb_lab.open_run(id)

Interrupt the kernel to stop and keep what there is; interrupt twice within 2 s to raise.
"""


def help_text() -> str:
    """Returns the magic's help, its options from the table that the code uses."""
    rows = [(f"--{o.name} {o.meta}".rstrip(), o.help) for o in (*TRAIN, INTO)]
    width = max(len(left) for left, _ in rows)
    return HELP.format(options="\n".join(f"    {left:<{width}}  {right}" for left, right in rows))


@magics_class
class TrainMagic(Magics):
    """Holds the magic, as IPython wants it."""

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def dlfb_train(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Run | None:
        """Replaced below by the help."""
        shell: Any = self.shell
        words, found = parse(line.rstrip().removesuffix(";"), (*TRAIN, INTO))
        wanted = 1 if "step" in found else 2
        if len(words) != wanted:
            raise OptionError(_positional_problem(words, wanted))
        if cell is not None:
            result = shell.run_cell(cell, store_history=False)
            if not result.success:
                return None
        # In the body of a function the names of that body come first.
        namespace = {**shell.user_ns, **(local_ns or {})}

        def evaluated(text: str) -> Any:
            return evaluate(text, namespace)

        model, data = (None, evaluated(words[0])) if wanted == 1 else (evaluated(words[0]), evaluated(words[1]))
        table = data[0] if isinstance(data, tuple | list) and data else data
        columns = [str(c) for c in (table.keys() if hasattr(table, "keys") else ())]
        into = found.pop("into", None)
        known = known_names()
        options: dict[str, Any] = {
            o.keyword: text if isinstance(text, bool) else value_of(o, text, evaluated, columns, known.get(o.name, ()))
            for o in TRAIN
            if (text := found.get(o.keyword)) is not None
        }

        from dlfb_lab import api
        from dlfb_lab.assemble import TrainRequest

        source = f"%dlfb_train {line}" if cell is None else f"%%dlfb_train {line}\n{cell}"
        run = api.train_request(TrainRequest(model=model, data=data, source=source, **options))
        if into is not None:
            shell.user_ns[str(into)] = run
        return run


def known_names() -> dict[str, Collection[str]]:
    """Returns the names that an option knows, by option; they win over variables of the same name."""
    from dlfb_lab.engine import losses, metrics, optimizers, schedules

    return {
        "loss": losses.NAMES,
        "metrics": (*metrics.METRICS, *metrics.ALIASES),
        "optimizer": optimizers.names(),
        "batch-size": ("full",),
        "eval-batch-size": ("full",),
        "lr": ("find",),
        "schedule": schedules.SHAPES,
        "decay-mask": ("all", "weights"),
        "class-weights": ("balanced",),
        "devices": ("all",),
    }


def _positional_problem(words: list[str], wanted: int) -> str:
    if wanted == 1:
        said = ", ".join(words) or "none"
        return (
            f"With a step of your own the data stand alone; found {len(words)} expressions: {said}. "
            "Say: %dlfb_train DATA --step train_step --state state."
        )
    if not words:
        return "What is to be trained, and on what? Say: %dlfb_train MODEL DATA, for example %dlfb_train model (x, y)."
    if len(words) == 1:
        return f"`{words[0]}` is the model; the data are missing. Say: %dlfb_train {words[0]} (x, y)."
    return (
        f"Two expressions are expected, the model and the data; found {len(words)}: {', '.join(words)}. "
        "Put an expression that holds spaces in brackets."
    )


TrainMagic.dlfb_train.__doc__ = help_text()

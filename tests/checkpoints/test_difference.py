"""How two checkpoints differ, and what that takes of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.checkpoints import difference
from dlfb_lab.checkpoints.arrays import save
from dlfb_lab.events import RunStarted

RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "now/state/params/Dense_0/kernel": RNG.normal(size=(40, 30)).astype(np.float32),
    "now/state/params/Dense_0/bias": np.zeros(30, np.float32),
    "now/state/params/half": np.asarray(jnp.ones(3, jnp.bfloat16)),
    "now/state/extra/batch_stats/mean": np.ones(5, np.float32),
    "now/state/opt_state/0/count": np.int32(7).reshape(()),
    "now/state/opt_state/0/mu/Dense_0/kernel": RNG.normal(size=(40, 30)),
    "now/state/params/empty": np.zeros((0, 3), np.float32),
    "now/order": np.arange(9),
}


def begun(store: Path, name: str) -> Path:
    """Returns the folder of a run that has only begun."""
    kept = journal.create(store, name)
    values: dict[str, Any] = {
        **{"step": 0, "run_id": kept.path.name, "name": name, "task": "own", "task_sentence": "", "classes": []},
        **{"model": name, "model_kind": "linen", "parameter_count": 1, "steps_total": 9, "steps_per_epoch": 1},
        **{"batch_size": 1, "evaluations_total": 0, "monitor": "", "monitor_mode": "min", "rows": {}},
        **{"split_hash": "", "settings": {}, "versions": {}, "device": ""},
    }
    kept.put(RunStarted(**values))
    kept.close()
    return kept.path


def compared(tmp_path: Path, **changed: Any) -> Any:
    """Compares `ARRAYS` with arrays of which some are others; None for one that is left out."""
    run = begun(tmp_path, "one")
    others = {**ARRAYS, **{f"now/state/{name}": array for name, array in changed.items()}}
    save(run, 1, ARRAYS)
    save(run, 2, {name: array for name, array in others.items() if array is not None})
    return dlfb_lab.diff(f"{run.name}@1", f"{run.name}@2", store=tmp_path)


def test_what_is_equal_is_said_plainly(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert repr(found).endswith("are equal: all 7 arrays have the same numbers.")
    assert len(found.table) == 7 and (found.table["relative"] == 0).all()


def test_structure_comes_first_then_the_largest_changes(tmp_path: Path) -> None:
    kernel, half = ARRAYS["now/state/params/Dense_0/kernel"], ARRAYS["now/state/params/half"]
    found = compared(
        tmp_path,
        **{
            "params/Dense_0/kernel": kernel * np.float32(1.5),
            "params/Dense_0/bias": np.zeros(31, np.float32),
            "params/half": half.astype(np.float32),
            "params/new": np.ones(2),
            "extra/batch_stats/mean": None,
            "opt_state/0/mu/Dense_0/kernel": np.full((40, 30), np.nan),
        },
    )
    rows = {row["leaf"]: row for _, row in found.table.iterrows()}
    assert [row["leaf"] for _, row in found.table.iterrows()][:3] == ["Dense_0/bias", "new", "half"]
    assert rows["Dense_0/bias"]["structure"] == "shape (30,) → (31,)"
    assert rows["new"]["structure"] == "only in the second"
    assert rows["batch_stats/mean"]["structure"] == "only in the first"
    assert rows["half"]["structure"] == "dtype bfloat16 → float32" and rows["half"]["relative"] == 0
    assert rows["Dense_0/kernel"]["relative"] == pytest.approx(0.5, rel=1e-6)
    assert rows["Dense_0/kernel"]["largest"] == pytest.approx(np.abs(kernel).max() / 2, rel=1e-6)
    mu = found.table[found.table["group"] == "optimizer"].set_index("leaf").loc["0/mu/Dense_0/kernel"]
    assert np.isnan(mu["relative"]) and mu["not_finite_second"] == 1200
    assert "parameters: 5 arrays, relative change 0.499 in all" in repr(found)
    assert "1200 not finite in the second" in repr(found).replace(",", "")
    assert found._repr_html_().count("<tr>") == 9


def test_numbers_are_those_of_numpy_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "BLOCK", 7)
    before = ARRAYS["now/state/params/Dense_0/kernel"]
    after = before + RNG.normal(size=before.shape).astype(np.float32)
    found = compared(tmp_path, **{"params/Dense_0/kernel": after, "params/Dense_0/bias": np.ones(30, np.float32)})
    rows = found.table[found.table["group"] == "parameters"].set_index("leaf")
    wide = before.astype(np.float64), after.astype(np.float64)
    expected = np.linalg.norm(wide[1] - wide[0]) / np.linalg.norm(wide[0])
    assert rows.loc["Dense_0/kernel", "relative"] == pytest.approx(expected, rel=1e-12)
    assert rows.loc["Dense_0/bias", "relative"] == np.inf and rows.loc["Dense_0/bias", "largest"] == 1


MEASURED = """
import json, resource, sys
sys.path.insert(0, "tests/checkpoints")
import pathlib, numpy as np, jax, orbax.checkpoint
import dlfb_lab
from dlfb_lab.checkpoints.arrays import save
from tests.checkpoints.test_difference import begun
store, leaves, numbers = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
run = begun(store, "large")
if sys.argv[4] == "save":
    base = np.random.default_rng(0).normal(size=numbers).astype(np.float32)
    arrays = {f"now/state/params/layer{i:02d}": base + np.float32(i) for i in range(leaves)}
    for step in (1, 2):
        save(run, step, arrays)
        arrays = {name: array * np.float32(1.5) for name, array in arrays.items()}
    print(run)
else:
    import pandas, dlfb_lab.api
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = dlfb_lab.diff(sys.argv[4] + "@1", sys.argv[4] + "@2")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([before / 1024, after / 1024, len(found.table), float(found.table["relative"].max())]))
"""


def in_process(*arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_it_holds_a_few_leaves_and_not_two_states(tmp_path: Path) -> None:
    leaves, leaf_mb = 24, 8
    run = in_process(tmp_path, leaves, leaf_mb * 2**18, "save")
    before, after, count, largest = json.loads(in_process(tmp_path, leaves, 0, run))
    assert count == leaves and largest == pytest.approx(0.5)
    assert after - before < leaves * leaf_mb, "less than one of both states"

"""What importing the package does not import. Each claim is shown in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "pandas", "numpy", "sklearn", "anywidget"}
GUESTS = {"keras", "tensorflow", "torch"}
SERVER = {"jupyterlab", "jupyter_server"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded once `code` has run in a new interpreter."""
    tail = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_is_light() -> None:
    assert modules_after("import dlfb_lab") & (HEAVY | GUESTS | SERVER | {"IPython"}) == set()


def test_loading_the_extension_is_light() -> None:
    shell = "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n"
    before = modules_after(shell)
    loaded = modules_after(
        shell
        + "shell.run_line_magic('load_ext', 'dlfb_lab')\n"
        + "assert any(name.startswith('dlfb_') for name in shell.magics_manager.magics['line'])\n"
    )
    assert (loaded - before) & (HEAVY | GUESTS | SERVER) == set()
    assert loaded & {"jax", "flax", "matplotlib", "pandas", "numpy", "anywidget"} == set()


def test_the_base_package_needs_no_jupyterlab() -> None:
    """Every public name resolves where jupyterlab and jupyter_server cannot be imported."""
    code = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {SERVER!r}:
            raise ModuleNotFoundError(f'{{name}} is blocked', name=name)

sys.meta_path.insert(0, Blocked())
import dlfb_lab
for name in dlfb_lab.__all__:
    getattr(dlfb_lab, name)
"""
    assert modules_after(code) & SERVER == set()

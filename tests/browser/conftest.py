"""A real JupyterLab server and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from .server import CHROMIUM_FLAGS, JupyterLab

ROOT = Path(__file__).parents[2]
REFERENCES = Path(__file__).parent / "screenshots"
REJECTED = ROOT / "build" / "screenshots"

# A busy machine of two cores can need more than playwright's five seconds to draw a page that is just being opened.
expect.set_options(timeout=30_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    found = subprocess.run([ROOT / "scripts" / "chromium"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


# One browser a module, not a session: while it runs, playwright keeps an event loop going in this thread,
# and the tests of other folders start their own.
@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def jupyter_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """One server for all tests that leave it as it is."""
    lab = JupyterLab(tmp_path_factory.mktemp("jupyter"))
    lab.start()
    yield lab
    lab.stop()


@pytest.fixture(scope="session")
def widget_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """A server whose pages know the widgets only, as Colab and VS Code do."""
    lab = JupyterLab(tmp_path_factory.mktemp("jupyter"))
    config = lab.settings.parent / "config" / "labconfig" / "page_config.json"
    config.write_text(json.dumps({"disabledExtensions": {"dlfb-lab": True}}))
    lab.start()
    yield lab
    lab.stop()


@pytest.fixture
def own_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., JupyterLab]]:
    """A function that starts a server for one test, with further command line options."""
    labs = []

    def start(*options: str) -> JupyterLab:
        labs.append(JupyterLab(tmp_path_factory.mktemp("jupyter"), *options))
        labs[-1].start()
        return labs[-1]

    yield start
    for lab in labs:
        lab.stop()


@dataclass(kw_only=True)
class NotebookPage:
    """One notebook in a browser.

    Attributes:
        page: the playwright page, for whatever has no helper here.
        path: the notebook's file.
        console_errors: what the page wrote to the console as an error, and what it threw.
    """

    page: Page
    path: Path
    console_errors: list[str] = field(default_factory=list)

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def output_text(self, index: int) -> str:
        return self.output(index).inner_text().strip()

    def run_cell(self, index: int, *, wait: bool = True) -> None:
        """Run one cell; with `wait`, return when it is done and the kernel is idle."""
        self.page.evaluate(
            """async ([index, wait]) => {
                const app = window.jupyterapp;
                app.shell.currentWidget.content.activeCellIndex = index;
                app.shell.currentWidget.content.deselectAll();
                const done = app.commands.execute('notebook:run-cell');
                if (wait) await done;
            }""",
            [index, wait],
        )
        if wait:
            self.wait_idle()

    def wait_idle(self, limit_s: float = 60) -> None:
        self.page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=limit_s * 1000,
        )

    def wait_open(self) -> None:
        self.page.wait_for_function("window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 0")

    def reload(self) -> None:
        """Load the page anew, and return when the notebook is shown."""
        self.page.reload()
        self.wait_open()

    def save(self) -> None:
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def screenshot(self, name: str, of: Locator | None = None, *, tolerance: float = 0.1) -> None:
        """Compare a picture of the page, or of a part of it, with screenshots/NAME.png."""
        png = (of or self.page).screenshot(animations="disabled", caret="hide")
        assert_looks_like_reference(png, name, tolerance=tolerance)


@pytest.fixture
def open_notebook(
    chromium: Browser, jupyter_lab: JupyterLab, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """A function that writes a notebook (or takes the path of one), opens it in a new profile, and waits for it."""
    opened: list[tuple[NotebookPage, JupyterLab]] = []

    def open_(
        notebook: nbformat.NotebookNode | Path, *, lab: JupyterLab = jupyter_lab, kernel: bool = True
    ) -> NotebookPage:
        if isinstance(notebook, Path):
            path = notebook
        else:
            path = lab.folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', request.node.name)}-{len(opened)}.ipynb"
            # Without a kernel's name JupyterLab asks the user for one.
            notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3"})
            nbformat.write(notebook, path)
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        shown = NotebookPage(page=page, path=path)
        opened.append((shown, lab))
        page.on(
            "console",
            lambda message: (
                shown.console_errors.append(f"{message.text} {message.location.get('url', '')}")
                if message.type == "error"
                else None
            ),
        )
        page.on("pageerror", lambda error: shown.console_errors.append(str(error)))
        page.goto(f"{lab.url}/lab/tree/{path.name}?token={lab.token}&reset")
        shown.wait_idle() if kernel else shown.wait_open()
        return shown

    yield open_
    labs = {lab for _, lab in opened}
    for shown, _ in opened:
        shown.page.context.close()
    for lab in labs:
        shutil.rmtree(lab.settings, ignore_errors=True)
        with contextlib.suppress(OSError):  # a test may have stopped its server
            for session in json.loads(lab.request("GET", "api/sessions")):
                lab.request("DELETE", f"api/sessions/{session['id']}")


def assert_looks_like_reference(png: bytes, name: str, *, tolerance: float) -> None:
    """Fail where more than `tolerance` of what is drawn differs from screenshots/NAME.png.

    DLFB_UPDATE_SCREENSHOTS=1 makes the picture the new reference instead. A rejected picture, and one that
    shows the differing places in black, are left in build/screenshots.
    """
    reference = REFERENCES / f"{name}.png"
    if os.environ.get("DLFB_UPDATE_SCREENSHOTS"):
        reference.parent.mkdir(exist_ok=True)
        reference.write_bytes(png)
        return
    REJECTED.mkdir(parents=True, exist_ok=True)
    rejected = REJECTED / f"{name}.png"
    rejected.write_bytes(png)
    remedy = f"The picture is {rejected}; DLFB_UPDATE_SCREENSHOTS=1 makes it the reference."
    if not reference.exists():
        pytest.fail(f"There is no {reference}. {remedy}")
    actual = coarse_pixels(Image.open(io.BytesIO(png)))
    expected = coarse_pixels(Image.open(reference))
    if actual.shape != expected.shape:
        pytest.fail(f"{name} has another size than its reference. {remedy}")
    different = np.abs(actual - expected).max(axis=-1) > 16
    # Of the drawn places, not of all: a small text on a large page would never count otherwise.
    drawn = np.abs(np.stack([actual, expected]) - expected[0, 0]).max(axis=(0, -1)) > 16
    share = different.sum() / max(drawn.sum(), 1)
    if share > tolerance:
        Image.fromarray(np.where(different, 0, 255).astype(np.uint8)).save(REJECTED / f"{name}-diff.png")
        pytest.fail(f"{share:.1%} of what {name} draws differs, {tolerance:.1%} may. {remedy}")
    rejected.unlink()


def coarse_pixels(picture: Image.Image) -> npt.NDArray[np.int16]:
    """Means over 4 × 4 pixels, shape [height, width, 3]: what antialiasing draws differently evens out."""
    return np.asarray(picture.convert("RGB").reduce(4)).astype(np.int16)

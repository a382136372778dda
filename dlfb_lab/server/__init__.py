"""The Jupyter server extension: hands out journals and device figures, and passes requests on."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Adds the routes; a Jupyter server calls this when it starts."""
    from dlfb_lab.server.handlers import routes
    from dlfb_lab.server.service import Service
    from dlfb_lab.version import __version__

    service = Service(Path(serverapp.root_dir))
    application: Any = serverapp.web_app
    application.add_handlers(".*$", routes(serverapp.base_url, service))
    # A thread that asks a driver must not do so while the process ends.
    atexit.register(service.close)
    serverapp.log.info(f"dlfb_lab {__version__} shows the runs of your notebooks and what this machine is doing.")

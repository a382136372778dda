"""How a run is shown. Each live view is a sink."""

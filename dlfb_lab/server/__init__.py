"""The Jupyter server extension: hands out journals and device figures, and passes requests on."""

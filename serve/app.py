"""The entry point of `serve run serve.app:app model=tiny`; the code is the package's, so that a cluster has it too."""

from fettle.serving.deploy import app

__all__ = ["app"]

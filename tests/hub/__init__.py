"""A Hugging Face Hub on this machine, for tests, the demo and benchmarks.

    with Hub() as hub:
        hub.add_repo("org/name", directory)
        snapshot_download("org/name", endpoint=hub.endpoint)

``faults`` has what can go wrong, ``factory`` makes small models, ``python3 -m tests.hub`` runs it by itself.
"""

from __future__ import annotations

from .hub import Hub
from .repository import Commit, Repository

__all__ = ["Commit", "Hub", "Repository"]

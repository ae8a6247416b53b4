# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every module on a store in which someone who may write there has planted something: nobody is led out of it."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._activation import Activation
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial, journal_name
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import (
    model_activation,
    model_generation,
    model_prune,
    model_store_info,
    model_verify,
)
from tests.unit.modules.conftest import Run
from tests.unit.stores import MINILM, NEVER, NO_HUB, SMALL, listing, models_of, serve, sha256_of, stage

BLOB = sha256_of(MINILM["vocab.txt"])
PARTIAL = sha256_of(b"partial")
PLACES = [
    "blobs",
    f"blobs/{BLOB[:2]}",
    f"blobs/{BLOB[:2]}/{BLOB}",
    f"blobs/{BLOB[:2]}/{BLOB}.blocks",
    "partial",
    f"partial/{PARTIAL}",
    f"partial/{journal_name(PARTIAL)}",
    "generations",
    "generations/1",
    "generations/1/.generation.json",
    "generations/1/minilm",
    "generations/1/minilm/1_Pooling",
    "generations/1/minilm/vocab.txt",
    "generations/2",
    "current",
    "activation.json",
    "ledger.jsonl",
    ".lock",
]

HUB = {"endpoint": NO_HUB.endpoint, "retries": 0, "stall_timeout": 1, "lock_timeout": 0}
OTHER = [model.to_json() for model in models_of({"other": MINILM})]
CALLS: list[tuple[ModuleType, dict[str, Any]]] = [
    (model_store_info, {}),
    (model_activation, {"generation": 2, "previous_generation": 1}),
    (model_activation, {"state": "absent"}),
    (model_verify, HUB),
    (model_verify, {**HUB, "repair": True}),
    (model_verify, {**HUB, "repair": True, "mode": "quick"}),
    (model_prune, {"keep": 1, "partial_max_age": 0, "lock_timeout": 0}),
    (model_generation, {**HUB, "models": OTHER, "state": "staged"}),
    (model_generation, {**HUB, "generation": "2"}),
    (model_generation, {**HUB, "generation": "2", "state": "absent"}),
]


def content_of(directory: Path) -> dict[str, Any]:
    """Return what is in a directory: inodes, modes, owners and contents. How many names a file has does not count."""
    return {name: (entry[:4], entry[-1]) for name, entry in listing(directory).items()}


@pytest.fixture
def full(store: Store) -> Store:
    """A store with something in every place."""
    serve(store, SMALL)
    stage(store, {"minilm": MINILM})
    with store.partials(create=True) as partials:
        partial = Partial(partials, PARTIAL, 7)
        partial.record(0, PARTIAL)
        partial.close()
    with store.writer("test", 0, NEVER):
        pass
    Activation(2, 1).write(store.root)
    return store


def plant(place: Path, outside: Path, kind: str) -> bool:
    """Plant something, unless a module has already put something of its own there; return whether it is planted."""
    if place.is_symlink() or place.is_fifo():
        place.unlink()
    if place.exists():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(place)
    else:
        place.symlink_to(outside / kind)
    return True


@pytest.mark.parametrize("kind", ["the real thing", "directory", "nothing", "FIFO"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("full")
def test_nobody_is_led_out(run: Run, root: Path, tmp_path: Path, place: str, kind: str) -> None:
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "directory" / "file").write_bytes(b"precious")
    (root / place).rename(outside / "the real thing")
    before = content_of(outside)
    for module, arguments in CALLS:
        for check in (True, False):
            if plant(root / place, outside, kind):
                result = run(module, root=str(root), check=check, **arguments)
                assert len(result.get("msg", "")) < 600
                assert content_of(outside) == before

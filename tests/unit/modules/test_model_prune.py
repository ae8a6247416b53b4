# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_prune: it says beforehand what it frees, and frees that."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial, journal_name
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import model_prune
from tests.unit.modules.conftest import Run
from tests.unit.stores import MINILM, SMALL, allocated_bytes, listing, put_blob, serve, sha256_of, stage

DAY = 24 * 60 * 60


@pytest.fixture
def full(store: Store) -> Store:
    """A store with four generations of which the third is served, an unused blob and two partial files."""
    for tree in (SMALL, {"minilm": MINILM}, {"llama": SMALL["llama"]}):
        serve(store, tree)
    stage(store, {"minilm": {**MINILM, "new": b"5" * 20_000}})
    put_blob(store, b"6" * 30_000)
    with store.partials(create=True) as partials:
        for content, age in ((b"7" * 40_000, 10 * DAY), (b"8" * 40_000, 1 * DAY)):
            partial = Partial(partials, sha256_of(content), len(content))
            partial.write(0, memoryview(content))
            partial.record(0, sha256_of(content))
            os.fsync(partial.descriptor)
            partial.close()
            for name in (sha256_of(content), journal_name(sha256_of(content))):
                os.utime(Path(store.path, "partial", name), (time.time() - age, time.time() - age))
    return store


@pytest.mark.parametrize(
    ("arguments", "generations", "blobs", "partials"),
    [
        ({}, [1], 1, 1),
        ({"keep": 1}, [1, 2], 1, 1),
        ({"keep": 3}, [], 1, 1),
        ({"keep": 10**9, "partial_max_age": 30}, [], 1, 0),
        ({"partial_max_age": 0}, [1], 1, 2),
        ({"partial_max_age": 0.5}, [1], 1, 2),
    ],
    ids=str,
)
def test_check_mode_says_what_is_done_and_done_is_once(
    run: Run, root: Path, full: Store, arguments: dict[str, Any], generations: list[int], blobs: int, partials: int
) -> None:
    before, size = listing(root), allocated_bytes(root)
    checked = run(model_prune, root=str(root), check=True, **arguments)
    assert listing(root) == before
    done = run(model_prune, root=str(root), **arguments)
    for result in (checked, done):
        assert result["changed"]
        assert (result["generations"], result["blobs"], result["partials"]) == (generations, blobs, partials)
    assert checked["freed_bytes"] == done["freed_bytes"] > 0
    assert size - allocated_bytes(root) == done["freed_bytes"]
    event = Ledger(full.root).events()[-1]
    assert (event["event"], event["generations"]) == ("pruned", generations)
    after = {name: entry for name, entry in listing(root).items() if name != ".lock"}
    for check in (True, False):
        again = run(model_prune, root=str(root), check=check, **arguments)
        assert not again["changed"]
        assert (again["generations"], again["blobs"], again["partials"], again["freed_bytes"]) == ([], 0, 0, 0)
    assert {name: entry for name, entry in listing(root).items() if name != ".lock"} == after
    assert Generations(full).current() == 3
    assert {4, 3} <= set(Generations(full).numbers())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep: expected at least 1, found 0"),
        ({"keep": -1}, "keep: expected at least 1, found -1"),
        ({"keep": "all"}, "keep"),
        ({"partial_max_age": -0.5}, "partial_max_age: expected at least 0 days, found -0.5"),
        ({"partial_max_age": "old"}, "partial_max_age"),
    ],
    ids=str,
)
def test_wrong_arguments(run: Run, root: Path, full: Store, arguments: dict[str, Any], message: str) -> None:
    before = listing(root)
    for check in (True, False):
        result = run(model_prune, root=str(root), check=check, **arguments)
        assert message in result["msg"]
    assert listing(root) == before


def test_no_store(run: Run, root: Path) -> None:
    for check in (True, False):
        result = run(model_prune, root=str(root), check=check)
        assert not result["changed"]
        assert (result["generations"], result["blobs"], result["freed_bytes"]) == ([], 0, 0)
    assert not root.exists()


def test_link_that_someone_replaced_is_no_reason_to_remove_what_is_served(run: Run, root: Path, full: Store) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to("/opt/models/generations/3")
    for check in (True, False):
        result = run(model_prune, root=str(root), keep=1, check=check)
        assert "current is not a link to one of the store's generations" in result["msg"]
    assert Generations(full).numbers() == [1, 2, 3, 4]

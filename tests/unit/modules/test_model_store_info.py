# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_store_info: what it tells of a store, whatever state that is in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import model_store_info, model_verify
from tests.unit.modules.conftest import Run
from tests.unit.stores import (
    MINILM,
    SMALL,
    allocated_bytes,
    listing,
    models_of,
    serve,
    served_path,
    sha256_of,
    stage,
)


def test_no_store(run: Run, root: Path) -> None:
    for check in (True, False):
        result = run(model_store_info, root=str(root), check=check)
        assert not result.get("changed")
        assert (result["exists"], result["current"], result["generations"]) == (False, None, [])
        assert (result["partials"], result["blobs"], result["disk_bytes"], result["free_bytes"]) == ([], 0, 0, None)
    assert not root.exists()


def test_empty_store(run: Run, root: Path, store: Store) -> None:
    result = run(model_store_info, root=str(root))
    assert (result["exists"], result["current"], result["generations"]) == (True, None, [])
    disk = os.statvfs(root)
    assert abs(result["free_bytes"] - disk.f_bavail * disk.f_frsize) < 1 << 30


def test_store_with_everything(run: Run, root: Path, store: Store) -> None:
    serve(store, SMALL)
    stage(store, {"minilm": MINILM})
    run(model_verify, root=str(root), generation=2)
    content = b"7" * 40_000
    with store.partials(create=True) as partials:
        partial = Partial(partials, sha256_of(content), len(content))
        partial.write(0, memoryview(content[:5_000]))
        partial.record(0, sha256_of(content))
        os.fsync(partial.descriptor)
        partial.close()
    before = listing(root)
    result = run(model_store_info, root=str(root))
    # Others write to the same disk meanwhile.
    checked = {**run(model_store_info, root=str(root), check=True), "free_bytes": result["free_bytes"]}
    assert checked == result
    assert listing(root) == before

    assert (result["exists"], result["current"]) == (True, 1)
    first, second = result["generations"]
    assert (first["generation"], first["current"], first["served"]) == (1, True, True)
    assert (second["generation"], second["current"], second["served"]) == (2, False, False)
    minilm, llama = first["models"]
    model = models_of(SMALL)[0]
    verified = minilm.pop("last_verified")
    assert minilm == {
        "name": "minilm",
        "repo_id": "acme/minilm",
        "commit": model.commit,
        "path": f"{root}/generations/1/minilm",
        "files": len(MINILM),
        "bytes": sum(map(len, MINILM.values())),
        "derived": [],
        "derived_bytes": 0,
    }
    assert verified.endswith("+00:00")
    assert llama["last_verified"] is None
    assert Path(minilm["path"], "vocab.txt").read_bytes() == MINILM["vocab.txt"]

    (partial_file,) = result["partials"]
    path = root / "partial" / sha256_of(content)
    assert partial_file == {
        "sha256": path.name,
        "size": len(content),
        "disk_bytes": path.stat().st_blocks * 512,
    }
    assert result["blobs"] == len({content for files in SMALL.values() for content in files.values()})
    blobs = [file for file in (root / "blobs").rglob("*") if file.is_file()]
    assert result["disk_bytes"] == sum(file.stat().st_blocks * 512 for file in [*blobs, path])
    assert result["disk_bytes"] <= allocated_bytes(root)


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        (None, None),
        ('{"generation": 2, "previous_generation": 1}', (2, 1)),
        ('{"generation": 1, "previous_generation": null}', (1, None)),
        ('{"generation": 1.5, "previous_generation": "1"}', (None, None)),
        ('{"generation": 2}', (None, None)),
        ("[2]", (None, None)),
        ('{"gener', (None, None)),
    ],
)
def test_a_run_that_died_between_its_hooks(
    run: Run, root: Path, store: Store, noted: str | None, expected: tuple[int | None, int | None] | None
) -> None:
    if noted is not None:
        (root / "activation.json").write_text(noted, encoding="utf-8")
    found = run(model_store_info, root=str(root))["activation"]
    assert found == (expected and dict(zip(("generation", "previous_generation"), expected)))


@pytest.mark.parametrize(
    "damage", ["manifest", "ledger", "ledger of another kind", "current is lost", "generation is lost", "staging"]
)
def test_damaged_store_is_told_as_far_as_it_can_be(run: Run, root: Path, store: Store, damage: str) -> None:
    serve(store, SMALL)
    serve(store, {"minilm": MINILM})
    numbers, current = [1, 2], 2
    if damage == "manifest":
        served_path(store, ".generation.json", 2).write_bytes(b"[" * 100_000)
    elif damage.startswith("ledger"):
        (root / "ledger.jsonl").write_bytes(b"[" * 100_000 + b'\n{"event": "verified", "sha256": 1}\n\xff')
    elif damage == "current is lost":
        (root / "current").unlink()
        current = None
    elif damage == "generation is lost":
        served_path(store, "", 2).rename(root / "away")
        numbers = [1]
    else:
        (root / "generations" / ".new-3").mkdir()
    result = run(model_store_info, root=str(root))
    assert [generation["generation"] for generation in result["generations"]] == numbers
    assert result["current"] == current
    if damage == "manifest":
        second = result["generations"][1]
        assert (second["current"], second["served"], second["lock_digest"], second["models"]) == (True, False, None, [])


def test_link_that_someone_replaced(run: Run, root: Path, store: Store) -> None:
    (root / "current").mkdir()
    assert "current is not a link to one of the store's generations" in run(model_store_info, root=str(root))["msg"]

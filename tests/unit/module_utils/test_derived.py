# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Derived files in a manifest and in a generation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._derived import Derived, parse_derived
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._inspect import inspect
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._prune import find_garbage, remove_garbage
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._verify import examine, repair
from tests.unit.stores import (
    MINILM,
    NEVER,
    NO_HUB,
    SMALL,
    flip,
    models_of,
    put_blob,
    served_path,
    sha256_of,
    stage,
    work_on,
)

WEIGHTS, LAYERS = b"int8" * 5000, b"<net/>"
MODELS = models_of({"minilm": MINILM})
MADE = Derived(
    "minilm",
    "a" * 64,
    (
        File("openvino/openvino_model.bin", len(WEIGHTS), sha256_of(WEIGHTS)),
        File("openvino/openvino_model.xml", len(LAYERS), sha256_of(LAYERS)),
    ),
    {"openvino": "2026.4.1"},
    0.9995,
)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.create(str(tmp_path / "store")) as store:
        yield store


def build(store: Store) -> Manifest:
    """Make a generation with derived files, after one without them; return its manifest."""
    stage(store, {"minilm": MINILM})
    put_blob(store, WEIGHTS)
    put_blob(store, LAYERS)
    return Generations(store).manifest(Generations(store).build(MODELS, (MADE,)))


def test_a_manifest_keeps_them() -> None:
    manifest = Manifest(4, MODELS, derived=(MADE,))
    assert Manifest.load(manifest.dump(), 4) == manifest
    assert manifest.digest == Manifest(4, MODELS).digest
    assert [file.path for _model, file in manifest.files()] == [*MINILM, *(file.path for file in MADE.files)]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"model": []},
        {"key": "short"},
        {"packages": None},
        {"cosine": "1"},
        {"files": []},
        {"files": [{"path": "../../etc/passwd", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "vocab.txt", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "vocab.txt/model.bin", "size": 1, "sha256": "0" * 64}]},
        {"more": 1},
    ],
)
def test_what_a_manifest_may_not_say(change: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, TypeError)):
        parse_derived([{**MADE.to_json(), **change}], MODELS)
    with pytest.raises(InvalidInput):
        parse_derived([MADE.to_json(), MADE.to_json()], MODELS)


def test_a_generation_links_them(store: Store) -> None:
    manifest = build(store)
    assert inspect(store, manifest).problems == ()
    assert served_path(store, "minilm/openvino/openvino_model.bin", 2).read_bytes() == WEIGHTS
    assert not served_path(store, "minilm/openvino").exists()
    assert inspect(store, Generations(store).manifest(1)).problems == ()


def test_pruning_keeps_them_while_they_are_linked(store: Store) -> None:
    generations = Generations(store)
    manifest = build(store)
    generations.activate(manifest.generation)
    remove_garbage(store, find_garbage(store, 1, 0))
    assert generations.numbers() == [2]
    assert inspect(store, manifest).problems == ()
    generations.activate(stage(store, SMALL))
    garbage = find_garbage(store, 1, 0)
    assert {sha256_of(WEIGHTS), sha256_of(LAYERS)} == set(garbage.blobs)


def test_repair_fetches_none_of_them(store: Store) -> None:
    manifest = build(store)
    flip(served_path(store, "minilm/openvino/openvino_model.bin", 2), 9)
    found = examine(store, manifest, True, None, NEVER)
    (defect,) = found.defects()
    assert (defect.file, defect.derived) == (MADE.files[0], True)
    after, downloaded = repair(store, found, NO_HUB, None, NEVER, work_on(store))  # type: ignore[arg-type]
    assert (after.defects(), downloaded) == ([defect], 0)


def test_repair_links_them_again(store: Store) -> None:
    manifest = build(store)
    served_path(store, "minilm/openvino/openvino_model.xml", 2).unlink()
    after, downloaded = repair(store, examine(store, manifest, True, None, NEVER), NO_HUB, None, NEVER, work_on(store))  # type: ignore[arg-type]
    assert (after.defects(), downloaded) == ([], 0)


def test_the_ledger_doubts_what_was_found_damaged_last(store: Store) -> None:
    ledger = Ledger(store.root)
    for event, sha256 in (("verified", "a"), ("corrupt", "a"), ("corrupt", "b"), ("verified", "b"), ("staged", "c")):
        ledger.append([{"event": event, "sha256": sha256}])
    assert ledger.doubtful() == {"a"}


def test_a_workplace_is_gone_afterwards(store: Store) -> None:
    generations = Generations(store)
    build(store)
    with generations.workplace() as place:
        status = os.fstat(place.descriptor)
        assert (status.st_mode & 0o777, status.st_uid) == (0o700, os.geteuid())
        place.write("model.bin", b"half")
        assert generations.leftovers() == [".new-work"]
        assert find_garbage(store, 9, 0).leftovers == (".new-work",)
    assert generations.leftovers() == []
    assert generations.numbers() == [1, 2]


def test_a_workplace_that_others_can_write_to_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    make = os.mkdir

    def open_to_all(name: str, mode: int, dir_fd: int) -> None:
        make(name, dir_fd=dir_fd)
        os.chmod(name, 0o777, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", open_to_all)
    with pytest.raises(StoreError, match="was replaced by someone"), Generations(store).workplace():
        pytest.fail("it was given")


def test_other_blobs_in_the_same_place_are_known(store: Store) -> None:
    manifest = build(store)
    served = served_path(store, "minilm/openvino/openvino_model.xml", 2)
    served.unlink()
    served.write_bytes(LAYERS)
    (problem,) = inspect(store, manifest).problems
    assert (problem.kind, problem.file) == ("replaced", MADE.files[1])

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pruning: what is needed stays, what is not goes, and it frees exactly what it says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial, journal_name
from ansible_collections.gpufleet.models.plugins.module_utils._prune import (
    Garbage,
    find_garbage,
    remove_garbage,
    surplus_generations,
)
from ansible_collections.gpufleet.models.plugins.module_utils._stage import activate
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from tests.unit.stores import (
    MINILM,
    SMALL,
    Tree,
    allocated_bytes,
    blob_path,
    put_blob,
    record_path,
    serve,
    served_path,
    sha256_of,
    stage,
)

WEEK = 7 * 24 * 60 * 60.0


@pytest.mark.parametrize(
    ("numbers", "history", "current", "keep", "surplus"),
    [
        # Nothing there, or nothing too much.
        ([], [], None, 1, ()),
        ([1], [1], 1, 1, ()),
        ([1, 2], [2, 1], 2, 2, ()),
        ([1, 2], [2, 1], 2, 5, ()),
        # The current one and those served before it stay.
        ([1, 2], [2, 1], 2, 1, (1,)),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], 5, 2, (1, 2, 3)),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], 5, 3, (1, 2)),
        # What was only staged before it, was rolled back from, or cannot be read is no way back.
        ([1, 2, 3, 4], [4, 3, 1], 4, 2, (1, 2)),
        ([1, 2, 3, 4], [4, 1], 4, 2, (2, 3)),
        ([1, 2, 3, 4], [4, 1], 4, 9, (2, 3)),
        # What comes after it stays: it is staged, or was rolled back from.
        ([1, 2, 3], [2, 1], 2, 1, (1,)),
        ([1, 2, 3], [1], 1, 1, ()),
        ([1, 2, 3, 4], [2, 1], 2, 1, (1,)),
        # Nobody knows which is served: the highest stay.
        ([1, 2, 3], [3, 2, 1], None, 2, (1,)),
        ([1, 2, 3, 4], [2, 1], None, 2, (1, 2)),
        ([1, 2], [], None, 3, ()),
        # The one that is served is lost.
        ([1, 2], [3, 2, 1], 3, 2, (1,)),
    ],
)
def test_surplus(
    numbers: list[int], history: list[int], current: int | None, keep: int, surplus: tuple[int, ...]
) -> None:
    assert surplus_generations(numbers, history, current, keep) == surplus


@given(st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.booleans(), st.integers(1, 10))
def test_surplus_is_never_what_is_needed(numbers: set[int], served: set[int], known: bool, keep: int) -> None:
    history = sorted(served, reverse=True)
    current = history[0] if history and known else None
    surplus = surplus_generations(sorted(numbers), history, current, keep)
    assert list(surplus) == sorted(set(surplus))
    if current is None:
        assert set(surplus) == set(sorted(numbers)[:-keep])
    else:
        assert set(surplus) == {number for number in numbers if number < current} - set(history[:keep])


def prune(store: Store, keep: int, partial_max_age: float = WEEK) -> tuple[Garbage, int]:
    """Prune a store; return what that said, and what the disk has more by its own account."""
    parent = Path(store.path).parent
    before = allocated_bytes(parent)
    garbage = find_garbage(store, keep, partial_max_age)
    assert allocated_bytes(parent) == before
    remove_garbage(store, garbage)
    return garbage, before - allocated_bytes(parent)


A: Tree = SMALL
B: Tree = {"minilm": MINILM, "llama": {"config.json": b"{}\n", "weights/model-1.safetensors": b"3" * 90_000}}
C: Tree = {"qwen": {"a/b/c/model.gguf": b"4" * 30_000, "copy.gguf": b"4" * 30_000}}


def interrupted(store: Store, content: bytes, age: float = 0) -> Path:
    """Leave what an interrupted transfer leaves behind, last written to so many seconds ago."""
    with store.partials(create=True) as partials:
        partial = Partial(partials, sha256_of(content), len(content))
        partial.write(0, memoryview(content))
        partial.record(0, "0" * 64)
        os.fsync(partial.descriptor)
        partial.close()
    path = Path(store.path, "partial", sha256_of(content))
    for file in (path, path.with_name(journal_name(path.name))):
        os.utime(file, (time.time() - age, time.time() - age))
    return path


def outside_links(store: Store) -> None:
    """Give some files another name outside of the store."""
    outside = Path(store.path).parent / "outside"
    outside.mkdir()
    os.link(blob_path(store, A["llama"]["weights/model-1.safetensors"]), outside / "of a blob")
    os.link(served_path(store, "minilm/vocab.txt"), outside / "of a served file")
    os.link(record_path(store, A["llama"]["weights/model-2.safetensors"]), outside / "of a record")


def unused_blob(store: Store) -> None:
    """Add a blob that no generation has."""
    put_blob(store, b"5" * 50_000)


def lost_blob(store: Store) -> None:
    """Lose a blob, but not its record."""
    blob_path(store, b"1" * 70_000).unlink()


def lost_record(store: Store) -> None:
    """Lose a record."""
    record_path(store, b"1" * 70_000).unlink()


def damaged_manifest(store: Store) -> None:
    """Damage a manifest."""
    served_path(store, ".generation.json").write_bytes(b"")


def foreign_files(store: Store) -> None:
    """Put files into an old generation that do not belong there."""
    tree = served_path(store, "minilm/new/directory")
    tree.mkdir(parents=True)
    (tree / "file").write_bytes(b"6" * 20_000)
    (tree / "link").symlink_to("file")
    os.sync()


def half_made(store: Store) -> None:
    """Leave what a killed build leaves behind."""
    leftover = Path(store.path, "generations", ".new-9", "minilm")
    leftover.mkdir(parents=True)
    os.link(blob_path(store, b"1" * 70_000), leftover / "model.safetensors")
    (leftover / ".generation.json").write_bytes(b"x" * 5_000)
    os.sync()


def removed_at_half(store: Store) -> None:
    """Leave what a killed removal leaves behind."""
    Path(store.path, "generations", "1").rename(Path(store.path, "generations", ".new-1"))


def relinked_at_half(store: Store) -> None:
    """Leave what a killed repair of a hard link leaves behind."""
    os.link(blob_path(store, b"1" * 70_000), Path(store.path, "generations", ".new-link"))


def partials(store: Store) -> None:
    """Leave an old and a new partial file."""
    interrupted(store, b"7" * 40_000, age=WEEK + 60)
    interrupted(store, b"8" * 40_000)


@pytest.mark.parametrize("keep", [1, 2, 9])
@pytest.mark.parametrize(
    "change",
    [
        None,
        *(outside_links, unused_blob, lost_blob, lost_record, damaged_manifest, foreign_files),
        *(half_made, removed_at_half, relinked_at_half, partials),
    ],
    ids=lambda change: getattr(change, "__name__", "nothing"),
)
def test_frees_exactly_what_it_says(store: Store, change: Callable[[Store], None] | None, keep: int) -> None:
    for tree in (A, B, C):
        serve(store, tree)
    if change:
        change(store)
    kept = {number for number in Generations(store).numbers() if number > 3 - keep}
    garbage, freed = prune(store, keep)
    assert freed == garbage.freed_bytes
    assert (freed > 0) or keep > 2
    assert Generations(store).current() == 3
    assert set(Generations(store).numbers()) <= kept
    assert find_garbage(store, keep, WEEK).empty
    served = Path(store.path, "current", "qwen")
    assert {str(path.relative_to(served)): path.read_bytes() for path in served.rglob("*.gguf")} == C["qwen"]


def test_what_no_generation_has_goes_and_the_rest_stays(store: Store) -> None:
    for tree in (A, B, C):
        serve(store, tree)
    garbage, _freed = prune(store, 2)
    assert garbage.generations == (1,)
    gone = {b"1" * 70_000, b"2" * 9}
    assert set(garbage.blobs) == {sha256_of(content) for content in gone}
    stored = {content for tree in (B, C) for files in tree.values() for content in files.values()}
    assert {name for name in store.blobs() if len(name) == 64} == {sha256_of(content) for content in stored}
    assert all(f"{sha256_of(content)}.blocks" in store.blobs() for content in stored)
    garbage, _freed = prune(store, 1)
    assert garbage.generations == (2,)
    assert {name for name in store.blobs() if len(name) == 64} == {sha256_of(b"4" * 30_000)}


def test_blob_with_another_name_outside_is_left_to_its_owner(store: Store) -> None:
    sha256 = put_blob(store, b"model")
    os.link(blob_path(store, b"model"), Path(store.path).parent / "outside")
    assert find_garbage(store, 1, WEEK).empty
    (Path(store.path).parent / "outside").unlink()
    assert find_garbage(store, 1, WEEK).blobs == (sha256,)


def test_staged_generation_and_its_blobs_stay(store: Store) -> None:
    serve(store, A)
    stage(store, B)
    assert find_garbage(store, 1, WEEK).empty


def test_journal_that_was_written_to_keeps_its_partial_file(store: Store) -> None:
    path = interrupted(store, b"7" * 40_000, WEEK)
    os.utime(path.with_name(journal_name(path.name)))
    assert find_garbage(store, 1, 60).empty


@pytest.mark.parametrize("lost", ["file", "journal"])
def test_what_is_left_of_a_partial_file_goes_too(store: Store, lost: str) -> None:
    path = interrupted(store, b"7" * 40_000, WEEK)
    (path if lost == "file" else path.with_name(journal_name(path.name))).unlink()
    garbage, freed = prune(store, 1, 60)
    assert garbage.partials == (path.name,)
    assert freed == garbage.freed_bytes > 0
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("age", "limit", "goes"),
    # A clock that was set back leaves files from the future.
    [(0, 60, False), (100, 60, True), (100, 200, False), (0, 0, True), (-3600, 60, False), (-3600, 0, True)],
)
def test_partial_files_go_by_their_age(store: Store, age: float, limit: float, goes: bool) -> None:
    path = interrupted(store, b"7" * 40_000, age)
    garbage, freed = prune(store, 1, limit)
    assert garbage.partials == ((path.name,) if goes else ())
    assert freed == garbage.freed_bytes
    assert path.exists() is not goes
    assert path.with_name(journal_name(path.name)).exists() is not goes


def test_foreign_entries_stay_and_do_no_harm(store: Store, tmp_path: Path) -> None:
    serve(store, A)
    (tmp_path / "victim").write_bytes(b"precious")
    linked, misplaced, sha256 = "ab" * 32, "cd" * 32, "ef" * 32
    foreign = ["README", "blobs/README", "blobs/ab/notes.txt", "partial/README", "generations/README"]
    foreign += [f"blobs/ab/{misplaced}", f"blobs/ef/{sha256}.tmp", f"partial/{sha256}.tmp", f"partial/{sha256}x"]
    for place in foreign:
        path = Path(store.path, place)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    Path(store.path, "blobs", "ab", linked).symlink_to(tmp_path / "victim")
    remove_garbage(store, find_garbage(store, 1, 0))
    assert find_garbage(store, 1, 0).empty
    assert all(Path(store.path, place).exists() for place in foreign if misplaced not in place)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_empty_store(store: Store) -> None:
    assert find_garbage(store, 1, 0).empty


def test_after_a_rollback_what_was_rolled_back_from_goes_first(store: Store) -> None:
    """1 was served, then 2, which was bad, then 1 again, then 3: the way back leads to 1."""
    for number, tree in enumerate((A, B), 1):
        assert serve(store, tree) == number
    activate(store, 1)
    assert serve(store, C) == 3
    assert find_garbage(store, 2, WEEK).generations == (2,)

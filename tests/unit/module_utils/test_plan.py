# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan: a pure function of what is wanted and what is there, and the look at the disk that it is made from."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE
from ansible_collections.gpufleet.models.plugins.module_utils._errors import StoreError, TransferError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import File, Model
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial
from ansible_collections.gpufleet.models.plugins.module_utils._plan import (
    Kept,
    Plan,
    Snapshot,
    diff_models,
    make_plan,
    mib,
    plan_switch,
    summary,
    take_snapshot,
)
from ansible_collections.gpufleet.models.plugins.module_utils._provide import Need
from ansible_collections.gpufleet.models.plugins.module_utils._stage import activate, carry_out
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._transfer import Limits
from tests.unit.stores import (
    MINILM,
    NEVER,
    NO_HUB,
    SMALL,
    Tree,
    blob_path,
    listing,
    model_of,
    models_of,
    overwrite,
    put_blob,
    resize,
    serve,
    served_path,
    sha256_of,
    stage,
    work_on,
)

GIB = 1 << 30
EMPTY = Snapshot(None, (), (), frozenset(), {}, 1000 * GIB, 2000 * GIB)
MODELS = models_of(SMALL)
BLOBS = frozenset(file.sha256 for model in MODELS for file in model.files)
TOTAL = sum({file.sha256: file.size for model in MODELS for file in model.files}.values())


def big(size: int) -> tuple[Model, ...]:
    """Return a model with one file of that size."""
    return (replace(model_of("big", {}), files=(File("model.gguf", size, "5" * 64),)),)


@pytest.mark.parametrize("wanted_active", [True, False], ids=["active", "staged"])
@pytest.mark.parametrize(
    ("current", "usable", "use", "switch"),
    [
        # What has exactly these models, if anything, and whether it must be switched to.
        (None, (), None, True),
        (3, (), None, True),
        (3, (3,), 3, False),
        (3, (1, 3), 3, False),
        (3, (3, 5), 3, False),
        (3, (4,), 4, True),
        (3, (4, 6), 6, True),
        (None, (1, 2), 2, True),
        # An earlier one is not taken: A, B, A makes a third, so that the one before it is B.
        (3, (1,), None, True),
        (3, (1, 2), None, True),
        (3, (1, 4), 4, True),
    ],
)
def test_which_generation_is_used(
    current: int | None, usable: tuple[int, ...], use: int | None, switch: bool, wanted_active: bool
) -> None:
    plan = make_plan(MODELS, wanted_active, replace(EMPTY, current=current, usable=usable, blobs=BLOBS))
    assert plan.use == use
    assert plan.stage is (use is None)
    assert plan.activate is (switch and wanted_active)
    assert plan.changed is (use is None or (switch and wanted_active))
    assert plan.previous == current
    if use is not None:
        assert (plan.fetch, plan.reuse, plan.download_bytes, plan.reused_bytes) == ((), (), 0, 0)


def test_what_is_fetched_and_what_is_reused() -> None:
    nothing = make_plan(MODELS, True, EMPTY)
    assert {need.file.sha256 for need in nothing.fetch} == BLOBS
    assert len(nothing.fetch) == len(BLOBS)
    assert (nothing.download_bytes, nothing.reuse, nothing.reused_bytes) == (TOTAL, (), 0)

    there = sha256_of(b"1" * 70_000)
    some = make_plan(MODELS, True, replace(EMPTY, blobs=frozenset([there])))
    assert {need.file.sha256 for need in some.fetch} == BLOBS - {there}
    assert [need.file.sha256 for need in some.reuse] == [there]
    assert (some.download_bytes, some.reused_bytes) == (TOTAL - 70_000, 70_000)

    everything = make_plan(MODELS, True, replace(EMPTY, blobs=BLOBS))
    assert (everything.fetch, everything.download_bytes, everything.reused_bytes) == ((), 0, TOTAL)
    assert everything.stage


def test_one_content_of_several_files_is_fetched_once() -> None:
    models = models_of({"a": {"x": b"same", "y": b"same"}, "b": {"z": b"same"}})
    plan = make_plan(models, True, EMPTY)
    assert plan.fetch == (Need(models[0], models[0].files[0]),)
    assert plan.download_bytes == 4


def test_what_was_received_is_not_fetched_again() -> None:
    plan = make_plan(big(10 * GIB), True, replace(EMPTY, partials={"5" * 64: Kept(3 * GIB, 4 * GIB)}))
    assert plan.download_bytes == 7 * GIB
    assert len(plan.fetch) == 1


@pytest.mark.parametrize(
    ("size", "kept", "free", "filesystem", "fits"),
    [
        # Two percent stay in reserve, of a large filesystem one GiB.
        (10 * GIB, None, 11 * GIB, 1000 * GIB, True),
        (10 * GIB, None, 11 * GIB - 1, 1000 * GIB, False),
        (1 * GIB, None, 1 * GIB + 10 * GIB * 2 // 100, 10 * GIB, True),
        (1 * GIB, None, 1 * GIB + 10 * GIB * 2 // 100 - 2, 10 * GIB, False),
        # What a partial file takes already need not be free.
        (10 * GIB, Kept(0, 10 * GIB), 1 * GIB, 1000 * GIB, True),
        (10 * GIB, Kept(9 * GIB, 4 * GIB), 7 * GIB, 1000 * GIB, True),
        (10 * GIB, Kept(9 * GIB, 4 * GIB), 7 * GIB - 1, 1000 * GIB, False),
        (10 * GIB, Kept(0, 11 * GIB), 0, 1000 * GIB, True),
        # No file to write needs no space.
        (0, None, 0, 1000 * GIB, True),
    ],
)
def test_space(size: int, kept: Kept | None, free: int, filesystem: int, fits: bool) -> None:
    partials = {"5" * 64: kept} if kept else {}
    plan = make_plan(big(size), True, replace(EMPTY, free_bytes=free, filesystem_bytes=filesystem, partials=partials))
    if fits:
        plan.require_space("/opt/models")
    else:
        with pytest.raises(StoreError, match=r"^/opt/models: the disk is too small: .* partial_max_age 0 "):
            plan.require_space("/opt/models")


def test_sentence_about_space() -> None:
    plan = make_plan(big(10 * GIB), True, replace(EMPTY, free_bytes=3 * GIB // 2))
    assert plan.no_space == (
        "the disk is too small: 10,240.0 MiB are still to be written and 1,024.0 MiB stay in reserve, "
        "1,536.0 MiB are free; free some space, or prune the store, "
        "with partial_max_age 0 also of what interrupted transfers left"
    )


def test_nothing_to_fetch_needs_no_space() -> None:
    full = replace(EMPTY, free_bytes=0)
    make_plan(MODELS, True, replace(full, blobs=BLOBS)).require_space("/opt/models")
    make_plan(MODELS, True, replace(full, current=1, usable=(1,))).require_space("/opt/models")


NEW_COMMIT = model_of("llama", SMALL["llama"], commit="f" * 40)
FEWER_FILES = replace(MODELS[1], files=MODELS[1].files[:1])
NEW_REQUIREMENTS = replace(MODELS[1], requires={"gpus": 8})


@pytest.mark.parametrize(
    ("before", "after", "actions"),
    [
        ((), MODELS, {"llama": "added", "minilm": "added"}),
        (MODELS, MODELS, {"llama": "unchanged", "minilm": "unchanged"}),
        (MODELS, MODELS[::-1], {"llama": "unchanged", "minilm": "unchanged"}),
        (MODELS, MODELS[:1], {"llama": "removed", "minilm": "unchanged"}),
        (MODELS[:1], MODELS[1:], {"llama": "added", "minilm": "removed"}),
        (MODELS[1:], (NEW_COMMIT,), {"llama": "updated"}),
        (MODELS[1:], (FEWER_FILES,), {"llama": "updated"}),
        (MODELS[1:], (NEW_REQUIREMENTS,), {"llama": "unchanged"}),
    ],
)
def test_changes(before: tuple[Model, ...], after: tuple[Model, ...], actions: dict[str, str]) -> None:
    plan = make_plan(after, True, replace(EMPTY, served=before))
    assert {change.name: change.action for change in plan.changes} == actions
    assert [change.name for change in plan.changes] == sorted(actions)
    commits = {change.name: (change.before, change.after) for change in plan.changes}
    assert commits == {
        name: tuple(next((model.commit for model in models if model.name == name), None) for models in (before, after))
        for name in actions
    }


def test_difference_is_one_line_for_each_model() -> None:
    plan = make_plan((MODELS[0], NEW_COMMIT), True, replace(EMPTY, served=MODELS[1:]))
    assert diff_models(plan) == {
        "before_header": "served",
        "after_header": "wanted",
        "before": f"llama {MODELS[1].commit}\n",
        "after": f"llama {'f' * 40}\nminilm {MODELS[0].commit}\n",
    }


@pytest.mark.parametrize(
    ("snapshot", "active", "sentence"),
    [
        (replace(EMPTY, current=1, usable=(1,)), True, "generation 1 has these models already"),
        (replace(EMPTY, current=1, usable=(2,)), False, "generation 2 has these models already"),
        (replace(EMPTY, current=1, usable=(2,)), True, "serve generation 2"),
        (EMPTY, False, "stage a new generation, receive 0.1 MiB in 6 files, reuse 0.0 MiB in 0 files"),
        (
            replace(EMPTY, blobs=BLOBS),
            True,
            "stage and serve a new generation, receive 0.0 MiB in 0 files, reuse 0.1 MiB in 6 files",
        ),
    ],
)
def test_summary(snapshot: Snapshot, active: bool, sentence: str) -> None:
    assert summary(make_plan(MODELS, active, snapshot)) == sentence


def test_switch_to_what_exists(store: Store) -> None:
    serve(store, SMALL)
    manifest = Generations(store).manifest(1)
    other = plan_switch(manifest, 2, MODELS[:1])
    assert (other.use, other.activate, other.changed, other.previous) == (1, True, True, 2)
    assert {change.name: change.action for change in other.changes} == {"llama": "added", "minilm": "unchanged"}
    same = plan_switch(manifest, 1, MODELS)
    assert (same.use, same.activate, same.changed) == (1, False, False)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 MiB"), (1 << 20, "1.0 MiB"), (1500 << 20, "1,500.0 MiB"), (52429, "0.1 MiB")]
)
def test_size_for_people(size: int, text: str) -> None:
    assert mib(size) == text


_snapshots = st.builds(
    Snapshot,
    st.none() | st.integers(1, 4),
    st.sampled_from([(), MODELS, MODELS[:1]]),
    st.sets(st.integers(1, 6)).map(lambda numbers: tuple(sorted(numbers))),
    st.sets(st.sampled_from(sorted(BLOBS))).map(frozenset),
    st.dictionaries(st.sampled_from(sorted(BLOBS)), st.builds(Kept, st.just(0), st.integers(0, 100_000))),
    st.integers(0, 1 << 21),
    st.integers(0, 1 << 21),
)


@given(_snapshots, st.booleans())
def test_any_plan_adds_up(snapshot: Snapshot, active: bool) -> None:
    plan = make_plan(MODELS, active, snapshot)
    assert plan == make_plan(MODELS, active, snapshot)
    fetched, reused = ({need.file.sha256 for need in needs} for needs in (plan.fetch, plan.reuse))
    assert fetched | reused == (BLOBS if plan.stage else set())
    assert not fetched & reused
    assert reused <= snapshot.blobs
    assert 0 <= plan.download_bytes <= TOTAL
    assert plan.use is None or snapshot.current is None or plan.use >= snapshot.current
    assert plan.activate is False or (active and plan.use != snapshot.current) or plan.stage


# The look at the disk.

A: Tree = {"minilm": MINILM}
B: Tree = {"minilm": {**MINILM, "vocab.txt": b"new\n"}}


def snapshot(store: Store, tree: Tree) -> Snapshot:
    """Look at a store; that must not change it."""
    before = listing(Path(store.path))
    found = take_snapshot(store.path, store, models_of(tree))
    assert listing(Path(store.path)) == before
    return found


def test_disk_without_a_store(tmp_path: Path) -> None:
    found = take_snapshot(str(tmp_path / "not" / "yet"), None, MODELS)
    disk = os.statvfs(tmp_path)
    assert (found.current, found.served, found.usable, found.blobs, found.partials) == (None, (), (), frozenset(), {})
    assert found.filesystem_bytes == disk.f_blocks * disk.f_frsize
    assert abs(found.free_bytes - disk.f_bavail * disk.f_frsize) < GIB
    assert list(tmp_path.iterdir()) == []


def test_disk_with_generations(store: Store) -> None:
    serve(store, A)
    stage(store, B)
    stage(store, A)
    found = snapshot(store, B)
    assert (found.current, found.served, found.usable) == (1, models_of(A), (2,))
    assert snapshot(store, A).usable == (1, 3)
    assert snapshot(store, SMALL).usable == ()
    there = {sha256_of(content) for content in MINILM.values()}
    assert snapshot(store, SMALL).blobs == there & BLOBS


@pytest.mark.parametrize("damage", ["missing", "replaced", "blob lost", "truncated", "touched", "mode", "manifest"])
def test_generation_that_does_not_look_whole_is_not_usable(store: Store, damage: str) -> None:
    serve(store, A)
    served, blob = served_path(store, "minilm/vocab.txt"), blob_path(store, MINILM["vocab.txt"])
    if damage == "missing":
        served.unlink()
    elif damage == "replaced":
        served.unlink()
        served.write_bytes(MINILM["vocab.txt"])
    elif damage == "blob lost":
        blob.unlink()
    elif damage == "truncated":
        resize(blob, 1)
    elif damage == "touched":
        os.utime(blob, (1, 1))
    elif damage == "mode":
        blob.chmod(0o644)
    else:
        served_path(store, ".generation.json").write_bytes(b"{}")
    assert snapshot(store, A).usable == ()
    assert snapshot(store, A).current == 1


def test_disk_with_partial_files(store: Store) -> None:
    content = [b"model", b"there"]
    size = 2 * BLOCK_SIZE + 5
    digest = hashlib.sha256(b"x").hexdigest()
    models = (replace(model_of("big", {}), files=(File("a", size, digest), File("b", 5, sha256_of(content[1])))),)
    put_blob(store, content[1])
    with store.partials(create=True) as partials:
        for sha256, length in ((digest, size), (sha256_of(content[1]), 5), (sha256_of(b"unrelated"), 5)):
            partial = Partial(partials, sha256, length)
            partial.write(0, memoryview(bytes(5)))
            partial.record(0, "0" * 64)
            partial.record(2, "0" * 64)
            os.fsync(partial.descriptor)
            partial.close()
    found = take_snapshot(store.path, store, models)
    disk_bytes = Path(store.path, "partial", digest).stat().st_blocks * 512
    assert found.partials == {digest: Kept(BLOCK_SIZE + 5, disk_bytes)}
    plan = make_plan(models, True, found)
    assert plan.download_bytes == BLOCK_SIZE
    assert plan.reused_bytes == 5


def carry(store: Store, tree: Tree, active: bool = True) -> Plan:
    """Plan and do it, without a Hub."""
    plan = make_plan(models_of(tree), active, snapshot(store, tree))
    carry_out(plan, store, NO_HUB, Limits(), NEVER, work_on(store))
    return plan


def test_there_and_back_makes_three_generations_and_previous_is_right(store: Store) -> None:
    for content in {content for tree in (A, B) for content in tree["minilm"].values()}:
        put_blob(store, content)
    generations = Generations(store)
    plans = [carry(store, tree) for tree in (A, A, B, B, A, A)]
    assert [plan.changed for plan in plans] == [True, False] * 3
    assert generations.current() == 3
    assert generations.numbers() == [1, 2, 3]
    assert generations.previous() == 2
    activate(store, generations.previous())
    assert generations.served_models() == models_of(B)
    assert generations.previous() == 1
    # What was rolled back from is what the lock wants: it is there, and taken again.
    plan = carry(store, A)
    assert (plan.use, plan.fetch, generations.current()) == (3, (), 3)


def test_staged_first_then_served(store: Store) -> None:
    for content in MINILM.values():
        put_blob(store, content)
    assert carry(store, A, active=False).stage
    assert not carry(store, A, active=False).changed
    assert Generations(store).current() is None
    plan = carry(store, A)
    assert (plan.use, plan.stage, plan.activate) == (1, False, True)
    assert Generations(store).current() == 1


def test_forged_blob_is_not_reused(store: Store) -> None:
    """Not even when its record was forged with it: the lock's SHA-256 decides what a new generation gets."""
    serve(store, A)
    content, forged = MINILM["vocab.txt"], b"x\nb\n"
    record = store.read_record(sha256_of(content))
    assert record is not None
    overwrite(blob_path(store, content), 0, forged)
    store.write_record(replace(record, digests=(sha256_of(forged),)))
    plan = make_plan(models_of(SMALL), True, snapshot(store, SMALL))
    with pytest.raises(TransferError, match=r"vocab\.txt of minilm: no answer from"):
        carry_out(replace(plan, fetch=()), store, NO_HUB, Limits(connections=1, retries=0), NEVER, work_on(store))
    assert Generations(store).numbers() == [1]


def test_reused_blob_is_hashed_again(store: Store) -> None:
    """A damaged blob is not linked into a new generation: it is asked for, and there is nobody to ask."""
    serve(store, A)
    blob = blob_path(store, MINILM["vocab.txt"])
    blob.chmod(0o644)
    blob.write_bytes(b"x\nb\n")
    plan = make_plan(models_of(SMALL), True, snapshot(store, SMALL))
    assert sha256_of(MINILM["vocab.txt"]) in {need.file.sha256 for need in plan.reuse}
    with pytest.raises(TransferError, match=r"vocab\.txt of minilm: no answer from"):
        carry_out(replace(plan, fetch=()), store, NO_HUB, Limits(connections=1, retries=0), NEVER, work_on(store))
    assert Generations(store).numbers() == [1]

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying and mending a generation, as far as that needs no network."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._inspect import inspect
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._partial import Partial, journal_name
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._transfer import Limits
from ansible_collections.gpufleet.models.plugins.module_utils._verify import (
    Examination,
    coverage,
    examine,
    record,
    repair,
)
from tests.unit.stores import (
    NEVER,
    NO_HUB,
    Tree,
    blob_path,
    flip,
    listing,
    record_path,
    resize,
    serve,
    served_path,
    sha256_of,
    work_on,
)

MODEL = b"1" * BLOCK_SIZE + b"22222"
TREE: Tree = {
    "llama": {"model.gguf": MODEL, "config.json": b"{}\n", "a/vocab": b"vocab"},
    "copy": {"config.json": b"{}\n"},
}
ALL = ["copy/config.json", "llama/a/vocab", "llama/config.json", "llama/model.gguf"]

LIMITS = Limits(connections=1, stall_timeout=1, retries=0)


@pytest.fixture
def served(store: Store) -> Store:
    """A store that serves the tree."""
    serve(store, TREE)
    return store


def look(store: Store, full: bool = True) -> Examination:
    """Examine the generation that is served."""
    return examine(store, Generations(store).manifest(1), full, None, NEVER)


def defects(examination: Examination) -> dict[str, tuple[str, Any, bool]]:
    """Return reason, blocks, and whether there is nothing of it, for each file that is not as it must be."""
    return {
        f"{defect.model.name}/{defect.file.path}": (defect.reason, defect.blocks, defect.missing)
        for defect in examination.defects()
    }


@pytest.mark.parametrize("full", [True, False])
def test_whole_generation(served: Store, full: bool) -> None:
    before = listing(Path(served.path))
    found = look(served, full)
    assert defects(found) == {}
    assert sorted(found.verified(hashed_only=full)) == ALL
    assert found.inspection.unexpected == ()
    assert found.hashed_bytes() == (len(MODEL) + 8 if full else 0)
    assert listing(Path(served.path)) == before


# A damage, and what it must be called: by the quick look, and when everything is hashed.

MODEL_FILE, CONFIG, VOCAB = "llama/model.gguf", "llama/config.json", "llama/a/vocab"
TIME = "it was written to since it was received"
MISSING, REPLACED = "it is missing from the generation", "it was replaced by something that is not its blob"
LOST_QUICK, LOST = "its blob is lost", "it is lost"


def _rot(store: Store) -> None:
    flip(blob_path(store, MODEL), BLOCK_SIZE + 1)


def _truncate(store: Store) -> None:
    resize(blob_path(store, MODEL), BLOCK_SIZE)


def _extend(store: Store) -> None:
    resize(blob_path(store, MODEL), BLOCK_SIZE + 6)


def _touch(store: Store) -> None:
    os.utime(blob_path(store, MODEL), (1, 1))


def _chmod(store: Store) -> None:
    blob_path(store, MODEL).chmod(0o664)


def _remove(store: Store) -> None:
    served_path(store, VOCAB).unlink()
    served_path(store, CONFIG).unlink()


def _replace(store: Store) -> None:
    served_path(store, CONFIG).unlink()
    served_path(store, CONFIG).write_bytes(b"{}\n")


def _link(store: Store) -> None:
    served_path(store, CONFIG).unlink()
    served_path(store, CONFIG).symlink_to(blob_path(store, b"{}\n"))


def _directory(store: Store) -> None:
    served_path(store, CONFIG).unlink()
    (served_path(store, CONFIG) / "sub").mkdir(parents=True)


def _lose(store: Store) -> None:
    blob_path(store, b"{}\n").unlink()


def _lose_everything(store: Store) -> None:
    shutil.rmtree(Path(store.path, "blobs"))


def _remove_model(store: Store) -> None:
    served_path(store, "llama").rename(Path(store.path).parent / "away")


Damage = Callable[[Store], None]
DAMAGES: dict[str, tuple[Damage, dict[str, Any], dict[str, Any]]] = {
    "bit rot": (_rot, {}, {MODEL_FILE: ("1 of its 2 blocks are not as they were received", (1,), False)}),
    "truncated": (
        _truncate,
        {MODEL_FILE: (f"expected {len(MODEL)} bytes, found {BLOCK_SIZE}", None, False)},
        {MODEL_FILE: ("1 of its 2 blocks are not as they were received", (1,), False)},
    ),
    "extended": (
        _extend,
        {MODEL_FILE: (f"expected {len(MODEL)} bytes, found {BLOCK_SIZE + 6}", None, False)},
        {MODEL_FILE: (f"expected {len(MODEL)} bytes, found {BLOCK_SIZE + 6}", (), False)},
    ),
    "time": (_touch, {MODEL_FILE: (TIME, None, False)}, {}),
    "mode": (_chmod, *[{MODEL_FILE: ("expected mode 0444, found 0664", None, False)}] * 2),
    "missing": (_remove, *[{CONFIG: (MISSING, None, True), VOCAB: (MISSING, None, True)}] * 2),
    "replaced by a copy": (_replace, *[{CONFIG: (REPLACED, None, False)}] * 2),
    "replaced by a link": (_link, *[{CONFIG: (REPLACED, None, False)}] * 2),
    "replaced by a directory": (_directory, *[{CONFIG: (MISSING, None, True)}] * 2),
    "lost": (
        _lose,
        {CONFIG: (LOST_QUICK, None, True), "copy/config.json": (LOST_QUICK, None, True)},
        {CONFIG: (LOST, None, True), "copy/config.json": (LOST, None, True)},
    ),
    "all lost": (
        _lose_everything,
        dict.fromkeys(ALL, (LOST_QUICK, None, True)),
        dict.fromkeys(ALL, (LOST, None, True)),
    ),
    "model is missing": (
        _remove_model,
        *[{path: (MISSING, None, True) for path in ALL if path.startswith("llama")}] * 2,
    ),
}


@pytest.mark.parametrize("full", [True, False], ids=["full", "quick"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named(served: Store, kind: str, full: bool) -> None:
    damage, quick_defects, full_defects = DAMAGES[kind]
    damage(served)
    before = listing(Path(served.path))
    found = look(served, full)
    wanted = full_defects if full else quick_defects
    assert defects(found) == wanted
    assert sorted(found.verified(hashed_only=full)) == [path for path in ALL if path not in wanted]
    assert found.inspection.unexpected == ()
    assert listing(Path(served.path)) == before


@pytest.mark.parametrize("full", [True, False], ids=["full", "quick"])
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind not in ("bit rot", "truncated")])
def test_damage_is_mended_without_a_network(served: Store, kind: str, full: bool) -> None:
    """Whatever can be mended from what is there is; the good content is not even written to."""
    inodes = {content: blob_path(served, content).stat().st_ino for content in TREE["llama"].values()}
    DAMAGES[kind][0](served)
    after, downloaded = repair(served, look(served, full), NO_HUB, LIMITS, NEVER, work_on(served))
    assert downloaded == 0
    assert defects(after) == {}
    assert defects(look(served, full=True)) == defects(look(served, full=False)) == {}
    for path in ALL:
        name, _separator, file = path.partition("/")
        assert served_path(served, path).read_bytes() == TREE[name][file]
        assert served_path(served, path).samefile(blob_path(served, TREE[name][file]))
    for content, inode in inodes.items():
        assert blob_path(served, content).stat().st_ino == inode
    again = repair(served, look(served), NO_HUB, LIMITS, NEVER, work_on(served))
    assert again[1] == 0


@pytest.mark.parametrize("kind", ["bit rot", "truncated"])
def test_damage_that_needs_the_network_is_left_as_it_was(served: Store, kind: str) -> None:
    DAMAGES[kind][0](served)
    found = look(served)
    content = blob_path(served, MODEL).read_bytes()
    after, downloaded = repair(served, found, NO_HUB, LIMITS, NEVER, work_on(served))
    assert (defects(after), downloaded) == (defects(found), 0)
    assert str(after.obstacle).startswith("model.gguf of llama: no answer from")
    assert blob_path(served, MODEL).read_bytes() == content
    assert defects(look(served)) == defects(found)


def test_repair_that_was_killed_when_it_was_done(served: Store) -> None:
    """What it wrote the blob from is no use to anybody; that of a blob still damaged is."""
    _remove(served)
    _rot(served)
    with served.partials(create=True) as directory:
        for content in (MODEL, b"vocab"):
            partial = Partial(directory, sha256_of(content), len(content))
            partial.record(0, sha256_of(content))
            partial.close()
        assert repair(served, look(served), NO_HUB, LIMITS, NEVER, work_on(served))[0].obstacle
        assert directory.names() == [sha256_of(MODEL), journal_name(sha256_of(MODEL))]


def test_several_damages_at_once(served: Store) -> None:
    for kind in ("mode", "time", "missing"):
        DAMAGES[kind][0](served)
    _extend(served)
    shutil.rmtree(Path(served.path, "blobs", sha256_of(b"vocab")[:2]))
    found = look(served)
    assert set(defects(found)) == {MODEL_FILE, CONFIG, VOCAB}
    # The vocabulary is lost, blob and link: it can only be fetched. That is no reason to leave the others as they are.
    after, _downloaded = repair(served, found, NO_HUB, LIMITS, NEVER, work_on(served))
    assert set(defects(after)) == {VOCAB}
    assert str(after.obstacle).startswith("a/vocab of llama: no answer from")


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")], ids=["lost", "damaged"]
)
def test_record_is_rebuilt(served: Store, damage: Callable[[Path], Any]) -> None:
    path = record_path(served, MODEL)
    before = path.read_bytes()
    path.chmod(0o644)
    damage(path)
    found = look(served)
    assert defects(found) == {}
    record(served, found, [])
    assert path.read_bytes() == before


def test_unexpected_files_are_told_and_left_alone(served: Store) -> None:
    root = served_path(served, "")
    (root / "llama" / "new").mkdir()
    for path in ("llama/new/file", "file", "llama/.hidden"):
        (root / path).write_bytes(b"x")
    (root / "link").symlink_to("/etc")
    os.mkfifo(root / "llama" / "fifo")
    _remove(served)
    found = look(served)
    unexpected = ("file", "link", "llama/.hidden", "llama/fifo", "llama/new/file")
    assert found.inspection.unexpected == unexpected
    after, _downloaded = repair(served, found, NO_HUB, LIMITS, NEVER, work_on(served))
    assert after.inspection.unexpected == unexpected
    assert defects(after) == {}


def test_good_copy_of_a_lost_blob_is_not_taken_when_it_is_damaged(served: Store) -> None:
    _lose(served)
    path = served_path(served, "copy/config.json")
    path.unlink()
    path.write_bytes(b"{}?")
    after, downloaded = repair(served, look(served), NO_HUB, LIMITS, NEVER, work_on(served))
    assert (defects(after), downloaded) == ({}, 0)
    assert path.read_bytes() == served_path(served, CONFIG).read_bytes() == b"{}\n"


@pytest.mark.parametrize("kind", ["missing", "replaced by a link", "replaced by a directory", "model is missing"])
def test_lost_blob_whose_file_is_no_file(served: Store, kind: str) -> None:
    """Its content can only be fetched; whatever lies in its place is no reason to end."""
    DAMAGES[kind][0](served)
    _lose(served)
    shutil.rmtree(served_path(served, "copy"))
    after, downloaded = repair(served, look(served), NO_HUB, LIMITS, NEVER, work_on(served))
    assert {CONFIG, "copy/config.json"} <= set(defects(after))
    assert downloaded == 0
    assert str(after.obstacle).startswith("config.json of ")


def test_longest_unverified_comes_first(store: Store) -> None:
    """So that a budget is spent on it. Only as many as all threads have at hand may overtake another."""
    at_hand = 2 * (os.cpu_count() or 1)
    contents = [b"%d" % number for number in range(5 * at_hand)]
    serve(store, {"many": {content.decode(): content for content in contents}})
    order = random.sample([sha256_of(content) for content in contents], len(contents))
    Ledger(store.root).append({"event": "verified", "sha256": sha256} for sha256 in order[at_hand:])
    for place, sha256 in enumerate(look(store).findings):
        assert sha256 in order[: place + at_hand]


def test_ledger_tells_what_was_found(served: Store) -> None:
    ledger = Ledger(served.root)
    assert coverage(Generations(served).manifest(1), ledger.last_verified()) == {
        "never_verified": 3,
        "oldest_verification": None,
    }
    _rot(served)
    _lose(served)
    found = look(served)
    record(served, found, [])
    events = {(event["event"], event["sha256"]): event for event in ledger.events() if "sha256" in event}
    assert set(events) == {
        ("corrupt", sha256_of(MODEL)),
        ("corrupt", sha256_of(b"{}\n")),
        ("verified", sha256_of(b"vocab")),
    }
    assert events["corrupt", sha256_of(MODEL)]["blocks"] == [1]
    assert coverage(found.manifest, ledger.last_verified()) == {"never_verified": 2, "oldest_verification": None}


def test_coverage_names_the_oldest_by_the_order_of_lines(served: Store) -> None:
    """Also when the clock was set back between two runs."""
    manifest = Generations(served).manifest(1)
    lines = [
        {"at": "2030-01-01T00:00:00+00:00", "event": "verified", "sha256": sha256_of(MODEL)},
        {"at": "2026-01-01T00:00:00+00:00", "event": "verified", "sha256": sha256_of(b"vocab")},
        {"at": "2025-01-01T00:00:00+00:00", "event": "verified", "sha256": sha256_of(b"{}\n")},
    ]
    Path(served.path, "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    last = Ledger(served.root).last_verified()
    assert coverage(manifest, last) == {"never_verified": 0, "oldest_verification": "2030-01-01T00:00:00+00:00"}


def test_defect_in_a_result(served: Store) -> None:
    _rot(served)
    (defect,) = look(served).defects()
    assert defect.to_json() == {
        "model": "llama",
        "path": "model.gguf",
        "sha256": sha256_of(MODEL),
        "derived": False,
        "reason": "1 of its 2 blocks are not as they were received",
        "blocks": [1],
    }


def test_lost_generation(served: Store) -> None:
    manifest = Generations(served).manifest(1)
    served_path(served, "").rename(Path(served.path, "away"))
    with pytest.raises(FileNotFoundError):
        inspect(served, manifest)


# Verifies with no right to write anywhere: root opens the store and gives up its rights, others take their own away.
READER = """
import os, sys, threading
from concurrent.futures import thread  # Python's own files may be unreadable later
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.module_utils._verify import examine

with Store.open(sys.argv[1]) as store:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for full in (True, False):
        found = examine(store, Generations(store).manifest(1), full, None, threading.Event())
        print(len(found.verified(hashed_only=full)), [(defect.file.path, defect.blocks) for defect in found.defects()])
"""


def test_store_that_may_only_be_read(served: Store, pytestconfig: pytest.Config) -> None:
    _rot(served)
    record_path(served, b"{}\n").unlink()  # it would be written again, where that is allowed
    root = Path(served.path)
    directories = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    if os.geteuid() != 0:
        for directory in directories:
            directory.chmod(0o555)
    before = listing(root)
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath / ".collections")}
    command = [sys.executable, "-c", READER, served.path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert listing(root) == before
    if os.geteuid() != 0:
        for directory in directories:
            directory.chmod(0o755)
    assert run.stdout == "3 [('model.gguf', (1,))]\n4 []\n", run.stderr


def test_everything_else_of_the_store_is_left_alone(served: Store) -> None:
    """Verifying a whole generation opens nothing else: what is beside it may be damaged."""
    Path(served.path, "partial").rename(Path(served.path).parent / "away")
    Path(served.path, "partial").symlink_to("/nowhere")
    Path(served.path, "blobs", "zz").symlink_to("/nowhere")
    assert defects(look(served)) == {}

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations: whole or not there, served by one switch, and never confused by what someone left or planted."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import lock_digest
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from tests.unit.stores import (
    MINILM,
    SMALL,
    Tree,
    blob_path,
    entries,
    listing,
    model_of,
    models_of,
    serve,
    served_path,
    sha256_of,
    stage,
)
from tests.unit.values import json_values, result_or_refusal, with_changes

A: Tree = {"minilm": MINILM}
B: Tree = {"minilm": {**MINILM, "vocab.txt": b"new\n"}}

# Paths that share directories, in an order in which they do not lie beside each other.
WIDE: Tree = {
    "wide": {
        "z": b"1",
        "a/b/c/deep": b"2",
        "a/x": b"3",
        "b/c/y": b"4",
        "a/b/w": b"5",
        "a.txt": b"6",
        "größe/模型.bin": b"7",
        ".hidden/.file": b"8",
        "-rf": b"9",
        "same": b"1",
    }
}


def manifest_path(store: Store, number: int = 1) -> Path:
    """Return where a generation's manifest lies."""
    return served_path(store, ".generation.json", number)


def contents(root: Path) -> dict[str, bytes]:
    """Return the files below a directory without the manifest."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".generation.json"
    }


# Building.


@pytest.mark.parametrize("tree", [SMALL, A, WIDE, {**SMALL, **WIDE}], ids=["small", "one", "wide", "all"])
def test_built_generation_has_every_file_as_a_link_to_its_blob(store: Store, tree: Tree) -> None:
    assert stage(store, tree) == 1
    wanted = {f"{name}/{path}": content for name, files in tree.items() for path, content in files.items()}
    root = served_path(store, "")
    assert contents(root) == wanted
    for path, content in wanted.items():
        assert (root / path).samefile(blob_path(store, content))
    manifest = Generations(store).manifest(1)
    assert manifest == Manifest(1, models_of(tree), served=False)
    assert manifest.digest == lock_digest(models_of(tree))
    modes = {stat.S_IMODE(status.st_mode) for status in entries(root).values() if stat.S_ISDIR(status.st_mode)}
    assert modes == {0o755}


def test_numbers_only_grow(store: Store) -> None:
    generations = Generations(store)
    assert generations.numbers() == []
    numbers = [serve(store, tree) for tree in (A, B, A, A)]
    assert numbers == generations.numbers() == [1, 2, 3, 4]
    generations.remove(1)
    generations.remove(3)
    assert stage(store, B) == 5
    assert generations.numbers() == [2, 4, 5]


def test_number_of_the_served_generation_is_not_taken_again(store: Store) -> None:
    """Also when its directory is lost."""
    stage(store, A)
    serve(store, A)
    served_path(store, "", 2).rename(Path(store.path, "lost"))
    assert stage(store, A) == 3


def test_generation_of_a_blob_that_is_lost_does_not_appear(store: Store) -> None:
    serve(store, A)
    before = contents(Path(store.path, "generations"))
    with pytest.raises(FileNotFoundError):
        Generations(store).build(models_of(SMALL))
    assert contents(Path(store.path, "generations")) == before
    assert [path.name for path in Path(store.path, "generations").iterdir()] == ["1"]
    assert Generations(store).current() == 1


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_leftover_of_an_interrupted_build_does_not_matter(store: Store, tmp_path: Path, kind: str) -> None:
    stage(store, A)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"precious")
    for number in (2, 7):
        leftover = Path(store.path, "generations", f".new-{number}")
        if kind == "directory":
            (leftover / "minilm" / "1_Pooling").mkdir(parents=True)
            os.link(blob_path(store, MINILM["vocab.txt"]), leftover / "minilm" / "vocab.txt")
        elif kind == "file":
            leftover.write_bytes(b"x")
        else:
            leftover.symlink_to(tmp_path / "outside")
    assert Generations(store).numbers() == [1]
    assert stage(store, B) == 2
    assert contents(served_path(store, "minilm", 2)) == B["minilm"]
    assert sorted(path.name for path in Path(store.path, "generations").iterdir()) == ["1", "2"]
    assert blob_path(store, MINILM["config.json"]).stat().st_nlink == 3
    assert (tmp_path / "outside" / "file").read_bytes() == b"precious"


def test_leftover_of_an_interrupted_removal_does_not_matter(store: Store) -> None:
    for _generation in range(3):
        serve(store, A)
    Path(store.path, "generations", "1").rename(Path(store.path, "generations", ".new-1"))
    assert Generations(store).numbers() == [2, 3]
    assert Generations(store).previous() == 2
    Generations(store).remove(2)
    assert [path.name for path in Path(store.path, "generations").iterdir()] == ["3"]


def test_entries_that_are_no_generations_are_ignored(store: Store) -> None:
    stage(store, A)
    for name in ("0", "01", "-1", "1.5", "x", "1 ", "9" * 10, "٣", "lost+found"):
        Path(store.path, "generations", name).mkdir()
    assert Generations(store).numbers() == [1]


@pytest.mark.parametrize("place", ["generations", "generations/1", "generations/1/minilm"])
def test_planted_link_leads_nobody_out(store: Store, tmp_path: Path, place: str) -> None:
    stage(store, A)
    outside = tmp_path / "outside"
    Path(store.path, place).rename(outside)
    Path(store.path, place).symlink_to(outside)
    before = listing(outside)
    generations = Generations(store)

    def find_file() -> None:
        model = models_of(A)[0]
        with generations.parent_of(1, model, model.files[0]):
            pass

    for call in (find_file, *([lambda: generations.activate(1)] if place != "generations/1/minilm" else [])):
        with pytest.raises(StoreError, match=r"is a link or a file, expected a directory; remove it$"):
            call()
    assert listing(outside) == before
    assert not Path(store.path, "current").is_symlink()


# Serving.


def test_served_generation_is_what_the_link_leads_to(store: Store) -> None:
    generations = Generations(store)
    assert generations.current() is None
    assert generations.served_models() == ()
    for number, tree in enumerate((A, B), 1):
        serve(store, tree)
        assert generations.current() == number
        assert generations.served_models() == models_of(tree)
        assert contents(Path(store.path, "current", "minilm")) == tree["minilm"]
        assert generations.manifest(number).served
        assert str(Path(store.path, "current").readlink()) == f"generations/{number}"


def test_staged_generation_was_not_served(store: Store) -> None:
    stage(store, A)
    assert Generations(store).current() is None
    assert not Generations(store).manifest(1).served


@pytest.mark.parametrize(
    ("order", "previous"),
    [
        ((1,), None),
        ((1, 2), 1),
        ((1, 2, 3), 2),
        ((1, 3), 1),
        ((2, 3), 2),
        ((1, 2, 1), None),
        ((1, 2, 3, 2), 1),
        ((1, 2, 3, 2, 1), None),
        # What was rolled back from was not served before what came after it.
        ((1, 2, 1, 3), 1),
        ((1, 2, 3, 1, 4), 1),
        ((1, 2, 3, 2, 4), 2),
        ((1, 2, 1, 2), 1),
        ((1, 2, 1, 3, 1), None),
        ((1, 2, 1, 3, 4, 3), 1),
        # One that was staged earlier and is served later.
        ((1, 3, 2), 1),
    ],
)
def test_previous_is_what_was_served_before(store: Store, order: tuple[int, ...], previous: int | None) -> None:
    for number in range(1, 6):
        assert stage(store, A) == number
    generations = Generations(store)
    for number in order:
        generations.activate(number)
    if previous is not None:
        assert generations.previous() == previous
    else:
        with pytest.raises(InvalidInput, match="no earlier generation that was served; nothing to go back to"):
            generations.previous()


def test_previous_when_the_link_is_lost(store: Store) -> None:
    for _generation in range(3):
        serve(store, A)
    stage(store, A)
    Path(store.path, "current").unlink()
    assert Generations(store).previous() == 3


def test_previous_skips_what_is_removed_or_damaged(store: Store) -> None:
    for _generation in range(4):
        serve(store, A)
    Generations(store).remove(3)
    manifest_path(store, 2).write_bytes(b"")
    assert Generations(store).previous() == 1


@pytest.mark.parametrize("number", [0, 2, -1, 10**9])
def test_generation_that_is_not_there(store: Store, number: int) -> None:
    serve(store, A)
    for call in (Generations(store).manifest, Generations(store).activate):
        with pytest.raises(InvalidInput, match=rf"generation {number} is not in {store.path}; there are: 1$"):
            call(number)
    assert Generations(store).current() == 1


def test_served_generation_is_not_removed(store: Store) -> None:
    serve(store, A)
    with pytest.raises(InvalidInput, match="generation 1 is being served"):
        Generations(store).remove(1)
    assert contents(Path(store.path, "current", "minilm")) == MINILM


def test_removed_generation_leaves_the_blobs(store: Store) -> None:
    stage(store, SMALL)
    serve(store, A)
    blobs = set(store.blobs())
    Generations(store).remove(1)
    Generations(store).remove(1)
    assert Generations(store).numbers() == [2]
    assert set(store.blobs()) == blobs
    assert blob_path(store, MINILM["vocab.txt"]).stat().st_nlink == 2


@pytest.mark.parametrize(
    "target",
    [
        "generations/0",
        "generations/01",
        "generations/x",
        "generations/1/",
        "generations/1/..",
        "generations/1\n",
        "./generations/1",
        "../store/generations/1",
        "/etc",
        "generations",
        ".",
        "generations/" + "9" * 10,
    ],
)
def test_foreign_link_is_not_taken_for_ours(store: Store, target: str) -> None:
    stage(store, A)
    Path(store.path, "current").symlink_to(target)
    with pytest.raises(StoreError, match=r"is not a link to one of the store's generations; someone replaced it"):
        Generations(store).current()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_link_that_was_replaced_is_named_and_left_alone(store: Store, kind: str) -> None:
    stage(store, A)
    current = Path(store.path, "current")
    current.mkdir() if kind == "directory" else current.write_bytes(b"x")
    generations = Generations(store)
    before = listing(current)
    for call in (generations.current, generations.served_models, generations.previous, lambda: generations.remove(1)):
        with pytest.raises(StoreError, match=r"/current is not a link .* remove it and run again$"):
            call()
    with pytest.raises(StoreError, match=r"/current is not a link .* remove it and run again$"):
        generations.build(models_of(A))
    assert listing(current) == before


def test_link_to_a_generation_that_is_lost(store: Store) -> None:
    Path(store.path, "current").symlink_to("generations/5")
    assert Generations(store).current() == 5
    assert Generations(store).served_models() == ()
    assert stage(store, A) == 6


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_leftover_of_an_interrupted_switch_does_not_matter(store: Store, kind: str) -> None:
    stage(store, A)
    leftover = Path(store.path, ".current.new")
    if kind == "link":
        leftover.symlink_to("generations/9")
    elif kind == "file":
        leftover.write_bytes(b"")
    else:
        (leftover / "sub").mkdir(parents=True)
    Generations(store).activate(1)
    assert Generations(store).current() == 1
    assert not leftover.is_symlink()
    assert not leftover.exists()


def test_switch_is_atomic_for_readers(store: Store) -> None:
    """The link is another inode after each switch: it was renamed into its place, never removed first."""
    for tree in (A, B):
        stage(store, tree)
    generations = Generations(store)
    inodes = set()
    for number in (1, 2, 1):
        generations.activate(number)
        inodes.add(Path(store.path, "current").lstat().st_ino)
    assert len(inodes) >= 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_everything_that_is_made_gets_its_owner(tmp_path: Path) -> None:
    with Store.create(str(tmp_path / "store"), (12345, 23456)) as store:
        serve(store, WIDE)
    for name, status in entries(tmp_path / "store").items():
        assert (status.st_uid, status.st_gid) == (12345, 23456), name


# Manifests.

MODELS = models_of({"minilm": {"a": b"1", "b": b"2"}})
STORED = Manifest(7, MODELS, served=True, previous=5).dump()


@pytest.mark.parametrize("served", [True, False])
def test_manifest_round_trip(served: bool) -> None:
    models = (*models_of(WIDE), model_of("other", {"a": b""}, requires={"gpus": 1}, smoke={"größe": [None]}))
    manifest = Manifest(3, models, served, 2 if served else None)
    assert Manifest.load(manifest.dump(), 3) == manifest


def test_every_damage_of_a_manifest_is_noticed() -> None:
    """Or does not matter: what it holds, whether it was served and what it followed is always told right."""
    for position in range(len(STORED)):
        for changed in (STORED[position] ^ 1, STORED[position] ^ 0x20, 0, 0xFF):
            damaged = STORED[:position] + bytes([changed]) + STORED[position + 1 :]
            if damaged == STORED:
                continue
            try:
                manifest = Manifest.load(damaged, 7)
            except InvalidInput as error:
                message = str(error)
            else:
                message = "manifest of generation 7"
                found = (manifest.served, manifest.previous, manifest.digest)
                assert found == (True, 5, lock_digest(MODELS)), (position, changed)
            assert message.startswith("manifest of generation 7")
    for length in range(len(STORED.rstrip())):
        with pytest.raises(InvalidInput, match="manifest of generation 7"):
            Manifest.load(STORED[:length], 7)


def sealed(document: Any) -> bytes:
    """Return a document as a manifest with the right checksum, as someone with access to the store could write it."""
    if isinstance(document, dict):
        document["checksum"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return json.dumps(document).encode()


def unsealed(stored: bytes) -> Any:
    """Return what a manifest says, without its checksum."""
    return {key: value for key, value in json.loads(stored).items() if key != "checksum"}


def test_manifest_is_what_someone_else_could_make() -> None:
    assert Manifest.load(sealed(unsealed(STORED)), 7) == Manifest.load(STORED, 7)


@given(st.binary() | json_values.map(sealed) | with_changes(unsealed(STORED)).map(sealed))
def test_any_manifest_is_one_to_work_with_or_one_sentence(content: bytes) -> None:
    manifest = result_or_refusal(Manifest.load, content, 7)
    if isinstance(manifest, InvalidInput):
        assert str(manifest) == "manifest of generation 7 is damaged; stage its models again"
    else:
        assert isinstance(manifest.served, bool)
        assert manifest.previous is None or manifest.previous < 7
        assert manifest.generation == 7
        assert len(manifest.digest) == 64


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("manifest_version", [0, 2, "1", None]),
        ("generation", [1, 6, 8, "7", None]),
        ("served", [1, 0, "true", None]),
        ("previous", [7, 8, 10**9, "5", 5.0, True, [], {}]),
        ("models", [None, {}, [None]]),
    ],
)
def test_forged_manifest_is_not_believed(key: str, values: list[object]) -> None:
    """Nor one of another generation in its place: the way back would lead in a circle."""
    for value in values:
        with pytest.raises(InvalidInput, match=r"^manifest of generation 7 is damaged"):
            Manifest.load(sealed({**unsealed(STORED), key: value}), 7)


@pytest.mark.usefixtures("alarm")
def test_manifest_of_another_generation_does_not_confuse_the_way_back(store: Store) -> None:
    for _generation in range(3):
        serve(store, A)
    manifest_path(store, 1).write_bytes(manifest_path(store, 3).read_bytes())
    assert Generations(store).previous() == 2
    Generations(store).activate(2)
    with pytest.raises(InvalidInput, match="no earlier generation"):
        Generations(store).previous()


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"", b"null", b"{}"], ids=len)
def test_manifest_that_is_none(store: Store, content: bytes) -> None:
    serve(store, A)
    stage(store, B)
    manifest_path(store, 2).write_bytes(content)
    generations = Generations(store)
    for call in (generations.manifest, generations.activate):
        with pytest.raises(InvalidInput, match=r"^manifest of generation 2 is damaged; stage its models again$"):
            call(2)
    assert list(generations.manifests()) == [1]
    assert generations.current() == 1
    assert generations.numbers() == [1, 2]


def test_damaged_manifest_of_what_is_served(store: Store) -> None:
    serve(store, A)
    manifest_path(store).write_bytes(b"")
    assert Generations(store).current() == 1
    assert Generations(store).served_models() == ()
    assert serve(store, A) == 2


# Linking again.


@pytest.mark.parametrize(
    "change",
    [
        *("missing", "copy", "directory", "link"),
        *("parent is missing", "parent is a file", "parent is a link", "model is missing"),
    ],
)
def test_file_is_linked_again_whatever_has_its_place(store: Store, tmp_path: Path, change: str) -> None:
    tree = {"minilm": {"deep/er/file": b"model", "other": b"other"}}
    serve(store, tree)
    (tmp_path / "outside" / "er").mkdir(parents=True)
    root = served_path(store, "minilm")
    file_place = root / "deep" / "er" / "file"
    places = {"model is missing": root, **dict.fromkeys(["missing", "copy", "directory", "link"], file_place)}
    place = places.get(change, root / "deep")
    place.rename(tmp_path / "away")
    if change == "copy":
        place.write_bytes(b"model")
    elif change == "directory":
        (place / "sub").mkdir(parents=True)
    elif change.endswith("link"):
        place.symlink_to(tmp_path / "outside")
    elif change.endswith("file"):
        place.write_bytes(b"x")
    model = models_of(tree)[0]
    for file in model.files:
        if file.path != "other" or change == "model is missing":
            Generations(store).relink(1, model, file)
    assert contents(root) == tree["minilm"]
    assert file_place.samefile(blob_path(store, b"model"))
    assert contents(tmp_path / "outside") == {}


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127], ids=["letters", "bytes"])
def test_file_with_the_longest_name_is_linked_again(store: Store, name: str) -> None:
    tree = {"minilm": {name: b"model", "other": b"other"}}
    serve(store, tree)
    served_path(store, "minilm", 1).joinpath(name).unlink()
    model = models_of(tree)[0]
    Generations(store).relink(1, model, model.files[0])
    assert contents(served_path(store, "minilm")) == tree["minilm"]


def test_linking_again_touches_no_other_file(store: Store) -> None:
    tree = {"minilm": {"file": b"model", ".file.new": b"other", "file.new": b"third"}}
    serve(store, tree)
    model = models_of(tree)[0]
    served_path(store, "minilm/file").unlink()
    Generations(store).relink(1, model, model.files[0])
    assert contents(served_path(store, "minilm")) == tree["minilm"]


def test_blob_that_is_lost_cannot_be_linked(store: Store) -> None:
    serve(store, A)
    store.remove_blob(sha256_of(MINILM["vocab.txt"]))
    model = models_of(A)[0]
    file = next(file for file in model.files if file.path == "vocab.txt")
    with pytest.raises(FileNotFoundError):
        Generations(store).relink(1, model, file)
    assert served_path(store, "minilm/vocab.txt").read_bytes() == MINILM["vocab.txt"]

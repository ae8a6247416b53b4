# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_generation on stores that have all blobs already: no test here needs a Hub, and none may ask one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import model_generation
from tests.unit.modules.conftest import Run
from tests.unit.stores import (
    MINILM,
    NO_HUB,
    SMALL,
    Tree,
    blob_path,
    listing,
    models_of,
    put_blob,
    resize,
    serve,
    served_path,
    stage,
)

A: Tree = {"minilm": MINILM}
B: Tree = {"minilm": {**MINILM, "vocab.txt": b"new\n"}, "llama": SMALL["llama"]}


def models(tree: Tree) -> list[dict[str, Any]]:
    """Return a tree's models as a lock has them."""
    return [model.to_json() for model in models_of(tree)]


@pytest.fixture
def generate(run: Run, root: Path) -> Run:
    """Call the module on the store; whoever asks a Hub fails at once."""

    def generate(**arguments: Any) -> dict[str, Any]:
        hub = {"endpoint": NO_HUB.endpoint, "retries": 0, "stall_timeout": 1, "lock_timeout": 0}
        return run(model_generation, **{"root": str(root), **hub, **arguments})

    return generate


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with all blobs and no generation."""
    for tree in (A, B):
        for files in tree.values():
            for content in files.values():
                put_blob(store, content)
    return store


def quartet(generate: Run, root: Path, **arguments: Any) -> dict[str, Any]:
    """Run in check mode, really, again in check mode, again: it says beforehand what it does, and does it once."""
    before = listing(root)
    checked = generate(check=True, **arguments)
    assert listing(root) == before
    done = generate(**arguments)
    assert checked["changed"]
    assert done["changed"]
    differing = {"generation", "directory", "diff", "invocation"}
    same = [{key: value for key, value in result.items() if key not in differing} for result in (checked, done)]
    assert same[0] == same[1]
    after = listing(root)
    for check in (True, False):
        again = generate(check=check, **arguments)
        assert not again["changed"]
        assert again["generation"] == done["generation"]
    # A writer notes that it is one, and nothing else.
    changed = {name for name, entry in listing(root).items() if entry != after.get(name)}
    assert changed <= {".lock"}
    return done


def served(root: Path) -> dict[str, bytes]:
    """Return what is served."""
    current = root / "current"
    paths = [path for path in current.rglob("*") if path.is_file() and path.name != ".generation.json"]
    return {str(path.relative_to(current)): path.read_bytes() for path in paths}


def flat(tree: Tree) -> dict[str, bytes]:
    """Return a tree as what is served of it."""
    return {f"{name}/{path}": content for name, files in tree.items() for path, content in files.items()}


# Models.


def test_first_generation(generate: Run, root: Path, filled: Store) -> None:
    result = quartet(generate, root, models=models(A))
    assert (result["generation"], result["previous_generation"]) == (1, None)
    assert result["directory"] == str(root / "generations" / "1")
    assert result["models"] == [{"name": "minilm", "commit": models_of(A)[0].commit, "action": "added"}]
    assert (result["downloaded_bytes"], result["reused_bytes"]) == (0, sum(map(len, MINILM.values())))
    assert served(root) == flat(A)


def test_next_generation(generate: Run, root: Path, filled: Store) -> None:
    serve(filled, A)
    result = quartet(generate, root, models=models(B))
    assert (result["generation"], result["previous_generation"]) == (2, 1)
    actions = {model["name"]: model["action"] for model in result["models"]}
    assert actions == {"llama": "added", "minilm": "updated"}
    assert served(root) == flat(B)
    actions = {model["name"]: model["action"] for model in quartet(generate, root, models=models(A))["models"]}
    assert actions == {"llama": "removed", "minilm": "updated"}
    assert served(root) == flat(A)


def test_staged_then_served(generate: Run, root: Path, filled: Store) -> None:
    serve(filled, A)
    result = quartet(generate, root, models=models(B), state="staged")
    assert (result["generation"], result["previous_generation"]) == (2, 1)
    assert served(root) == flat(A)
    result = quartet(generate, root, generation="2")
    assert (result["generation"], result["previous_generation"]) == (2, 1)
    assert (result["downloaded_bytes"], result["reused_bytes"]) == (0, 0)
    assert served(root) == flat(B)


def test_staged_then_served_by_its_models(generate: Run, root: Path, filled: Store) -> None:
    generate(models=models(B), state="staged")
    assert quartet(generate, root, models=models(B))["generation"] == 1


def test_difference(generate: Run, filled: Store) -> None:
    serve(filled, A)
    for check in (True, False):
        difference = generate(check=check, diff=True, models=models(B))["diff"]
        old, (new, llama) = models_of(A)[0], models_of(B)
        assert difference["before"] == f"minilm {old.commit}\n"
        assert difference["after"] == f"llama {llama.commit}\nminilm {new.commit}\n"


def test_check_mode_without_a_store(generate: Run, root: Path) -> None:
    result = generate(check=True, models=models(B))
    assert result["changed"]
    assert (result["generation"], result["directory"], result["previous_generation"]) == (None, None, None)
    total = sum(len(content) for content in {content for files in B.values() for content in files.values()})
    assert (result["downloaded_bytes"], result["reused_bytes"]) == (total, 0)
    assert not root.exists()


def test_check_mode_without_a_store_above(generate: Run, root: Path) -> None:
    assert generate(check=True, models=models(B), root=str(root / "not" / "yet"))["changed"]
    assert not root.exists()


def test_what_is_served_needs_neither_reading_nor_asking(generate: Run, root: Path, filled: Store) -> None:
    """The content is gone bad, and nobody notices: that is model_verify's business."""
    serve(filled, A)
    path = blob_path(filled, MINILM["vocab.txt"])
    status = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"x\ny\n")
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not generate(models=models(A))["changed"]


@pytest.mark.parametrize("lost", [b"new\n", MINILM["vocab.txt"]], ids=["of the new", "of what is served"])
def test_failure_says_what_is_served_and_leaves_it(generate: Run, root: Path, filled: Store, lost: bytes) -> None:
    serve(filled, A)
    blob_path(filled, lost).unlink()
    wanted = B if lost == b"new\n" else {**A, "llama": SMALL["llama"]}
    result = generate(models=models(wanted))
    assert result["failed"]
    assert result["msg"].startswith("vocab.txt of minilm: no answer from 127.0.0.1:9: ")
    assert "generation 1 is served as before" in result["msg"]
    assert served(root) == flat(A)
    assert Generations(filled).numbers() == [1]
    assert list((root / "work").iterdir()) == []


def test_full_disk_is_noticed_before_the_first_byte(generate: Run, root: Path, filled: Store) -> None:
    serve(filled, A)
    huge = models(B)
    huge[1]["files"].append({"path": "huge", "size": 1 << 44, "sha256": "0" * 64})
    for check in (True, False):
        before = {name: entry for name, entry in listing(root).items() if name not in (".", ".lock")}
        result = generate(check=check, models=huge)
        assert result["failed"]
        assert "the disk is too small: 16,777,2" in result["msg"]
        assert {name: entry for name, entry in listing(root).items() if name not in (".", ".lock")} == before


# Existing generations.


@pytest.fixture
def three(filled: Store) -> Store:
    """A store that served A, then B, then A."""
    for tree in (A, B, A):
        serve(filled, tree)
    return filled


def test_previous_goes_back_step_by_step(generate: Run, root: Path, three: Store) -> None:
    for number, tree in ((2, B), (1, A)):
        before = listing(root)
        checked = generate(check=True, generation="previous")
        assert (checked["changed"], checked["generation"]) == (True, number)
        assert listing(root) == before
        result = generate(generation="previous")
        assert (result["changed"], result["generation"], result["previous_generation"]) == (True, number, number + 1)
        assert served(root) == flat(tree)
    for check in (True, False):
        result = generate(check=check, generation="previous")
        assert "has no earlier generation that was served; nothing to go back to" in result["msg"]
    assert served(root) == flat(A)


def test_previous_is_not_what_was_rolled_back_from(generate: Run, root: Path, filled: Store) -> None:
    """A was good, B was bad, a third was bad as well: back means A."""
    for tree in (A, B):
        generate(models=models(tree))
    generate(generation="previous")
    generate(models=models({"llama": SMALL["llama"]}))
    assert generate(generation="previous")["generation"] == 1
    assert served(root) == flat(A)


@pytest.mark.parametrize("number", ["1", "2"])
def test_any_generation_can_be_served(generate: Run, root: Path, three: Store, number: str) -> None:
    result = quartet(generate, root, generation=number)
    assert result["generation"] == int(number)
    assert served(root) == flat(A if int(number) == 1 else B)
    assert Ledger(three.root).events()[-1]["event"] == "activated"


def test_removed_generation(generate: Run, root: Path, three: Store) -> None:
    blobs = set(three.blobs())
    result = quartet(generate, root, generation="2", state="absent")
    assert result["msg"] == "remove generation 2"
    assert (result["generation"], result["previous_generation"], result["models"]) == (2, 3, [])
    assert Generations(three).numbers() == [1, 3]
    assert set(three.blobs()) == blobs
    assert generate(generation="previous")["generation"] == 1


@pytest.mark.parametrize("damage", ["missing", "replaced", "truncated", "manifest", "lost"])
def test_damaged_generation_is_not_served(generate: Run, root: Path, three: Store, damage: str) -> None:
    path = served_path(three, "minilm/vocab.txt", 2)
    message = "generation 2 is damaged and was not served: vocab.txt of minilm: "
    if damage == "truncated":
        resize(path, 1)
    elif damage == "manifest":
        served_path(three, ".generation.json", 2).write_bytes(b"{}")
        message = "manifest of generation 2 is damaged; stage its models again"
    elif damage == "lost":
        shutil.rmtree(served_path(three, "", 2))
        message = f"generation 2 is not in {root}; there are: 1, 3"
    else:
        path.unlink()
        if damage == "replaced":
            path.write_bytes(b"new\n")
    for check in (True, False):
        result = generate(check=check, generation="2")
        assert result["failed"]
        assert message in result["msg"]
        assert served(root) == flat(A)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generation": "9"}, "generation 9 is not in "),
        ({"generation": "0"}, "generation: expected a number or 'previous', found '0'"),
        ({"generation": "01"}, "generation: expected a number or 'previous', found '01'"),
        ({"generation": "9" * 5000}, "generation"),
        ({"generation": "-1"}, "generation: expected a number or 'previous', found '-1'"),
        ({"generation": "current"}, "generation: expected a number or 'previous', found 'current'"),
        ({"generation": ""}, "generation: expected a number or 'previous', found ''"),
        ({"generation": "1.0"}, "generation: expected a number or 'previous', found '1.0'"),
        ({"generation": "../1"}, "generation: expected a number or 'previous', found '../1'"),
        (
            {"generation": "3", "state": "absent"},
            "generation 3 is being served; serve another one before you remove it",
        ),
        ({"generation": "previous", "state": "absent"}, "generation: expected a number to remove, found 'previous'"),
        ({"generation": "9" * 5000, "state": "absent"}, "generation"),
        ({"models": []}, "models: expected at least one model, found none"),
        ({"models": [], "state": "staged"}, "models: expected at least one model, found none"),
        ({"models": [{}]}, "models[0]: commit, files, name, repo_id, revision missing"),
        ({"models": [{**models(A)[0], "name": "../x"}]}, "models[0].name: expected a name of letters"),
        ({"models": models(A) * 2}, "models: 'minilm' and 'minilm' are the same path"),
        ({"models": "x"}, "models"),
        # Which arguments go together.
        ({}, "state is active but any of the following are missing: models, generation"),
        ({"state": "staged"}, "state is staged but all of the following are missing: models"),
        ({"state": "absent"}, "state is absent but all of the following are missing: generation"),
        ({"models": models(A), "generation": "1"}, "mutually exclusive: models|generation"),
        ({"generation": "1", "state": "staged"}, "state is staged but all of the following are missing: models"),
        ({"models": models(A), "state": "absent"}, "state is absent but all of the following are missing: generation"),
        ({"models": models(A), "state": "present"}, "value of state must be one of: active, staged, absent"),
    ],
    ids=lambda value: ascii(value)[:50] if isinstance(value, dict) else "",
)
def test_wrong_arguments(generate: Run, root: Path, three: Store, arguments: dict[str, Any], message: str) -> None:
    before = {name: entry for name, entry in listing(root).items() if name not in (".", ".lock")}
    for check in (True, False):
        result = generate(check=check, **arguments)
        assert result["failed"]
        assert message in result["msg"]
        assert len(result["msg"]) < 500
    assert {name: entry for name, entry in listing(root).items() if name not in (".", ".lock")} == before


@pytest.mark.parametrize("arguments", [{"generation": "1"}, {"generation": "1", "state": "absent"}])
def test_store_that_does_not_exist(generate: Run, root: Path, arguments: dict[str, Any]) -> None:
    for check in (True, False):
        result = generate(check=check, **arguments)
        assert f"{root} does not exist, so there is no generation 1 in it" in result["msg"]
    assert not root.exists()


def test_link_that_someone_replaced(generate: Run, root: Path, three: Store) -> None:
    (root / "current").unlink()
    (root / "current").mkdir()
    for arguments in ({"models": models(B)}, {"generation": "1"}, {"generation": "previous"}):
        for check in (True, False):
            result = generate(check=check, **arguments)
            assert "current is not a link to one of the store's generations" in result["msg"]
    assert (root / "current").is_dir()
    assert Generations(three).numbers() == [1, 2, 3]


def test_lost_link_is_made_again(generate: Run, root: Path, three: Store) -> None:
    (root / "current").unlink()
    result = quartet(generate, root, models=models(B))
    assert (result["generation"], result["previous_generation"]) == (2, None)
    assert served(root) == flat(B)


def test_all_generations_are_kept_for_going_back(generate: Run, filled: Store) -> None:
    for tree in (A, B, A, B):
        generate(models=models(tree))
    assert Generations(filled).numbers() == [1, 2, 3, 4]
    stage(filled, A)
    assert generate(generation="previous")["generation"] == 3

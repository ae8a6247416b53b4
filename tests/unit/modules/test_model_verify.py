# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_verify: what it says of whole and damaged generations, and what it leaves alone."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._blocks import BLOCK_SIZE
from ansible_collections.gpufleet.models.plugins.module_utils._ledger import Ledger
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import model_verify
from tests.unit.modules.conftest import Run
from tests.unit.stores import (
    MINILM,
    NO_HUB,
    SMALL,
    blob_path,
    flip,
    listing,
    overwrite,
    record_path,
    serve,
    served_path,
    sha256_of,
    stage,
    without_work,
)

ALL = [f"{name}/{path}" for name, files in SMALL.items() for path in files]
VOCAB = MINILM["vocab.txt"]


@pytest.fixture
def served(store: Store) -> Store:
    """A store that serves a generation."""
    serve(store, SMALL)
    return store


@pytest.fixture
def verify(run: Run, root: Path) -> Run:
    """Call the module on the store; whoever asks a Hub fails at once."""

    def verify(**arguments: Any) -> dict[str, Any]:
        hub = {"endpoint": NO_HUB.endpoint, "retries": 0, "stall_timeout": 1, "lock_timeout": 0}
        return run(model_verify, **{"root": str(root), **hub, **arguments})

    return verify


def test_whole_generation(verify: Run, served: Store) -> None:
    result = verify()
    assert not result["changed"]
    assert (result["generation"], sorted(result["verified"])) == (1, sorted(ALL))
    assert (result["corrupt"], result["missing"], result["repaired"], result["unexpected"]) == ([], [], [], [])
    contents = {content for files in SMALL.values() for content in files.values()}
    assert (result["hashed_bytes"], result["downloaded_bytes"]) == (sum(map(len, contents)), 0)
    assert result["coverage"]["never_verified"] == 0
    assert result["coverage"]["oldest_verification"].endswith("+00:00")
    events = [event["sha256"] for event in Ledger(served.root).events() if event["event"] == "verified"]
    assert sorted(events) == sorted(map(sha256_of, contents))


def test_quick_look_proves_nothing(verify: Run, served: Store) -> None:
    result = verify(mode="quick")
    assert sorted(result["verified"]) == sorted(ALL)
    assert result["hashed_bytes"] == 0
    assert result["coverage"] == {"never_verified": 6, "oldest_verification": None}
    assert not [event for event in Ledger(served.root).events() if event["event"] == "verified"]


def test_other_generation(verify: Run, served: Store) -> None:
    stage(served, {"minilm": MINILM})
    result = verify(generation=2)
    assert (result["generation"], len(result["verified"])) == (2, len(MINILM))


def test_damage_is_named_by_file_and_block(verify: Run, store: Store) -> None:
    content = b"1" * BLOCK_SIZE + b"2" * BLOCK_SIZE + b"3"
    serve(store, {**SMALL, "big": {"model.gguf": content, "copy.gguf": content}})
    for position in (BLOCK_SIZE + 5, 2 * BLOCK_SIZE):
        flip(blob_path(store, content), position)
    result = verify()
    reason = "2 of its 3 blocks are not as they were received"
    defect = {"model": "big", "sha256": sha256_of(content), "derived": False, "reason": reason, "blocks": [1, 2]}
    assert result["corrupt"] == [{"path": "model.gguf", **defect}, {"path": "copy.gguf", **defect}]
    assert result["missing"] == []
    assert sorted(result["verified"]) == sorted(ALL)
    assert result["msg"] == (
        f"2 of 9 files of generation 1 are not as they must be; the first: model.gguf of big: {reason}; "
        "run it with repair to mend it"
    )
    (event,) = [event for event in Ledger(store.root).events() if event["event"] == "corrupt"]
    assert (event["sha256"], event["blocks"]) == (sha256_of(content), [1, 2])
    assert result["coverage"]["never_verified"] == 1


def test_lost_file(verify: Run, served: Store) -> None:
    served_path(served, "minilm/vocab.txt").unlink()
    blob_path(served, VOCAB).unlink()
    result = verify()
    assert [(defect["path"], defect["reason"], defect["blocks"]) for defect in result["missing"]] == [
        ("vocab.txt", "it is lost", None)
    ]
    assert result["corrupt"] == []


def test_unexpected_files_do_not_fail_it(verify: Run, served: Store) -> None:
    served_path(served, "minilm/new").write_bytes(b"x")
    served_path(served, "link").symlink_to("/etc")
    result = verify()
    assert not result.get("failed")
    assert result["unexpected"] == ["link", "minilm/new"]


def test_file_names_that_are_no_text(verify: Run, served: Store) -> None:
    """The filesystem takes any bytes, and a result must be JSON that Ansible can read."""
    served_path(served, os.fsdecode(b"minilm/\xff\xfe")).write_bytes(b"x")
    result = verify()
    assert not result.get("failed")
    assert len(result["unexpected"]) == 1
    str(result["unexpected"]).encode()


@pytest.mark.parametrize("damage", ["none", "record", "empty file", "content", "lost", "unexpected"])
@pytest.mark.parametrize("arguments", [{}, {"mode": "quick"}, {"repair": True}, {"budget_seconds": 5}], ids=str)
def test_check_mode_writes_nothing(
    verify: Run, root: Path, store: Store, damage: str, arguments: dict[str, Any]
) -> None:
    tree = {name: {path: content for path, content in files.items() if content} for name, files in SMALL.items()}
    serve(store, SMALL if damage == "empty file" else tree)
    if damage == "record":
        overwrite(record_path(store, VOCAB), 5, b"x")
    elif damage == "content":
        flip(blob_path(store, VOCAB), 0)
    elif damage == "lost":
        blob_path(store, VOCAB).unlink()
    elif damage == "unexpected":
        served_path(store, "minilm/new").write_bytes(b"x")
    before = listing(root)
    result = verify(check=True, **arguments)
    assert listing(root) == before
    assert not result["changed"]
    bad = damage == "lost" or (damage == "content" and arguments.get("mode") != "quick")
    assert result.get("failed", False) is bad


def test_repaired_without_a_network(verify: Run, root: Path, served: Store) -> None:
    served_path(served, "minilm/vocab.txt").unlink()
    served_path(served, "minilm/vocab.txt").write_bytes(b"something else")
    shutil.rmtree(served_path(served, "minilm/1_Pooling"))
    blob_path(served, SMALL["llama"]["weights/model-1.safetensors"]).chmod(0o600)
    blob_path(served, MINILM["config.json"]).unlink()
    assert verify(check=True)["failed"]
    result = verify(repair=True)
    assert result["changed"]
    assert sorted(f"{defect['model']}/{defect['path']}" for defect in result["repaired"]) == [
        "llama/config.json",
        "llama/weights/model-1.safetensors",
        "minilm/1_Pooling/config.json",
        "minilm/config.json",
        "minilm/vocab.txt",
    ]
    assert (result["corrupt"], result["missing"], result["downloaded_bytes"]) == ([], [], 0)
    assert sorted(result["verified"]) == sorted(ALL)
    repaired = [event for event in Ledger(served.root).events() if event["event"] == "repaired"]
    assert len(repaired) == 5
    for arguments in ({"check": True}, {}, {"repair": True}, {"mode": "quick"}):
        again = verify(**arguments)
        assert (again["changed"], again["repaired"], again.get("failed")) == (False, [], None)
    for name, files in SMALL.items():
        for path, content in files.items():
            assert (root / "current" / name / path).read_bytes() == content


def test_quick_repair_of_times(verify: Run, served: Store) -> None:
    os.utime(blob_path(served, VOCAB), (1, 1))
    assert "it was written to since it was received" in verify(mode="quick")["msg"]
    assert not verify().get("failed")
    assert verify(mode="quick", repair=True)["changed"]
    assert not verify(mode="quick").get("failed")


def test_repair_that_needs_the_network_fails_in_one_sentence(verify: Run, root: Path, served: Store) -> None:
    """What was found is told and written down all the same."""
    flip(blob_path(served, VOCAB), 0)
    content = blob_path(served, VOCAB).read_bytes()
    ledger = root / "ledger.jsonl"
    former = ledger.read_bytes()
    result = verify(repair=True)
    assert result["msg"].startswith(
        f"1 of {len(ALL)} files of generation 1 are not as they must be; the first: vocab.txt of minilm: "
    )
    assert "; it could not be repaired: vocab.txt of minilm: no answer from 127.0.0.1:9: " in result["msg"]
    assert [defect["path"] for defect in result["corrupt"]] == ["vocab.txt"]
    assert (result["missing"], result["repaired"], result["downloaded_bytes"]) == ([], [], 0)
    events = [json.loads(line) for line in ledger.read_bytes().removeprefix(former).splitlines()]
    assert {"corrupt", "verified"} == {event["event"] for event in events}
    assert blob_path(served, VOCAB).read_bytes() == content
    assert list((root / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generation": 9}, "generation 9 is not in "),
        ({"generation": -1}, "generation -1 is not in "),
        ({"generation": 0}, "generation 0 is not in "),
        ({"generation": "previous"}, "generation"),
        ({"budget_seconds": 0}, "budget_seconds: expected more than 0, found 0"),
        ({"budget_seconds": -1}, "budget_seconds: expected more than 0, found -1"),
        ({"mode": "slow"}, "value of mode must be one of: full, quick"),
        ({"repair": "maybe"}, "repair"),
    ],
    ids=str,
)
def test_wrong_arguments(verify: Run, root: Path, served: Store, arguments: dict[str, Any], message: str) -> None:
    before = listing(root)
    for check in (True, False):
        result = verify(check=check, **arguments)
        assert result["failed"]
        assert message in result["msg"]
    assert listing(root) == before


def test_nothing_to_verify(verify: Run, root: Path) -> None:
    assert verify()["msg"] == f"{root} does not exist; stage something first"
    assert not root.exists()
    with Store.create(str(root)) as store:
        assert verify()["msg"] == f"{root} serves no generation; name one to verify, or serve one first"
        stage(store, SMALL)
        assert f"{root} serves no generation" in verify()["msg"]
        assert not verify(generation=1).get("failed")


@pytest.mark.parametrize("damage", ["manifest", "tree", "link"])
def test_generation_that_cannot_be_read(verify: Run, root: Path, served: Store, damage: str) -> None:
    if damage == "manifest":
        served_path(served, ".generation.json").write_bytes(b"")
        message = "manifest of generation 1 is damaged; stage its models again"
    elif damage == "tree":
        shutil.rmtree(served_path(served, ""))
        message = "generation 1 is not in "
    else:
        (root / "current").unlink()
        (root / "current").symlink_to("/etc")
        message = "current is not a link to one of the store's generations"
    for arguments in ({}, {"repair": True}, {"mode": "quick"}):
        result = verify(**arguments)
        assert result["failed"]
        assert message in result["msg"]


def test_ledger_that_cannot_be_written_is_a_warning(verify: Run, root: Path, served: Store) -> None:
    """A disk may be full, or read-only; whether the models are whole can be told all the same."""
    before = without_work(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        result = verify()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(result["verified"]) == sorted(ALL)
    assert f"the ledger of {root} could not be written: File too large" in str(result["warnings"])
    assert list((root / "work").iterdir()) == []
    assert without_work(root) == before

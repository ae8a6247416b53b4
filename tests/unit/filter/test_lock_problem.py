# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""lock_problem: whatever is in the lock's place, there is one sentence about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.filter.lock_problem import lock_problem
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import dump_lock
from tests.unit.stores import MINILM, models_of

LOCK = dump_lock(models_of({"minilm": MINILM, "other": MINILM}))
CONFLICT = "<<<<<<< HEAD\n" + LOCK + "=======\n" + LOCK + ">>>>>>> theirs\n"


@pytest.mark.parametrize("wanted", [[], ["minilm"], ["other", "minilm"]])
def test_there_is_none(tmp_path: Path, wanted: list[str]) -> None:
    lock = tmp_path / "models.lock.json"
    lock.write_text(LOCK, encoding="utf-8")
    assert lock_problem(str(lock), wanted) == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected the lock on the control node, found no file"),
        (b"", "not valid JSON"),
        (CONFLICT.encode(), "not valid JSON"),
        (LOCK.encode()[:-30], "not valid JSON"),
        (LOCK.replace('"lock_version": 1', '"lock_version": 2').encode(), "lock_version: expected 1, found 2"),
        (b'{"lock_version": 1}', "models"),
        (json.dumps({"lock_version": 1, "models": [{"name": "../x"}]}).encode(), "models[0]"),
        (b"[]", "expected"),
        (b"\xff\xfe", "UTF-8"),
    ],
    ids=["no file", "empty", "conflict", "cut off", "newer", "no models", "hostile", "a list", "binary"],
)
def test_it_is_told(tmp_path: Path, content: bytes | None, expected: str) -> None:
    lock = tmp_path / "models.lock.json"
    if content is not None:
        lock.write_bytes(content)
    problem = lock_problem(str(lock), [])
    assert problem.startswith(f"{lock}: ")
    assert expected in problem
    assert "\n" not in problem
    assert len(problem) < 500


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    lock = tmp_path / "models.lock.json"
    lock.write_text(LOCK, encoding="utf-8")
    problem = lock_problem(str(lock), ["minilm", "mini", "maxi"])
    assert problem.startswith(f"{lock}: mini, maxi of model_store_models not found; it has minilm, other; ")
    assert "expected the lock" in lock_problem(str(tmp_path), [])

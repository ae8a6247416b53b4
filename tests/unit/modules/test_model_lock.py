# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""model_lock before it asks the Hub: what it makes of its arguments and of the lock that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import dump_lock
from ansible_collections.gpufleet.models.plugins.modules import model_lock
from ansible_collections.gpufleet.models.plugins.modules.model_lock import parse_upgrade
from tests.unit.modules.conftest import Run
from tests.unit.stores import NO_HUB, SMALL, listing, models_of

ENTRY = {"name": "minilm", "repo_id": "acme/minilm"}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """The lock file, in a directory of its own."""
    (tmp_path / "inventory").mkdir()
    return tmp_path / "inventory" / "models.lock.json"


@pytest.fixture
def lock(run: Run, dest: Path) -> Run:
    """Call the module; the Hub that it asks answers nothing, and soon it gives up."""

    def lock(**arguments: Any) -> dict[str, Any]:
        defaults = {"catalog": [ENTRY], "dest": str(dest), "endpoint": NO_HUB.endpoint, "timeout": 0.2}
        return run(model_lock, **{**defaults, **arguments})

    return lock


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"catalog": []}, "catalog: expected a list of at least one model, found []"),
        ({"catalog": [{**ENTRY, "name": "../x"}]}, "catalog[0].name: expected a name of letters"),
        ({"catalog": [{**ENTRY, "repo_id": "a/b/c"}]}, "catalog[0] (minilm).repo_id: expected a repository id"),
        ({"catalog": [{**ENTRY, "revision": "a b"}]}, "catalog[0] (minilm).revision: expected a branch"),
        ({"catalog": [{**ENTRY, "include": [""]}]}, "catalog[0] (minilm).include: expected a list of globs"),
        ({"catalog": [ENTRY, {**ENTRY, "name": "MiniLM"}]}, "catalog: 'MiniLM' and 'minilm' are the same path"),
        ({"catalog": [{"name": "minilm"}]}, "missing required arguments: repo_id found in catalog"),
        ({"catalog": [{**ENTRY, "revison": "v1"}]}, "Unsupported parameters"),
        ({"catalog": [{**ENTRY, "allow_pickle": "perhaps"}]}, "allow_pickle"),
        ({"catalog": "minilm"}, "dictionary requested"),
        ({"catalog": None}, "argument 'catalog' is of type NoneType"),
        ({"upgrade": ["other"]}, "upgrade: other is not in the catalog"),
        ({"upgrade": "minilm, other"}, "upgrade: other is not in the catalog"),
        ({"upgrade": {"minilm": True}}, "upgrade: expected true, false or a list of names, found {'minilm': True}"),
        ({"timeout": 0}, "timeout: expected more than 0 seconds, found 0"),
        ({"timeout": -1}, "timeout: expected more than 0 seconds, found -1"),
        ({"endpoint": "huggingface.co"}, "endpoint"),
    ],
    ids=lambda value: ascii(value)[:60] if isinstance(value, dict) else "",
)
def test_wrong_arguments(lock: Run, dest: Path, arguments: dict[str, Any], message: str) -> None:
    former = dump_lock(models_of(SMALL))
    dest.write_text(former, encoding="utf-8")
    before = listing(dest.parent)
    for check in (True, False):
        result = lock(check=check, **arguments)
        assert result["failed"]
        assert message in result["msg"]
    assert listing(dest.parent) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not a text file; restore it from version control"),
        (b"<<<<<<< HEAD\n", "not valid JSON"),
        (b"[]", "expected a mapping"),
        (b'{"lock_version": 2, "models": []}', "lock_version: expected 1, found 2"),
        (dump_lock(models_of(SMALL)).replace("vocab.txt", "../vocab.txt").encode(), "expected a relative path"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"lock_version": 1, "models": [' + b"[" * 900 + b"]" * 900 + b"]}", "models[0]: expected a mapping"),
    ],
    ids=range(8),
)
def test_lock_that_is_none(lock: Run, dest: Path, content: bytes, message: str) -> None:
    dest.write_bytes(content)
    before = listing(dest.parent)
    for check in (True, False):
        result = lock(check=check)
        assert result["msg"].startswith(f"{dest}: ")
        assert message in result["msg"]
    assert listing(dest.parent) == before


def test_lock_in_the_place_of_a_directory(lock: Run, dest: Path) -> None:
    dest.mkdir()
    assert lock()["msg"].startswith(f"{dest}: Is a directory")


@pytest.mark.parametrize("former", [None, SMALL], ids=["first", "again"])
def test_hub_that_does_not_answer(lock: Run, dest: Path, former: Any) -> None:
    if former:
        dest.write_text(dump_lock(models_of(former)), encoding="utf-8")
    before = listing(dest.parent)
    result = lock(token="hf_notfortheeyesofothers")
    assert result["msg"].startswith(f"acme/minilm: no good answer from {NO_HUB.endpoint} within 0.2 s; the last: ")
    assert "hf_notfortheeyesofothers" not in json.dumps(result)
    assert listing(dest.parent) == before


@pytest.mark.parametrize(
    ("value", "upgrade"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("no", False),
        ([], ()),
        (["minilm"], ("minilm",)),
        (("minilm", "llama"), ("minilm", "llama")),
        ("minilm", ("minilm",)),
        (" minilm , llama,", ("minilm", "llama")),
        ("", ()),
    ],
)
def test_upgrade(value: object, upgrade: object) -> None:
    assert parse_upgrade(value) == upgrade


@pytest.mark.parametrize("value", [None, 5, 1.5, {}, [1], [None], [["minilm"]], [True]])
def test_wrong_upgrade(value: object) -> None:
    with pytest.raises(InvalidInput, match="upgrade: expected true, false or a list of names"):
        parse_upgrade(value)

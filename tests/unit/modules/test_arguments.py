# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Arguments that several modules have: wrong ones are one sentence, and nothing is touched for them."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._store import Store
from ansible_collections.gpufleet.models.plugins.modules import (
    model_generation,
    model_prune,
    model_store_info,
    model_verify,
)
from tests.unit.modules.conftest import Run
from tests.unit.stores import MINILM, NEVER, SMALL, listing, models_of, serve, stage, without_work

MODELS = [model.to_json() for model in models_of(SMALL)]

# Arguments that make each module work.
WORKING: dict[ModuleType, dict[str, Any]] = {
    model_generation: {"models": MODELS},
    model_prune: {},
    model_store_info: {},
    model_verify: {},
}
WRITERS = [model_generation, model_prune, model_verify]
RECEIVERS = [model_generation, model_verify]


def name_of(value: Any) -> str:
    """Return what to call a parameter."""
    return value.__name__.rpartition(".")[2] if isinstance(value, ModuleType) else ascii(value)


def check_refused(run: Run, module: ModuleType, place: Path, message: str, **arguments: Any) -> None:
    """Check that these arguments are refused with that message, in both modes, and that nothing was touched."""
    before = listing(place.parent)
    for check in (True, False):
        result = run(module, check=check, **{"root": str(place), **WORKING[module], **arguments})
        assert result.get("failed"), result
        assert message in result["msg"]
        assert listing(place.parent) == before


@pytest.mark.parametrize("module", WORKING, ids=name_of)
@pytest.mark.parametrize("path", ["models", "./models", "", "../models"])
def test_root_must_be_absolute(run: Run, root: Path, module: ModuleType, path: str) -> None:
    check_refused(run, module, root, f"root: expected an absolute path, found {path!r}", root=path)


@pytest.mark.parametrize("module", WORKING, ids=name_of)
def test_root_must_be_a_directory(run: Run, root: Path, module: ModuleType) -> None:
    root.write_bytes(b"x")
    check_refused(run, module, root, f"{root} is not a directory; choose another root")


def test_root_must_be_a_path(run: Run, root: Path) -> None:
    """Ansible itself refuses such an argument where it logs to syslog and Python is new."""
    for module in WORKING:
        check_refused(run, module, root, "", root=f"{root}/a\0b")


@pytest.mark.parametrize("module", WRITERS, ids=name_of)
@pytest.mark.parametrize("key", ["owner", "group"])
def test_account_must_exist(run: Run, root: Path, store: Store, module: ModuleType, key: str) -> None:
    serve(store, SMALL)
    check_refused(run, module, root, "make the account first, or name another one", **{key: "no-such-account"})


@pytest.mark.parametrize("module", RECEIVERS, ids=name_of)
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("connections", 0, "connections: expected 1 to 64, found 0"),
        ("connections", 65, "connections: expected 1 to 64, found 65"),
        ("stall_timeout", 0, "stall_timeout: expected 1 to 3600, found 0"),
        ("stall_timeout", "nan", "stall_timeout: expected 1 to 3600, found nan"),
        ("timeout", 0, "timeout: expected more than 0 seconds, found 0"),
        ("timeout", -1, "timeout: expected more than 0 seconds, found -1"),
        ("retries", -1, "retries: expected 0 to 100, found -1"),
        ("retries", 101, "retries: expected 0 to 100, found 101"),
        ("endpoint", "huggingface.co", "endpoint: 'huggingface.co': expected an http or https URL"),
        ("endpoint", "", "endpoint: '': expected an http or https URL"),
        ("endpoint", "ftp://hub", "endpoint: 'ftp://hub': expected an http or https URL"),
        ("token", "hf_größe", "token: expected printable ASCII characters"),
        ("token", "hf_a b", "token: expected printable ASCII characters"),
        ("token", "hf_a\nX-Header: b", "token: expected printable ASCII characters"),
        ("connections", "many", "connections"),
        ("stall_timeout", "long", "stall_timeout"),
    ],
)
def test_limits(run: Run, root: Path, store: Store, module: ModuleType, key: str, value: Any, message: str) -> None:
    stage(store, SMALL)
    check_refused(run, module, root, message, **{key: value})


@pytest.mark.parametrize("module", WORKING, ids=name_of)
def test_unknown_argument(run: Run, root: Path, module: ModuleType) -> None:
    check_refused(run, module, root, "Unsupported parameters", no_such_argument=1)


@pytest.mark.parametrize("module", WRITERS, ids=name_of)
def test_other_writer_is_named(run: Run, root: Path, store: Store, module: ModuleType) -> None:
    serve(store, {"other": MINILM})
    with Store.create(str(root)) as other, other.writer("model_prune", 0, NEVER):
        before = without_work(root)
        arguments = {**WORKING[module], **({"repair": True} if module is model_verify else {})}
        result = run(module, root=str(root), lock_timeout=0.2, **arguments)
        assert result["failed"]
        assert f"{root} is in use by model_prune (process {os.getpid()} on " in result["msg"]
        assert without_work(root) == before
        # Who waits tells so, and is forgotten then.
        assert list(root.glob("work/*")) == []
        # Looking needs no lock.
        before = listing(root)
        assert not run(module, check=True, root=str(root), lock_timeout=0.2, **arguments).get("failed")
        assert listing(root) == before


@pytest.mark.parametrize("module", RECEIVERS, ids=name_of)
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_token_is_shown_nowhere(
    run: Run, root: Path, store: Store, monkeypatch: pytest.MonkeyPatch, module: ModuleType, source: str
) -> None:
    token = "hf_notfortheeyesofothers"
    serve(store, SMALL)
    given = {}
    if source == "environment":
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        given["token"] = token
    for wrong in ({}, {"retries": -1}, {"root": "relative"}):
        result = run(module, **{"root": str(root), **WORKING[module], **given, **wrong})
        assert token not in str(result)
    assert token.encode() not in b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_everything_that_is_made_gets_its_owner(run: Run, root: Path) -> None:
    owner, group = pwd.getpwnam("nobody"), grp.getgrall()[-1]
    with Store.create(str(root)) as store:
        stage(store, SMALL)
    former = {path for path in root.rglob("*") if path.is_dir()}
    changed = {**MODELS[0], "files": MODELS[0]["files"][:2]}
    result = run(model_generation, root=str(root), models=[changed], owner=owner.pw_name, group=group.gr_name)
    assert result["changed"]
    made = [root / "current", *(root / "generations" / "2").rglob("*"), root / ".lock"]
    for path in made:
        if path not in former and path.lstat().st_nlink == 1:
            assert (path.lstat().st_uid, path.lstat().st_gid) == (owner.pw_uid, group.gr_gid), path

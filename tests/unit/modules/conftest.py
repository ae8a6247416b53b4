# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules are called as Ansible calls them: arguments go in, JSON comes out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.gpufleet.models.plugins.module_utils._store import Store

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no trace in this process, and take nothing from its environment."""
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Modules run on hosts, whatever of the control node's Ansible other tests have imported into this process.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call a module's ``main()`` with arguments and return its result; ``check`` and ``diff`` are Ansible's modes."""

    def run(module: ModuleType, *, check: bool = False, diff: bool = False, **arguments: Any) -> dict[str, Any]:
        internal = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_remote_tmp": str(tmp_path / "tmp")}
        with patch_module_args({**arguments, **internal}), pytest.raises(SystemExit) as ended:
            module.main()  # any other exception would be a traceback for the user
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(ended.value.code) is result.get("failed", False)
        if result.get("failed"):
            assert result["msg"]
            assert "\n" not in result["msg"]
        return result

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    """An empty store there."""
    with Store.create(str(root)) as store:
        yield store

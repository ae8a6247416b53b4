# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python_env: wrong arguments are one sentence, and nothing is touched or run for them, nor in check mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._cuda import Driver
from ansible_collections.gpufleet.models.plugins.modules import python_env
from tests.unit.modules.conftest import Run

PIN = f"apple==1.0 --hash=sha256:{'a' * 64}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "env"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "env"}, "path: expected an absolute path, found 'env'"),
        ({"requirements": "apple"}, "requirements: line 1"),
        ({"requirements": ""}, "requirements"),
        ({"python": "3.9"}, "python: expected a version from 3.10 on, or an absolute path, found '3.9'"),
        ({"python": "2.7"}, "python: expected"),
        ({"python": "python3"}, "python: expected"),
        ({"python": "/usr/bin/python3", "managed_python": True}, "python: expected"),
        ({"keep": 0}, "keep: expected at least 1, found 0"),
        ({"timeout": 0}, "timeout: expected more than 0 seconds, found 0"),
        ({"imports": ["os; import sys"]}, "imports: expected names of modules"),
        ({"imports": [""]}, "imports: expected names of modules"),
        ({"index_url": "index.example/simple"}, "index_url: expected http, https or file URLs"),
        ({"extra_index_urls": ["https://a b/"]}, "extra_index_urls: expected http, https or file URLs"),
        ({"find_links": ["wheels"]}, "find_links: expected absolute paths"),
        ({"find_links": ["https://u:p@host/"]}, "find_links: expected absolute paths, or URLs without a password"),
        ({"offline": True}, "offline: expected find_links and no index"),
        ({"offline": True, "find_links": ["/w"], "index_url": "https://x/"}, "offline: expected find_links"),
        ({"environment": "previous"}, "mutually exclusive"),
        ({"requirements": None}, "requirements"),
    ],
    ids=str,
)
def test_wrong_arguments(run: Run, path: Path, arguments: dict[str, Any], message: str) -> None:
    given = {"path": str(path), "requirements": PIN, "uv": "/nonexistent", **arguments}
    given = {name: value for name, value in given.items() if value is not None}
    for check in (True, False):
        result = run(python_env, check=check, **given)
        assert result.get("failed"), result
        assert message in result["msg"]
    assert not path.parent.exists()


def test_check_mode_touches_and_runs_nothing(run: Run, path: Path) -> None:
    result = run(python_env, check=True, diff=True, path=str(path), requirements=PIN, uv="/nonexistent", python="3.99")
    assert result["changed"]
    assert (result["environment"], result["directory"], result["packages"], result["interpreter"]) == (None,) * 4
    assert (result["diff"]["before"], result["diff"]["after"]) == ("", "apple==1.0\n")
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("version", "driver", "works"),
    [("2.13.0+cu130", "570.86.10", False), ("2.13.0+cu128", "570.86.10", True), ("2.13.0+cpu", "390.1", True)],
)
def test_driver_is_looked_at_before_anything_is_fetched(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, version: str, driver: str, works: bool
) -> None:
    monkeypatch.setattr(python_env, "loaded_driver", lambda: Driver(driver, 1))
    requirements = f"torch=={version} --hash=sha256:{'a' * 64}"
    for check in (True, False):
        result = run(python_env, check=check, path=str(path), requirements=requirements, uv="/nonexistent")
        if not works:
            assert "expected NVIDIA driver 580 or later, found 570.86.10" in result["msg"]
            assert result["msg"].endswith("nothing is served as before")
        elif check:
            assert result["changed"]
        else:
            assert "install uv" in result["msg"]
    assert not path.parent.exists()


@pytest.mark.parametrize("state", ["absent", "present"])
def test_nothing_there(run: Run, path: Path, state: str) -> None:
    for check in (True, False):
        if state == "absent":
            assert not run(python_env, check=check, path=str(path), state=state)["changed"]
        else:
            result = run(python_env, check=check, path=str(path), environment="previous")
            assert "has no environments" in result["msg"]
    assert not path.parent.exists()

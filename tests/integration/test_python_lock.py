# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python_lock with the real uv: what is locked can be installed, stays as it is, and comes from where it should."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.index import Index, Wheel
from tests.index.wheels import torch
from tests.integration.harness import ModuleProcess, Result, assert_sentence, environment

APPLE = Wheel("apple", "1.0")
APPLE_2 = Wheel("apple", "2.0")
PEAR = Wheel("pear", "1.0", requires=("apple", "plum ; sys_platform == 'win32'"))
PLUM = Wheel("plum", "1.0")


class Locker:
    """A control node with an index."""

    def __init__(self, index: Index, directory: Path) -> None:
        self.index = index
        self.home = directory / "home"
        self.home.mkdir()
        self.dest = directory / "python.lock.txt"

    def run(self, *requirements: str, **arguments: Any) -> Result:
        usual = {
            "requirements": list(requirements),
            "dest": str(self.dest),
            "index_url": self.index.url,
            "python": "3.10",
        }
        given = {name: value for name, value in {**usual, **arguments}.items() if value is not None}
        variables = environment(self.home, UV_HTTP_RETRIES="0", UV_HTTP_TIMEOUT="5")
        return ModuleProcess("python_lock", given, variables).finish()

    def ok(self, *requirements: str, **arguments: Any) -> Result:
        result = self.run(*requirements, **arguments)
        assert not result.failed, result.values
        return result

    def text(self) -> str:
        return self.dest.read_text(encoding="utf-8")


@pytest.fixture
def index() -> Iterator[Index]:
    with Index(APPLE, PEAR, PLUM) as index:
        yield index


@pytest.fixture
def locker(index: Index, tmp_path: Path) -> Locker:
    return Locker(index, tmp_path)


def test_check_real_check_real(locker: Locker) -> None:
    check = locker.ok("pear", _ansible_check_mode=True, _ansible_diff=True)
    assert not locker.dest.exists()
    real = locker.ok("pear", _ansible_diff=True)
    for result in (check, real):
        assert result.changed
        assert [(package["name"], package["after"], package["action"]) for package in result.packages] == [
            ("apple", "1.0", "added"),
            ("pear", "1.0", "added"),
        ]
        assert (result.diff["before"], result.diff["after"]) == ("", locker.text())
    before = locker.text()
    for mode in ({"_ansible_check_mode": True}, {}):
        again = locker.ok("pear", **mode)
        assert not again.changed
        assert {package["action"] for package in again.packages} == {"unchanged"}
    assert locker.text() == before
    # pip, which is another program, takes it as it is.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--isolated", "--require-hashes", "--no-deps"]
    command += ["--index-url", locker.index.url, "--target", str(locker.home / "x"), "-r", str(locker.dest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(locker.home))
    assert "Would install apple-1.0 pear-1.0" in done.stdout, done.stdout + done.stderr


def test_upgrade(locker: Locker) -> None:
    locker.ok("pear")
    locker.index.wheels.append(APPLE_2)
    assert not locker.ok("pear").changed
    assert not locker.ok("pear", upgrade=["pear"]).changed
    check = locker.ok("pear", upgrade=True, _ansible_check_mode=True)
    real = locker.ok("pear", upgrade=["apple"])
    for result in (check, real):
        assert (result.packages[0]["before"], result.packages[0]["after"]) == ("1.0", "2.0")
    assert f"apple==2.0 \\\n    --hash=sha256:{APPLE_2.sha256}" in locker.text()
    assert locker.ok("plum").packages[0] == {"name": "apple", "before": "2.0", "after": None, "action": "removed"}


def test_withdrawn_version_is_replaced(locker: Locker) -> None:
    locker.index.wheels[:] = [APPLE, APPLE_2]
    locker.ok("apple")
    locker.index.wheels[:] = [APPLE, Wheel("apple", "2.0", yanked=True)]
    assert locker.ok("apple", upgrade=True).packages[0]["after"] == "1.0"


def test_a_package_from_an_index_of_its_own(locker: Locker) -> None:
    """Neither does the package come from elsewhere, nor anything else from there."""
    locker.index.wheels.append(torch("9.9", None))
    with Index(torch("2.13.0+cu128", "12.8"), Wheel("apple", "9.9")) as other:
        result = locker.ok("torch", "apple", sources=[{"url": other.url, "packages": ["torch", "torchvision"]}])
    assert {package["name"]: package["after"] for package in result.packages} == {
        "apple": "1.0",
        "torch": "2.13.0+cu128",
    }


def test_for_one_python_or_for_all_later_ones(locker: Locker) -> None:
    """What only other versions of Python need cannot fail the lock, as there is nobody to have them."""
    modern = Wheel("modern", "1.0", requires=("pear ; python_version >= '3.13'", "quince ; python_version >= '3.14'"))
    locker.index.wheels.append(modern)
    assert [package["name"] for package in locker.ok("modern", python="3.12").packages] == ["modern"]
    assert "for Python 3.12 on Linux" in locker.text()
    assert ";" not in locker.text()
    assert_sentence(locker.run("modern", python="3.12+"), "quince")
    locker.index.wheels.append(Wheel("quince", "1.0"))
    locker.ok("modern", python="3.12+")
    assert "for Python 3.12 or later on Linux" in locker.text()
    assert "pear==1.0 ; python_full_version >= '3.13'" in locker.text()


def test_find_links_offline(locker: Locker, tmp_path: Path) -> None:
    APPLE.write(tmp_path / "wheels")
    locker.ok("apple", index_url=None, find_links=[str(tmp_path / "wheels")], offline=True)
    assert locker.index.requests == []
    assert APPLE.sha256 in locker.text()


def test_password_is_shown_nowhere(locker: Locker, tmp_path: Path) -> None:
    password = "QxZ7passwordNobodyMayEverSee93Kd"
    locker.index.user = f"reader:{password}"
    outputs = [locker.ok("pear").output, locker.run("quince").output]
    assert not any(password in output for output in outputs)
    found = subprocess.run(["grep", "-rl", password, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("requirements", "arguments", "fragments"),
    [
        (["quince"], {}, ["quince"]),
        (["apple > 1"], {}, ["apple"]),
        (["apple =="], {}, ["requirements: expected a package", "apple =="]),
        (["-r other.txt"], {}, ["requirements: expected a package", "-r other.txt"]),
        ([], {}, ["requirements: expected at least one"]),
        (["apple"], {"python": "3.9"}, ["python: expected a version from 3.10 on", "'3.9'"]),
        (["apple"], {"python": "/usr/bin/python3"}, ["python: expected a version"]),
        (["apple"], {"upgrade": 7}, ["upgrade: expected"]),
        (["apple"], {"upgrade": ["--all"]}, ["upgrade: expected"]),
        (["apple"], {"uv": "/nonexistent/uv"}, ["install uv"]),
        (["apple"], {"index_url": "http://127.0.0.1:9/simple"}, ["127.0.0.1"]),
        (["apple"], {"timeout": 0.0}, ["timeout: expected more than 0"]),
    ],
    ids=str,
)
def test_failure(locker: Locker, requirements: list[str], arguments: dict[str, Any], fragments: list[str]) -> None:
    locker.ok("apple")
    before = locker.text()
    assert_sentence(locker.run(*requirements, **arguments), *fragments)
    assert locker.text() == before


def test_lock_that_is_damaged(locker: Locker) -> None:
    locker.dest.write_text("apple\n", encoding="utf-8")
    assert_sentence(locker.run("apple"), "line 1", "'apple'")
    locker.dest.write_bytes(b"\xff\xfe")
    assert_sentence(locker.run("apple"), "not a text file")

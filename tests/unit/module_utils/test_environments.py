# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Environments on disk: which is served, which came before, what is wrong with one, and what goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._environments import (
    Environments,
    Manifest,
    installed_packages,
    served,
    torch_cuda,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput, StoreError

ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


@pytest.fixture
def link(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "env"


@pytest.fixture
def environments(link: Path) -> Environments:
    environments = Environments.create(str(link))
    environments.root.write(".lock", b"")
    return environments


def make(environments: Environments, digest: str) -> str:
    """Make an environment with one package."""
    name, directory = environments.start(digest)
    packages = Path(directory, "lib", "python3.12", "site-packages")
    (packages / "Some_Package-1.0.dist-info").mkdir(parents=True)
    Path(directory, "bin").mkdir()
    python = Path(sys.executable).resolve()
    Path(directory, "bin", "python").symlink_to(python)
    environments.finish(name, Manifest(digest, ("x==1",), "3.12.1", str(python), "0.1", {"some-package": "1.0"}, None))
    return name


def test_history(environments: Environments, link: Path) -> None:
    assert environments.current() is None
    assert environments.history() == []
    for digest in (ONE, TWO, THREE):
        environments.activate(make(environments, digest))
        assert (link / "bin" / "python").exists()
    assert environments.history() == [THREE, TWO, ONE]
    assert environments.previous() == TWO
    environments.activate(TWO, back=True)
    assert environments.history() == [TWO, ONE]
    environments.activate(ONE, back=True)
    with pytest.raises(InvalidInput, match="nothing to go back to"):
        environments.previous()
    # What was rolled back from does not come before what is served after it.
    environments.activate(THREE)
    assert environments.history() == [THREE, ONE]
    assert environments.surplus(2) == [TWO]
    assert environments.surplus(1) == [ONE, TWO]
    environments.remove(ONE)
    assert environments.history() == [THREE]


def test_crash_before_the_switch(environments: Environments, link: Path) -> None:
    """History names the new one first, and the link does not point to it."""
    for digest in (ONE, TWO):
        environments.activate(make(environments, digest))
    environments.root.write("history.json", f'["{THREE}", "{TWO}", "{ONE}"]'.encode())
    make(environments, THREE)
    assert environments.previous() == ONE


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, null]", b"\xff"])
def test_damaged_history(environments: Environments, content: bytes) -> None:
    environments.activate(make(environments, ONE))
    environments.root.write("history.json", content)
    assert environments.history() == [ONE]
    environments.activate(make(environments, TWO))
    assert environments.previous() == ONE


def test_made_again(environments: Environments) -> None:
    assert [make(environments, ONE), make(environments, ONE), make(environments, ONE)] == [ONE, f"{ONE}-2", f"{ONE}-3"]
    assert environments.whole(ONE, f"{ONE}-2") == f"{ONE}-2"
    assert environments.whole(TWO, None) is None


def test_problems(environments: Environments, link: Path) -> None:
    name = make(environments, ONE)
    directory = Path(environments.path(name))
    assert environments.problem(name) is None
    packages = directory / "lib/python3.12/site-packages"
    (packages / "other-2.0.dist-info").mkdir()
    assert environments.problem(name) == "its packages were changed by hand"
    (packages / "other-2.0.dist-info").rmdir()
    (directory / "bin" / "python").unlink()
    assert "its Python is not" in str(environments.problem(name))
    for content in (b"", b"[]", b'{"manifest_version": 2}', b'{"manifest_version": 1}', b"\xff"):
        (directory / ".python_env.json").write_bytes(content)
        assert environments.problem(name) == "it is gone or damaged"
    (directory / ".python_env.json").unlink()
    assert environments.problem(name) == "it is gone or damaged"
    assert environments.problem(TWO) == "it is gone or damaged"


@pytest.mark.parametrize(
    "target", ["/etc", "env.d", f"env.d/{ONE}/bin", "env.d/../home", "env.d/1", f"other.d/{ONE}", f"/opt/env.d/{ONE}"]
)
def test_foreign_link(link: Path, target: str) -> None:
    link.parent.mkdir()
    link.symlink_to(target)
    with pytest.raises(StoreError, match="not a link that this module made"):
        served(str(link))


def test_foreign_directory(link: Path) -> None:
    (link.parent / "env.d" / "precious").mkdir(parents=True)
    with pytest.raises(StoreError, match="was not made by this module"):
        Environments.open(str(link))


def test_clean_and_remove_all(environments: Environments, link: Path) -> None:
    environments.activate(make(environments, ONE))
    (link.parent / "env.d" / f".new-{TWO}" / "bin").mkdir(parents=True)
    (link.parent / "env.d" / f".old-{TWO}").mkdir()
    environments.clean()
    assert [name for name in environments.root.names() if name.startswith((".new", ".old"))] == []
    environments.remove_all()
    assert list(link.parent.iterdir()) == []


def test_packages_and_torch(tmp_path: Path) -> None:
    assert installed_packages(str(tmp_path)) == {}
    assert torch_cuda(str(tmp_path)) is None
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    (packages / "strawberry_graphql-0.3.1.dist-info").mkdir(parents=True)
    (packages / "torch-2.13.0+cu128.dist-info").mkdir()
    (packages / "torch").mkdir()
    assert installed_packages(str(tmp_path)) == {"strawberry-graphql": "0.3.1", "torch": "2.13.0+cu128"}
    assert torch_cuda(str(tmp_path)) is None
    version = packages / "torch" / "version.py"
    for line, cuda in (
        ("cuda: Optional[str] = '12.8'", "12.8"),
        ('cuda = "13.0"', "13.0"),
        ("cuda: Optional[str] = None", None),
        ("cuda = None", None),
    ):
        version.write_text(f"__version__ = '2.13.0'\n{line}\nhip = '6.4'\n", encoding="utf-8")
        assert torch_cuda(str(tmp_path)) == cuda

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python_env with a Python that the real uv fetches: this machine's own one, packed as uv expects it, from a file."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index import Index, Wheel
from tests.integration.harness import assert_sentence
from tests.integration.test_python_env import PythonHost

APPLE, APPLE_2 = Wheel("apple", "1.0"), Wheel("apple", "2.0")
MINOR = ".".join(map(str, sys.version_info[:2]))
PATCH = ".".join(map(str, sys.version_info[:3]))
NAME = f"cpython-{PATCH}-linux-{platform.machine()}-gnu"

# What a Python without packages and without its own tests can do without.
LEFT_OUT = {"test", "site-packages", "dist-packages", "__pycache__", "idlelib", "tkinter", "ensurepip"}


def pack_python(directory: Path) -> Path:
    """Pack this machine's Python; return the list of downloads that has it."""
    library = Path(sysconfig.get_path("stdlib"))

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(entry.name).parts
        # A distribution's Python has links to its configuration in /etc, which uv does not unpack.
        outside = entry.issym() and entry.linkname.startswith("/")
        left_out = LEFT_OUT.intersection(parts) or any(part.startswith("config-") for part in parts)
        return None if outside or left_out else entry

    archive = directory / "python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(Path(sys.executable).resolve(), f"python/bin/python{MINOR}")
        tar.add(library, f"python/lib/{library.name}", filter=wanted)
        for shared in Path(sysconfig.get_config_var("LIBDIR")).glob(f"libpython{MINOR}.so*"):
            tar.add(shared, f"python/lib/{shared.name}")
    major, minor, patch = sys.version_info[:3]
    downloads = directory / "downloads.json"
    entry = {
        "name": "cpython",
        "arch": {"family": platform.machine(), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": archive.as_uri(),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variant": None,
        "build": "20260101",
    }
    downloads.write_text(json.dumps({NAME: entry}), encoding="utf-8")
    return downloads


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_python(tmp_path_factory.mktemp("pythons"))


@pytest.fixture
def host(tmp_path: Path, downloads: Path) -> Iterator[PythonHost]:
    """A host that has no Python for environments, and a place to get one from."""
    with Index(APPLE, APPLE_2) as index:
        host = PythonHost(index, tmp_path)
        host.variables["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(downloads)
        yield host


def test_serve_again_and_remove(host: PythonHost) -> None:
    managed = {"python": MINOR, "managed_python": True}
    check = host.ok(APPLE, **managed, _ansible_check_mode=True)
    assert not host.directory.exists()
    real = host.ok(APPLE, **managed, imports=["apple", "ssl", "json"])
    assert check.digest == real.digest
    assert (real.python_version, real.interpreter) == (PATCH, None)
    host.assert_serves(APPLE)
    command = [host.link / "bin" / "python", "-c", "import sys; print(sys.base_prefix)"]
    base = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(base).resolve() == host.directory / ".python" / NAME
    for mode in ({"_ansible_check_mode": True}, {}):
        assert not host.ok(APPLE, **managed, uv="/nonexistent", **mode).changed
    # The next environment has the same Python, which is not fetched again.
    host.variables["UV_PYTHON_DOWNLOADS_JSON_URL"] = "/nonexistent"
    host.ok(APPLE_2, **managed)
    host.assert_serves(APPLE_2)
    # One that uses the host's own is another one.
    assert host.ok(APPLE_2).digest != check.digest
    host.ok(state="absent", requirements=None)
    assert list(host.link.parent.iterdir()) == []


def test_what_is_not_the_file_that_uv_knows_is_not_used(host: PythonHost, downloads: Path, tmp_path: Path) -> None:
    host.ok(APPLE)
    served = host.environments()
    known = json.loads(downloads.read_text(encoding="utf-8"))
    known[NAME]["sha256"] = "0" * 64
    forged = tmp_path / "downloads.json"
    forged.write_text(json.dumps(known), encoding="utf-8")
    host.variables["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(forged)
    result = host.run(APPLE_2, python=MINOR, managed_python=True)
    assert_sentence(result, f"{NAME} is not the Python that uv expects", f"environment {served[0]} is served as before")
    assert host.environments() == served
    host.assert_serves(APPLE)


def test_no_way_to_get_it(host: PythonHost, downloads: Path, tmp_path: Path) -> None:
    known = json.loads(downloads.read_text(encoding="utf-8"))
    known[NAME]["url"] = "http://127.0.0.1:9/python.tar.gz"
    unreachable = tmp_path / "downloads.json"
    unreachable.write_text(json.dumps(known), encoding="utf-8")
    host.variables["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(unreachable)
    assert_sentence(host.run(APPLE, python=MINOR, managed_python=True), "127.0.0.1:9", "nothing is served as before")
    assert_sentence(
        host.run(APPLE, python="3.98", managed_python=True), "uv has no Python 3.98", "nothing is served as before"
    )
    assert not host.link.exists()

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cuda_driver_keep, with the real apt and dpkg, in directories of their own and with an archive of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._driver_kept import Kept
from ansible_collections.gpufleet.models.plugins.module_utils._driver_types import APT_INSTALL
from ansible_collections.gpufleet.models.plugins.modules import cuda_driver_keep
from tests.unit.modules.conftest import Run

STATUS = "Status: install ok installed\n"


class Apt:
    """A host's apt, its archive, and the packages that are installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.archive = directory / "archive"
        self.cache = directory / "cache" / "archives"
        self.kept = directory / "kept"
        for path in ("archive", "state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
            (directory / path).mkdir(parents=True)
        self.status = directory / "state" / "status"
        self.status.touch()
        (directory / "etc" / "sources.list").write_text(f"deb [trusted=yes] file:{self.archive} ./\n", encoding="utf-8")
        self.config = directory / "apt.conf"
        lines = (
            f'Dir::State "{directory}/state";',
            f'Dir::State::status "{self.status}";',
            f'Dir::Cache "{directory}/cache";',
            f'Dir::Etc "{directory}/etc";',
            'APT::Sandbox::User "";',
            'Debug::NoLocking "true";',
        )
        self.config.write_text("\n".join(lines), encoding="utf-8")

    def control(self, name: str, version: str, **fields: str) -> str:
        values = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "nobody <nobody@example.org>",
            **fields,
            "Description": "nothing",
        }
        return "".join(f"{field}: {value}\n" for field, value in values.items())

    def offer(self, name: str, version: str, **fields: str) -> Path:
        """Have a package in the archive."""
        root = self.directory / "build"
        (root / "DEBIAN").mkdir(parents=True)
        control = self.control(name, version, **fields)
        (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
        (root / "file").write_bytes(os.urandom(100_000))
        path = self.archive / f"{name}_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(path)], check=True, capture_output=True)
        shutil.rmtree(root)
        content = path.read_bytes()
        stanza = (
            f"{control}Filename: ./{path.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
        (self.archive / f"{path.name}.stanza").write_text(stanza, encoding="utf-8")
        self.index()
        return path

    def drop(self, path: Path) -> None:
        """Have a package no more."""
        path.unlink()
        (self.archive / f"{path.name}.stanza").unlink()
        self.index()

    def index(self) -> None:
        """Write the archive's index anew; the host has not read it yet."""
        stanzas = sorted(self.archive.glob("*.stanza"))
        text = "\n".join(stanza.read_text(encoding="utf-8") for stanza in stanzas)
        (self.archive / "Packages").write_text(text, encoding="utf-8")

    def install(self, name: str, version: str, **fields: str) -> None:
        """Have a package on the host."""
        with self.status.open("a", encoding="utf-8") as stream:
            stream.write(self.control(name, version, **fields).replace("\n", "\n" + STATUS, 1) + "\n")

    def keep(self, run: Run, **arguments: Any) -> dict[str, Any]:
        return run(cuda_driver_keep, path=str(self.kept), manager="apt", **arguments)

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.kept.iterdir()) if self.kept.exists() else []


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    apt = Apt(tmp_path)
    monkeypatch.setenv("APT_CONFIG", str(apt.config))
    monkeypatch.setattr(cuda_driver_keep, "CACHES", {"apt": str(apt.cache)})
    return apt


FORMER = {"driver": "580.82.07-1", "dcgm": "1:4.4.1-1"}


def test_what_is_replaced_is_kept(run: Run, apt: Apt) -> None:
    """From the archive, whose index the host has not read yet."""
    offered = {apt.offer(name, version).name: name for name, version in FORMER.items()}
    apt.offer("driver", "580.95.05-1")
    result = apt.keep(run, packages=FORMER)
    assert result["changed"]
    assert apt.files == sorted(offered)
    assert result["kept"] == [str(apt.kept / name) for name in apt.files]
    for name in apt.files:
        assert (apt.kept / name).read_bytes() == (apt.archive / name).read_bytes()
    # What is here is not fetched again.
    shutil.rmtree(apt.archive)
    assert not apt.keep(run, packages=FORMER)["changed"]


def test_the_cache_of_apt_will_do(run: Run, apt: Apt) -> None:
    path = apt.offer("driver", "580.82.07-1")
    shutil.copy(path, apt.cache)
    apt.drop(path)
    assert apt.keep(run, packages={"driver": "580.82.07-1"})["changed"]
    assert apt.files == [path.name]


def test_a_damaged_file_in_the_cache_will_not_do(run: Run, apt: Apt) -> None:
    path = apt.offer("driver", "580.82.07-1")
    (apt.cache / path.name).write_bytes(path.read_bytes()[:50_000])
    apt.keep(run, packages={"driver": "580.82.07-1"})
    assert (apt.kept / path.name).read_bytes() == path.read_bytes()


def test_what_cannot_be_had_is_named(run: Run, apt: Apt) -> None:
    paths = {name: apt.offer(name, version) for name, version in FORMER.items()}
    apt.drop(paths["driver"])
    message = apt.keep(run, packages=FORMER)["msg"]
    assert message.startswith(
        "what would be replaced cannot be had any more, so there would be no way back: driver 580.82.07-1 (E: "
    )
    assert f"no package was changed. Put their files into {apt.kept}, or" in message
    assert "dcgm 1:" not in message
    # Somebody finds it.
    shutil.copy(paths["dcgm"], apt.kept / paths["driver"].name)
    assert not apt.keep(run, packages=FORMER)["changed"]


def test_apt_tells_what_else_it_replaces(run: Run, apt: Apt) -> None:
    """A distribution's driver has to go, and only apt knows that."""
    apt.install("driver", "580.82.07-1")
    apt.install("smi", "550-1")
    apt.install("smi-docs", "550-1", Depends="smi")
    apt.install("bystander", "1")
    for name, version in (("driver", "580.82.07-1"), ("smi", "550-1"), ("smi-docs", "550-1"), ("bystander", "1")):
        apt.offer(name, version)
    apt.offer("driver", "580.95.05-1", Conflicts="smi", Depends="modules")
    apt.offer("modules", "580.95.05-1")
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    result = apt.keep(
        run,
        command=[*APT_INSTALL, "driver=580.95.05-1"],
        before={"driver": "580.82.07-1", "smi": "550-1", "smi-docs": "550-1", "bystander": "1"},
    )
    assert result["changes"] == ["driver", "modules", "smi", "smi-docs"]
    assert apt.files == ["driver_580.82.07-1_all.deb", "smi-docs_550-1_all.deb", "smi_550-1_all.deb"]
    # The same when a run was killed, and what is installed now was not there before.
    result = apt.keep(
        run, command=[*APT_INSTALL, "driver=580.95.05-1"], before={"smi": "550-1", "driver": ""}, prune=True
    )
    assert apt.files == ["smi_550-1_all.deb"]


def test_what_apt_cannot_do_is_told_before_anything_is_changed(run: Run, apt: Apt) -> None:
    apt.offer("driver", "580.95.05-1", Depends="nowhere")
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    message = apt.keep(run, command=[*APT_INSTALL, "driver=580.95.05-1"])["msg"]
    assert message.startswith("apt cannot do this: ")
    assert "held broken packages; no package was changed" in message
    assert not apt.files


def test_the_rest_goes(run: Run, apt: Apt) -> None:
    path = apt.offer("driver", "580.82.07-1")
    (apt.kept / ".arriving-killed").mkdir(parents=True)
    for name in (".arriving-killed/part", "driver_570.1-1_all.deb", "something"):
        (apt.kept / name).write_text("x", encoding="utf-8")
    apt.keep(run, packages={"driver": "580.82.07-1"})
    assert len(apt.files) == 4
    assert apt.keep(run, packages={"driver": "580.82.07-1"}, prune=True)["changed"]
    assert apt.files == [path.name]
    assert apt.keep(run, prune=True)["changed"]
    assert not apt.files


def test_no_place_for_it(run: Run, apt: Apt) -> None:
    apt.kept.write_text("", encoding="utf-8")
    assert f"{apt.kept}: File exists; no package was changed" in apt.keep(run, packages=FORMER)["msg"]


@pytest.mark.parametrize(
    ("manager", "machine", "name", "version", "file"),
    [
        ("apt", "x86_64", "libcuda1", "580.82.07-1", "libcuda1_580.82.07-1_amd64.deb"),
        ("apt", "aarch64", "dcgm", "1:4.4.1-1", "dcgm_1%3a4.4.1-1_arm64.deb"),
        ("apt", "x86_64", "libnvidia-ml1:i386", "580.82.07-1", "libnvidia-ml1_580.82.07-1_i386.deb"),
        ("dnf", "x86_64", "nvidia-driver-cuda", "3:580.82.07-1.el9", "nvidia-driver-cuda-580.82.07-1.el9.x86_64.rpm"),
        ("dnf", "x86_64", "nvidia-kmod-common", "3:580.82.07-1.el9", "nvidia-kmod-common-580.82.07-1.el9.noarch.rpm"),
    ],
)
def test_names_of_files(tmp_path: Path, manager: str, machine: str, name: str, version: str, file: str) -> None:
    kept = Kept(str(tmp_path), manager, machine)
    assert kept.find(name, version) is None
    (tmp_path / file).touch()
    assert kept.find(name, version) == str(tmp_path / file)
    assert kept.find(name, version + "0") is None

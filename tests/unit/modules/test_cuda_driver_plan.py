# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cuda_driver_plan: it looks at a host and at a repository, and touches neither."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._driver_packages import Packages
from ansible_collections.gpufleet.models.plugins.module_utils._nvml_probe import Nvml
from ansible_collections.gpufleet.models.plugins.modules import cuda_driver_plan
from tests.unit import repositories
from tests.unit.modules.conftest import Run
from tests.unit.stores import listing

KEY = b"\x04" + bytes(range(200))
FINGERPRINT = hashlib.sha1(b"\x99\x00\xc9" + KEY).hexdigest().upper()
ARMORED = (
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
    + base64.encodebytes(b"\x99\x00\xc9" + KEY).decode()
    + "-----END PGP PUBLIC KEY BLOCK-----\n"
)

TOOLS = {
    "dpkg-query": "printf 'libc6\\tamd64\\t2.36-9\\tinstalled\\t, \\t\\n'",
    "dpkg": "echo amd64",
    "apt-mark": "",
}


class Web:
    """A web server with NVIDIA's repository."""

    def __init__(self) -> None:
        self.files = {"/Packages.gz": gzip.compress(repositories.debian(["580.95.05"]).encode())}
        self.files["/3bf863cc.pub"] = ARMORED.encode()
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                content = web.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture
def arguments(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Debian 12 with one GPU and no driver, and the arguments that plan for it."""
    device = tmp_path / "root/sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    for name, value in (("vendor", "0x10de"), ("device", "0x26b9"), ("class", "0x030200")):
        (device / name).write_text(f"{value}\n", encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
    monkeypatch.setattr(cuda_driver_plan, "read_gpu_users", lambda: ())
    monkeypatch.setattr(cuda_driver_plan, "probe", lambda: Nvml(None, "libnvidia-ml.so.1 is not installed"))
    monkeypatch.setattr(cuda_driver_plan.os, "uname", lambda: Uname)
    return {
        "root": str(tmp_path / "root"),
        "record": str(tmp_path / "record.json"),
        "repository": web.url,
        "fingerprint": FINGERPRINT,
    }


class Uname:
    machine = "x86_64"
    release = "6.1.0-40-amd64"


@pytest.mark.parametrize("check", [True, False])
def test_plan(run: Run, tmp_path: Path, arguments: dict[str, Any], web: Web, check: bool) -> None:
    before = listing(tmp_path)
    result = run(cuda_driver_plan, check=check, diff=True, **arguments)
    assert result["changed"] is check
    assert result["pending"]
    assert result["record_changed"]
    assert result["manager"] == "apt"
    assert result["driver"] == "580.95.05"
    assert "nvidia-driver-cuda=580.95.05-1" in result["install"]
    assert result["hold"] == sorted(result["packages"])
    assert {"path": "/usr/share/keyrings/gpufleet-cuda.asc", "content": ARMORED} in result["files"]
    assert result["record"]["before"]["versions"] == {"libc6": "2.36-9"}
    assert result["hardware"]["gpus"] == [{"address": "0000:01:00.0", "device": "26b9", "generation": "Ada"}]
    assert result["diff"]["before"] == ""
    assert "nvidia-driver-cuda 580.95.05-1\n" in result["diff"]["after"]
    assert sorted(web.asked) == ["/3bf863cc.pub", "/Packages.gz"]
    assert listing(tmp_path) == before


@pytest.mark.parametrize("version", ["", "580", "999"])
def test_no_gpu(run: Run, tmp_path: Path, arguments: dict[str, Any], web: Web, version: str) -> None:
    result = run(cuda_driver_plan, **{**arguments, "root": str(tmp_path / "empty")}, version=version)
    assert result["msg"] == "there is no NVIDIA GPU here, so there is nothing to do"
    assert not result["pending"]
    assert not result["record_changed"]
    assert not web.asked


UNKNOWN = {"ID": "slackware", "VERSION_ID": "15.0"}
KEPLER = "0x1024"
CONTAINER = "/run/nvidia/driver/usr/lib64/libnvidia-ml.so.1"


def let_a_driver_work(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], release: dict[str, str], device: str, nvml: Nvml
) -> None:
    """Have a driver that runs, on some distribution and some GPU, and no package manager to ask."""
    root = Path(arguments["root"])
    (root / "sys/bus/pci/devices/0000:01:00.0/device").write_text(f"{device}\n", encoding="utf-8")
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May 2\n", encoding="utf-8"
    )
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: release)
    monkeypatch.setattr(cuda_driver_plan, "probe", lambda: nvml)
    monkeypatch.delattr(cuda_driver_plan, "read_packages")


@pytest.mark.parametrize("version", ["", "470", "470.256.02"])
@pytest.mark.parametrize(
    ("release", "device", "nvml", "state"),
    [
        (UNKNOWN, "0x26b9", Nvml("470.256.02", None), "works"),
        ({"ID": "debian", "VERSION_ID": "12"}, KEPLER, Nvml("470.256.02", None), "works"),
        ({"ID": "debian", "VERSION_ID": "12"}, "0x26b9", Nvml("470.256.02", None, CONTAINER), "works"),
        (UNKNOWN, "0x26b9", Nvml(None, "no library"), "is loaded (no library)"),
    ],
    ids=["distribution", "generation", "container", "no library"],
)
def test_a_driver_that_is_not_ours_to_manage(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    web: Web,
    release: dict[str, str],
    device: str,
    nvml: Nvml,
    state: str,
    version: str,
) -> None:
    let_a_driver_work(monkeypatch, arguments, release, device, nvml)
    result = run(cuda_driver_plan, **arguments, version=version)
    assert result["msg"] == f"driver 470.256.02 {state} and is left as it is"
    assert not result["pending"]
    assert not result["record_changed"]
    assert not result["reboot_required"]
    assert not web.asked


@pytest.mark.parametrize(
    ("release", "device", "wishes", "message"),
    [
        (UNKNOWN, "0x26b9", {"version": "580"}, "expected driver 580, found 470.256.02 at work; slackware 15.0 on x86"),
        (UNKNOWN, "0x26b9", {"dcgm": True}, "slackware 15.0 on x86_64: expected Debian 12"),
        (
            {"ID": "debian", "VERSION_ID": "12"},
            KEPLER,
            {"version": "580"},
            "expected driver 580, found 470.256.02 at work; a GPU of this host is Kepler or older",
        ),
    ],
)
def test_another_driver_than_the_one_that_cannot_be_managed(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    release: dict[str, str],
    device: str,
    wishes: dict[str, Any],
    message: str,
) -> None:
    let_a_driver_work(monkeypatch, arguments, release, device, Nvml("470.256.02", None))
    assert message in run(cuda_driver_plan, **arguments, **wishes)["msg"]


def test_an_unknown_platform_without_a_driver(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: UNKNOWN)
    assert "slackware 15.0 on x86_64: expected Debian 12" in run(cuda_driver_plan, **arguments)["msg"]
    for state, there in (("absent", "root"), ("present", "empty")):
        root = str(Path(arguments["root"]).parent / there)
        result = run(cuda_driver_plan, **{**arguments, "state": state, "root": root})
        assert "nothing to" in result["msg"]
        assert not result["pending"]


def test_a_driver_of_a_container_is_not_replaced(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    monkeypatch.setattr(cuda_driver_plan, "probe", lambda: Nvml("470.256.02", None, CONTAINER))
    message = run(cuda_driver_plan, **arguments, version="580")["msg"]
    assert message.startswith("expected driver 580, found 470.256.02 at work, which packages cannot replace")
    assert CONTAINER in message


def test_without_privileges(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """The record is root's alone; it is not needed where there is nothing to do."""

    def read(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(cuda_driver_plan, "_read", read)
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
    monkeypatch.setattr(cuda_driver_plan.os, "geteuid", lambda: 1000)
    for state in ("present", "absent"):
        message = run(cuda_driver_plan, **arguments, state=state)["msg"]
        assert message == f"{arguments['record']}: Permission denied; nothing was changed, use become: true"
    empty = {**arguments, "root": arguments["root"] + "-empty"}
    assert not run(cuda_driver_plan, **empty)["pending"]
    monkeypatch.setattr(cuda_driver_plan, "probe", lambda: Nvml("580.95.05", None))
    result = run(cuda_driver_plan, **arguments, version="580")
    assert result["msg"] == "driver 580.95.05 works and is left as it is"
    assert not result["privileged"]
    assert not result["record_changed"]
    assert "Permission denied" in run(cuda_driver_plan, **arguments, version="595")["msg"]


def test_nothing_to_remove(run: Run, arguments: dict[str, Any], web: Web) -> None:
    result = run(cuda_driver_plan, state="absent", **arguments)
    assert not result["pending"]
    assert result["record"] is None
    assert not web.asked


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"state": "previous"}, "nothing is recorded here to go back to"),
        ({"fingerprint": "0" * 40}, f"expected the key with the fingerprint {'0' * 40} alone, found {FINGERPRINT}"),
        ({"version": "570"}, "driver 570: the repository has 580.95.05 for Debian 12"),
        ({"repository": "http://127.0.0.1:1/cuda"}, "http://127.0.0.1:1/cuda/3bf863cc.pub: "),
        ({"repository": "nonsense"}, "nonsense/3bf863cc.pub: "),
        ({"signing_key": "/root/key"}, "signing_key and signing_certificate: expected both or none"),
        ({"modules": "free"}, "value of modules must be one of"),
        ({"dcgm": True}, None),
        ({"cuda_toolkit": "14-0"}, "the repositories do not have cuda-toolkit-14-0"),
    ],
    ids=str,
)
def test_failures_are_one_sentence(
    run: Run, tmp_path: Path, arguments: dict[str, Any], changed: dict[str, Any], message: str | None
) -> None:
    before = listing(tmp_path)
    result = run(cuda_driver_plan, **{**arguments, **changed})
    assert result.get("failed", False) is (message is not None)
    assert message is None or message in result["msg"]
    assert listing(tmp_path) == before


def test_damaged_repository(run: Run, arguments: dict[str, Any], web: Web) -> None:
    web.files["/Packages.gz"] = b"<html>"
    assert "expected a package index" in run(cuda_driver_plan, **arguments)["msg"]
    del web.files["/Packages.gz"]
    assert "Packages: HTTP Error 404" in run(cuda_driver_plan, **arguments)["msg"]


def test_damaged_record(run: Run, arguments: dict[str, Any]) -> None:
    Path(arguments["record"]).write_text("{", encoding="utf-8")
    assert "expected the record of this host's driver" in run(cuda_driver_plan, **arguments)["msg"]


def test_unreadable_record(run: Run, arguments: dict[str, Any]) -> None:
    Path(arguments["record"]).mkdir()
    assert "Is a directory" in run(cuda_driver_plan, **arguments)["msg"]


def test_unknown_key_of_a_platform(
    run: Run, arguments: dict[str, Any], web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: {"ID": "rhel", "VERSION_ID": "10.0"})
    monkeypatch.setattr(cuda_driver_plan, "read_packages", lambda _manager: Packages({}))
    result = run(cuda_driver_plan, **{**arguments, "fingerprint": ""})
    assert "CDF6BA43.pub: this key's fingerprint is not known for sure" in result["msg"]
    assert not web.asked


def test_the_record_is_read_again(run: Run, arguments: dict[str, Any]) -> None:
    record = run(cuda_driver_plan, **arguments)["record"]
    Path(arguments["record"]).write_text(json.dumps(record), encoding="utf-8")
    result = run(cuda_driver_plan, state="previous", **arguments)
    assert not result["pending"]  # as nothing was done yet
    assert result["record_after"] is None
    assert not result["record_changed"]


@pytest.mark.parametrize(
    ("wishes", "release", "configuration", "certificate"),
    [
        ({}, "debian 12", None, "/var/lib/dkms/mok.pub"),
        ({}, "ubuntu 24.04", None, "/var/lib/shim-signed/mok/MOK.der"),
        ({}, "debian 12", '# mok_certificate=/no\nmok_certificate="/etc/keys/mok.der"\n', "/etc/keys/mok.der"),
        (
            {"signing_key": "/k", "signing_certificate": "/c"},
            "debian 12",
            "mok_certificate=/etc/keys/mok.der\n",
            "/c",
        ),
    ],
    ids=str,
)
def test_the_certificate_of_modules(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    web: Web,
    wishes: dict[str, Any],
    release: str,
    configuration: str | None,
    certificate: str,
) -> None:
    system, version = release.split()
    web.files["/Packages.gz"] = gzip.compress(
        (repositories.debian if system == "debian" else repositories.ubuntu)(["580.95.05"]).encode()
    )
    read = cuda_driver_plan._read
    monkeypatch.setattr(
        cuda_driver_plan, "_read", lambda path: configuration if path == "/etc/dkms/framework.conf" else read(path)
    )
    monkeypatch.setattr(cuda_driver_plan, "_os_release", lambda: {"ID": system, "VERSION_ID": version})
    assert run(cuda_driver_plan, **arguments, **wishes)["certificate"] == certificate

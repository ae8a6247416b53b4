# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the hardware says: PCI devices, switches, modules, Secure Boot, and who uses a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._driver_generation import (
    branch_problem,
    generation_of,
    modules_for,
    spans_hosts,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_hardware import (
    GpuUser,
    Hardware,
    read_gpu_users,
    read_hardware,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import DriverError

KERNEL = "6.1.0-40-amd64"
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def write(root: Path, path: str, content: bytes | str) -> None:
    """Write a file, with its directories."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


def plug(root: Path, address: str, vendor: str, device: str, kind: str) -> None:
    """Plug a PCI device in."""
    for name, value in (("vendor", vendor), ("device", device), ("class", kind)):
        write(root, f"sys/bus/pci/devices/{address}/{name}", value + "\n")


def look(root: Path, machine: str = "x86_64") -> Hardware:
    """Look at a host."""
    return read_hardware(str(root), machine, KERNEL)


@pytest.mark.parametrize(
    ("device", "generation"),
    [
        (0x1024, "Kepler or older"),  # K40c
        (0x13F2, "Maxwell"),  # M60
        (0x17FD, "Maxwell"),  # M40
        (0x15F8, "Pascal"),  # P100
        (0x1B38, "Pascal"),  # P40
        (0x1BB3, "Pascal"),  # P4
        (0x1DB4, "Volta"),  # V100
        (0x1EB8, "Turing"),  # T4
        (0x2182, "Turing"),  # GTX 1660 Ti
        (0x20B0, "Ampere"),  # A100
        (0x2235, "Ampere"),  # A40
        (0x2230, "Ampere"),  # RTX A6000
        (0x25B6, "Ampere"),  # A16, A2
        (0x2330, "Hopper"),  # H100 SXM
        (0x233B, "Hopper"),  # H200 NVL
        (0x2342, "Grace Hopper"),  # GH200
        (0x26B9, "Ada"),  # L40S
        (0x27B8, "Ada"),  # L4
        (0x2901, "Blackwell"),  # B200
        (0x2941, "Blackwell"),  # GB200
        (0x2B85, "Blackwell"),  # RTX 5090
        (0x3182, "Blackwell"),  # B300
        (0x4000, "newer than Blackwell"),
    ],
)
def test_generation(device: int, generation: str) -> None:
    assert generation_of(device) == generation


@pytest.mark.parametrize(
    ("generations", "wanted", "modules"),
    [
        (["Ada"], "auto", "open"),
        (["Hopper", "Turing"], "auto", "open"),
        (["Ampere"], "proprietary", "proprietary"),
        (["Volta"], "auto", "proprietary"),
        (["Pascal", "Ada"], "auto", "proprietary"),
        (["Blackwell"], "auto", "open"),
        (["Grace Hopper"], "open", "open"),
        (["newer than Blackwell"], "auto", "open"),
    ],
)
def test_modules(generations: list[str], wanted: str, modules: str) -> None:
    assert modules_for(generations, wanted) == modules


@pytest.mark.parametrize(
    ("generations", "wanted", "message"),
    [
        (["Volta"], "open", "Volta has no open kernel modules"),
        (["Blackwell"], "proprietary", "Blackwell has no proprietary kernel modules"),
        (["Pascal", "Blackwell"], "auto", "Pascal proprietary ones, Blackwell open ones"),
        (["Ada", "Kepler or older"], "auto", "Kepler or older"),
    ],
)
def test_no_modules(generations: list[str], wanted: str, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        modules_for(generations, wanted)


@pytest.mark.parametrize(
    ("generations", "modules", "branch", "good"),
    [
        (["Volta"], "proprietary", 580, True),
        (["Volta"], "proprietary", 595, False),
        (["Turing"], "proprietary", 615, True),
        (["Turing"], "proprietary", 620, False),
        (["Turing"], "open", 620, True),
    ],
)
def test_branches(generations: list[str], modules: str, branch: int, good: bool) -> None:
    assert (branch_problem(generations, modules, branch) is None) == good


def test_imex_is_for_domains_that_span_hosts() -> None:
    assert spans_hosts(0x2941, "aarch64")
    assert not spans_hosts(0x2901, "x86_64")
    assert not spans_hosts(0x2E12, "aarch64")  # GB10 stands alone
    assert not spans_hosts(0x2342, "aarch64")


def test_nothing(tmp_path: Path) -> None:
    assert look(tmp_path) == Hardware((), None, False, None, False, False, False)


def test_devices(tmp_path: Path) -> None:
    plug(tmp_path, "0000:00:02.0", "0x8086", "0x3e92", "0x030000")  # another vendor's
    plug(tmp_path, "0000:01:00.0", "0x10de", "0x2204", "0x030000")
    plug(tmp_path, "0000:01:00.1", "0x10de", "0x1aef", "0x040300")  # its sound
    plug(tmp_path, "0000:02:00.0", "0x10de", "0x2330", "0x030200")
    hardware = look(tmp_path)
    assert [(gpu.address, gpu.generation) for gpu in hardware.gpus] == [
        ("0000:01:00.0", "Ampere"),
        ("0000:02:00.0", "Hopper"),
    ]
    assert hardware.generations == ("Ampere", "Hopper")
    assert hardware.nvswitch is None


def test_nvswitch_without_a_driver(tmp_path: Path) -> None:
    plug(tmp_path, "0000:05:00.0", "0x10de", "0x22a3", "0x068000")
    assert look(tmp_path).nvswitch == "nvlink4"
    assert look(tmp_path).gpus == ()


def test_nvswitch_with_a_driver(tmp_path: Path) -> None:
    directory = tmp_path / "proc/driver/nvidia-nvswitch/devices"
    directory.mkdir(parents=True)
    assert look(tmp_path).nvswitch is None
    (directory / "0000:05:00.0").mkdir()
    assert look(tmp_path).nvswitch == "nvlink4"


def test_nvswitch_of_nvlink_5(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/infiniband/mlx5_0/device/vpd", b"\x82\x10\x00ConnectX-7\x00")
    assert look(tmp_path).nvswitch is None
    write(tmp_path, "sys/class/infiniband/mlx5_4/device/vpd", b"\x90\x20\x00V3\x10SMDL=SW_MNG\xff\x00")
    assert look(tmp_path).nvswitch == "nvlink5"


@pytest.mark.parametrize(
    ("content", "on"),
    [
        (b"\x06\x00\x00\x00\x01", True),
        (b"\x06\x00\x00\x00\x00", False),
        (b"\x16\x00\x00\x00\x01", True),
        (b"\x01", False),
        (b"", False),
    ],
    ids=str,
)
def test_secure_boot(tmp_path: Path, content: bytes, on: bool) -> None:
    write(tmp_path, SECURE_BOOT, content)
    assert look(tmp_path).secure_boot == on


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("sys/module/nvidia/version", "580.95.05\n"),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC 12\n",
        ),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs@u)\n",
        ),
    ],
)
def test_loaded_module(tmp_path: Path, path: str, content: str) -> None:
    write(tmp_path, path, content)
    assert look(tmp_path).loaded == "580.95.05"
    assert not look(tmp_path).nouveau


def test_nouveau(tmp_path: Path) -> None:
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    assert look(tmp_path).nouveau
    assert look(tmp_path).loaded is None


def process(proc: Path, number: int, name: str, target: str, cgroup: str = "0::/user.slice\n") -> None:
    """Let a process run that has a file open."""
    write(proc, f"{number}/comm", f"{name}\n")
    write(proc, f"{number}/cgroup", cgroup)
    (proc / f"{number}/fd").mkdir()
    (proc / f"{number}/fd/3").symlink_to(target)


def test_users(tmp_path: Path) -> None:
    process(tmp_path, 7, "python3", "/dev/nvidia0", "0::/system.slice/inference.service\n")
    process(tmp_path, 100, "train", "/dev/nvidia-uvm")
    process(tmp_path, 101, "bash", "/dev/null")
    process(tmp_path, 102, "nvidia-persiste", "/dev/nvidiactl", "0::/system.slice/nvidia-persistenced.service\n")
    (tmp_path / "103").mkdir()  # gone in the meantime
    assert read_gpu_users(str(tmp_path)) == (GpuUser(7, "python3", "inference.service"), GpuUser(100, "train", None))
    assert str(GpuUser(7, "python3", "inference.service")) == "python3 (process 7 of inference.service)"


@pytest.mark.parametrize(
    ("line", "built"),
    [
        ("updates/dkms/nvidia.ko: updates/dkms/nvidia-peermem.ko\n", True),
        ("extra/nvidia.ko.xz:\n", True),
        ("kernel/drivers/video/nvidia.ko.zst:\n", True),
        ("kernel/drivers/video/fbdev/nvidia/nvidiafb.ko:\n", False),
        ("updates/dkms/nvidia-drm.ko: updates/dkms/nvidia.ko\n", False),
    ],
)
def test_modules_of_the_running_kernel(tmp_path: Path, line: str, built: bool) -> None:
    write(tmp_path, "lib/modules/6.1.0-39-amd64/modules.dep", "updates/dkms/nvidia.ko:\n")
    write(tmp_path, f"lib/modules/{KERNEL}/modules.dep", f"kernel/fs/ext4/ext4.ko: kernel/lib/crc.ko\n{line}")
    assert look(tmp_path).built == built

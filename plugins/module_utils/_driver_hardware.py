# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the hardware and the kernel of a host say, read from /sys and /proc; no tool is run, nothing is changed."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass

from ._cuda import loaded_driver
from ._driver_generation import generation_of, spans_hosts

_VENDOR = "0x10de"
_GPU_CLASSES = ("0x0300", "0x0302")  # VGA, 3D controller
_BRIDGE_CLASS = "0x0680"  # an NVSwitch up to NVLink 4 is an NVIDIA device of this class
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

# Services of the driver's own packages; the kernel cuts a process's name after 15 characters.
_OWN_SERVICES = ("nvidia-persistenced", "nv-fabricmanager", "nvidia-imex", "nv-hostengine", "nvlsm")
_NAME_LENGTH = 15


@dataclass(frozen=True)
class Gpu:
    """A GPU on the PCI bus, whether or not a driver is there."""

    address: str
    device: int
    generation: str


@dataclass(frozen=True)
class GpuUser:
    """A process that has a GPU's device file open; ``service`` is its systemd unit, if it has one."""

    pid: int
    name: str
    service: str | None

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid}{f' of {self.service}' if self.service else ''})"


@dataclass(frozen=True)
class Hardware:
    """What matters for the driver.

    ``loaded`` is the version of the kernel module that runs, ``built`` whether the running kernel has one that it could
    load. ``nvswitch`` is the generation of NVLink that switches on
    this host serve: ``nvlink4`` for all up to 4, ``nvlink5``, or None where there are none.
    """

    gpus: tuple[Gpu, ...]
    nvswitch: str | None
    imex: bool
    loaded: str | None
    built: bool
    nouveau: bool
    secure_boot: bool

    @property
    def generations(self) -> tuple[str, ...]:
        """The generations of the GPUs, each once."""
        return tuple(sorted({gpu.generation for gpu in self.gpus}))


def read_hardware(root: str, machine: str, kernel: str) -> Hardware:
    """Look at a host.

    :param root: Where ``sys``, ``proc`` and ``lib`` are.
    :param machine: The processor's architecture, as ``uname -m`` names it.
    :param kernel: The running kernel, as ``uname -r`` names it.
    """
    gpus = []
    switches = False
    for path in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        if _text(path, "vendor") != _VENDOR:
            continue
        kind = (_text(path, "class") or "")[:6]
        if kind in _GPU_CLASSES:
            device = int(_text(path, "device") or "0", 16)
            gpus.append(Gpu(os.path.basename(path), device, generation_of(device)))
        switches = switches or kind == _BRIDGE_CLASS
    driver = loaded_driver(root)
    return Hardware(
        gpus=tuple(gpus),
        nvswitch=_nvswitch(root, switches),
        imex=any(spans_hosts(gpu.device, machine) for gpu in gpus),
        loaded=driver.version if driver else None,
        built=_has_module(root, kernel),
        nouveau=os.path.isdir(os.path.join(root, "sys/module/nouveau")),
        secure_boot=_secure_boot(root),
    )


def read_gpu_users(proc: str = "/proc") -> tuple[GpuUser, ...]:
    """Return the processes that have a device file of NVIDIA open, without the services of the driver itself."""
    users = []
    for path in sorted(glob.glob(os.path.join(proc, "[0-9]*")), key=lambda path: int(os.path.basename(path))):
        if not any(target.startswith("/dev/nvidia") for target in _open_files(path)):
            continue
        name = _text(path, "comm") or "a process"
        if name not in [own[:_NAME_LENGTH] for own in _OWN_SERVICES]:
            users.append(GpuUser(int(os.path.basename(path)), name, _service(_text(path, "cgroup") or "")))
    return tuple(users)


def _open_files(process: str) -> list[str]:
    targets = []
    for entry in glob.glob(os.path.join(process, "fd", "*")):
        with contextlib.suppress(OSError):  # closed, or ended, in the meantime
            targets.append(os.readlink(entry))
    return targets


def _service(cgroups: str) -> str | None:
    units = re.findall(r"([^/\n]+\.service)(?=/|$)", cgroups, re.MULTILINE)
    return units[-1] if units else None


def _nvswitch(root: str, on_pci: bool) -> str | None:
    for path in glob.glob(os.path.join(root, "sys/class/infiniband/*/device/vpd")):
        if b"SW_MNG" in _bytes(path):
            return "nvlink5"
    if on_pci or glob.glob(os.path.join(root, "proc/driver/nvidia-nvswitch/devices/*")):
        return "nvlink4"
    return None


def _has_module(root: str, kernel: str) -> bool:
    # modprobe finds modules by this list.
    known = _text(root, "lib/modules", kernel, "modules.dep") or ""
    return re.search(r"^(?:\S*/)?nvidia\.ko(?:\.\w+)?:", known, re.MULTILINE) is not None


def _secure_boot(root: str) -> bool:
    # Four bytes of attributes, then the value.
    content = _bytes(os.path.join(root, _SECURE_BOOT))
    return len(content) >= 5 and content[4] == 1


def _text(*path: str) -> str | None:
    content = _bytes(os.path.join(*path))
    return content.decode("utf-8", "replace").strip() or None


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the planning of a driver takes and gives: a wish, a host, what is offered, and a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ._driver_hardware import GpuUser, Hardware
from ._driver_kept import Kept
from ._driver_offers import Catalogue, upstream_of
from ._driver_packages import BROKEN, Packages
from ._driver_platform import Platform
from ._driver_record import Record
from ._nvml_probe import Nvml

APT_INSTALL = (
    *("apt-get", "install", "--yes", "--purge", "--no-install-recommends"),
    *("--allow-downgrades", "--allow-change-held-packages"),
    # Configuration files that somebody has edited stay. Another run of apt may take its time.
    *(
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "-o",
        "DPkg::Lock::Timeout=120",
    ),
)


@dataclass(frozen=True)
class Wanted:
    """What a host's driver shall be. An empty version leaves one that works as it is.

    ``reboot`` says that the host is rebooted where the driver needs it.
    """

    version: str = ""
    modules: str = "auto"
    hold: bool = True
    persistenced: bool = True
    container_toolkit: bool = False
    dcgm: bool = False
    cuda_toolkit: str = ""
    kernel_headers: bool = True
    secure_boot: str = "fail"
    signing_key: str = ""
    signing_certificate: str = ""
    stop_services: tuple[str, ...] = ()
    ignore_gpu_users: bool = False
    reboot: bool = False
    repository: str = ""
    fingerprint: str = ""
    toolkit_repository: str = ""
    toolkit_fingerprint: str = ""

    @property
    def additions(self) -> bool:
        """Whether something is wanted that comes and goes without the driver."""
        return self.container_toolkit or self.dcgm or bool(self.cuda_toolkit)


@dataclass(frozen=True)
class Host:
    """What there is. ``read`` returns a file's text, or None; ``has_tool`` tells whether a command is installed.

    ``sources`` are the files that describe repositories, ``kept`` are the packages that the last change replaced.
    """

    platform: Platform
    kernel: str
    hardware: Hardware
    nvml: Nvml
    users: tuple[GpuUser, ...]
    packages: Packages
    record: Record | None
    sources: Mapping[str, str]
    kept: Kept
    read: Callable[[str], str | None]
    has_tool: Callable[[str], bool]

    @property
    def driver(self) -> str | None:
        """The version of the driver that packages have installed as a whole, whether or not it runs."""
        for name, version in self.packages.versions.items():
            upstream = upstream_of(version) if version != BROKEN else ""
            if upstream and name in self.platform.part("driver", upstream):
                return upstream
        return None


@dataclass(frozen=True)
class Offered:
    """What repositories offer, and their keys, each proven to be the pinned one."""

    catalogue: Catalogue
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """What has to be done, in this order: the record, files, releases from hold, installation, removal, holds, build.

    ``files`` has the content of each file that changes, None for one that goes. ``build`` is the command that builds
    kernel modules where no package does, ``load`` are those to load. ``driver`` is the version that is there at last.
    ``record`` is what the record has to be before anything is done, ``record_after`` what it has to be after a removal
    or a way back; None stands for no record. ``replaced`` are the packages of before, with their versions, that a way
    back needs.
    """

    message: str
    driver: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    install: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    unhold: tuple[str, ...] = ()
    automatic: tuple[str, ...] = ()
    files: dict[str, str | None] = field(default_factory=dict)
    initramfs: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    update_index: bool = False
    record: Record | None = None
    record_after: dict[str, Any] | None = None
    replaced: dict[str, str] = field(default_factory=dict)
    reboot_required: bool = False
    build: tuple[str, ...] = ()
    load: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.install or self.remove or self.hold or self.unhold or self.files or self.build)

    @property
    def apt(self) -> list[str]:
        """The command with which apt installs and removes, all at once."""
        if not (self.install or self.remove):
            return []
        return [*APT_INSTALL, *self.install, *(f"{name}-" for name in self.remove)]


def result_of(plan: Plan) -> dict[str, Any]:
    """Return a plan as a module returns it."""
    return {
        "msg": plan.message,
        "pending": plan.pending,
        "driver": plan.driver,
        "packages": plan.packages,
        "install": list(plan.install),
        "apt": plan.apt,
        "remove": list(plan.remove),
        "hold": list(plan.hold),
        "unhold": list(plan.unhold),
        "automatic": list(plan.automatic),
        "update_index": plan.update_index,
        "files": [{"path": path, "content": text} for path, text in sorted(plan.files.items())],
        "initramfs": list(plan.initramfs),
        "services": list(plan.services),
        "record": plan.record.to_json() if plan.record else None,
        "record_after": plan.record_after,
        "replaced": plan.replaced,
        "reboot_required": plan.reboot_required,
        "build": list(plan.build),
        "load": list(plan.load),
    }

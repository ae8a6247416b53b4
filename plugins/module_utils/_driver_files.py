# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration files that a driver needs on a host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._driver_platform import Platform
from ._errors import DriverError

NOUVEAU = "/etc/modprobe.d/gpufleet-cuda-driver.conf"
PREFERENCES = "/etc/apt/preferences.d/gpufleet-cuda-driver"
UNATTENDED = "/etc/apt/apt.conf.d/52gpufleet-cuda-driver"
STREAM = "/etc/dnf/modules.d/nvidia-driver.module"
VERSION_LOCK = "/etc/dnf/plugins/versionlock.list"
MODULES = "/etc/modules-load.d/gpufleet-cuda-driver.conf"
SIGNING = "/etc/dkms/framework.conf.d/gpufleet-cuda-driver.conf"

_HEADER = "Written by the role gpufleet.models.cuda_driver; changes are lost."
_LOCK_HEADER = "# Locked by the role gpufleet.models.cuda_driver"
_LOCK_END = "# Until here"

# What says where a repository is: a line of apt's old format, or a field of the new one and of dnf's.
_ENTRY = re.compile(r"^[ \t]*(?:deb(?:-src)?\s|URIs:|baseurl\s*=).*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Repository:
    """A package repository and its key."""

    name: str
    url: str
    key_url: str
    fingerprint: str | None

    def key_path(self, manager: str) -> str:
        """Where the key lies on the host."""
        if manager == "apt":
            return f"/usr/share/keyrings/gpufleet-{self.name}.asc"
        return f"/etc/pki/rpm-gpg/RPM-GPG-KEY-gpufleet-{self.name}"

    def source_path(self, manager: str) -> str:
        """Where the repository is described to the package manager."""
        if manager == "apt":
            return f"/etc/apt/sources.list.d/gpufleet-{self.name}.sources"
        return f"/etc/yum.repos.d/gpufleet-{self.name}.repo"

    def source(self, manager: str) -> str:
        """Return that description."""
        key = self.key_path(manager)
        if manager == "apt":
            return f"# {_HEADER}\nTypes: deb\nURIs: {self.url.rstrip('/')}/\nSuites: /\nSigned-By: {key}\n"
        return (
            f"# {_HEADER}\n[gpufleet-{self.name}]\nname=gpufleet-{self.name}\nbaseurl={self.url.rstrip('/')}\n"
            f"enabled=1\ngpgcheck=1\ngpgkey=file://{key}\n"
        )


def common_files(signing_key: str, signing_certificate: str, modules: Iterable[str]) -> dict[str, str]:
    """Return the files that do not depend on the package manager.

    :param modules: The kernel's own modules that the driver's services need from boot on.
    """
    # nova_core is the kernel's other driver for the same devices.
    files = {
        NOUVEAU: f"# {_HEADER}\nblacklist nouveau\nblacklist nova_core\noptions nouveau modeset=0\n",
    }
    if signing_key:
        files[SIGNING] = f"# {_HEADER}\nmok_signing_key={signing_key}\nmok_certificate={signing_certificate}\n"
    names = "".join(f"{name}\n" for name in modules)
    if names:
        files[MODULES] = f"# {_HEADER}\n{names}"
    return files


def hold_files(
    platform: Platform, driver: str | None, packages: Mapping[str, str], current: str | None
) -> dict[str, str]:
    """Return the files that keep packages in their versions, apart from the package manager's own holds.

    :param driver: The driver's version, None where the driver itself is not this role's.
    :param current: What the list of version locks says now, where the package manager has one.
    """
    if platform.manager == "dnf":
        return {VERSION_LOCK: lock_versions(current, packages)}
    pins = [
        (" ".join(name for name in packages if packages[name] == version), version)
        for version in sorted(set(packages.values()))
    ]
    if driver:  # whatever else of the driver is installed later must have its version too
        pins.append(("src:*nvidia*:any", f"{driver}*"))
    preferences = "\n".join(
        f"Explanation: {_HEADER}\nPackage: {names}\nPin: version {version}\nPin-Priority: 1001\n"
        for names, version in pins
    )
    names = "".join(f'    "^{re.escape(name)}$";\n' for name in packages)
    unattended = f"// {_HEADER}\nUnattended-Upgrade::Package-Blacklist {{\n{names}}};\n"
    return {PREFERENCES: preferences, UNATTENDED: unattended}


def stream_file(stream: str) -> dict[str, str]:
    """Return the file that enables a stream of the driver's module."""
    return {STREAM: f"[nvidia-driver]\nname=nvidia-driver\nstream={stream}\nprofiles=\nstate=enabled\n"}


def lock_versions(current: str | None, packages: Mapping[str, str]) -> str:
    """Return the list of version locks with exactly these packages locked by this role, where they have been."""
    before, after = _other_locks(current)
    if not packages:
        return before + after
    locks = "".join(f"{name}-{version}.*\n" for name, version in packages.items())
    return f"{before}{_LOCK_HEADER}\n{locks}{_LOCK_END}\n{after}"


def unlock_versions(current: str | None) -> str:
    """Return the list of version locks without those of this role."""
    return "".join(_other_locks(current))


def _other_locks(current: str | None) -> tuple[str, str]:
    before, _header, rest = (current or "").partition(f"{_LOCK_HEADER}\n")
    # Where somebody took the end away, all that follows counts as this role's.
    return before, rest.partition(f"{_LOCK_END}\n")[2]


def other_sources(texts: Mapping[str, str], urls: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the files that describe the same repositories: apt refuses two descriptions with different keys.

    :param texts: The content of all files that describe repositories.
    :raises DriverError: When such a file describes others too, which have to stay.
    """
    addresses = {url.rstrip("/").partition("://")[2] for url in urls}
    found = []
    for path in sorted({*texts} - {*own}):
        entries = _ENTRY.findall(texts[path])
        same = [
            entry for entry in entries if any(re.search(rf"{re.escape(one)}/?(?:\s|$)", entry) for one in addresses)
        ]
        if same and len(same) < len(entries):
            raise DriverError(
                f"{path}: this file describes the same repository ({same[0].strip()}) and others; nothing was changed, "
                "take that entry out, as the package manager cannot have two of it"
            )
        if same:
            found.append(path)
    return found

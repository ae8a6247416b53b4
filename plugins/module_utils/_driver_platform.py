# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of platforms: where NVIDIA's packages for each are, and what they are called.

This is the one place that knows names. A part has several where branches differ (Ubuntu's have the branch in them up to
580, and none from 590): the first one that the repository offers in the wanted version is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._cuda import newest_cuda
from ._errors import DriverError

REPOSITORIES = "https://developer.download.nvidia.com/compute/cuda/repos"
TOOLKIT_REPOSITORY = "https://nvidia.github.io/libnvidia-container"
TOOLKIT_FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"

_CUDA_KEY = "EB693B3035CD5710E231E123A4B469963BF863CC"
_DEBIAN_13_KEY = "02182E60104FCDC26EAE1B8597A5D4CB8793F200"
_RHEL_KEY = "610C7B14E068A878070DA4E99CD0A493D42D0685"

_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}  # how NVIDIA calls them
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Part:
    """A part of the driver, or of what belongs to it.

    :param names: What its package may be called; ``{branch}``, ``{cuda}`` (the newest one that a driver of this branch
        serves) and ``{toolkit}`` stand for versions.
    :param matched: Whether its version must be the driver's.
    :param optional: Whether a repository that does not have it is no failure.
    """

    names: tuple[str, ...]
    matched: bool = True
    optional: bool = False


@dataclass(frozen=True)
class Platform:
    """A distribution's release on one architecture.

    ``key`` is the file of the repository's key, ``fingerprint`` is None where it is not known for sure. ``streams``
    says whether a branch is a stream of a module; otherwise a lock on versions does that. ``needed`` are packages of
    the distribution for locking and building. ``certificate`` is the one that DKMS signs with there.
    """

    name: str
    manager: str
    directory: str
    key: str
    fingerprint: str | None
    architecture: str
    parts: dict[str, Part]
    headers: str
    initramfs: tuple[str, ...]
    streams: bool = False
    needed: tuple[str, ...] = ()
    certificate: str = "/var/lib/dkms/mok.pub"

    @property
    def repository(self) -> str:
        """The address of NVIDIA's repository."""
        return f"{REPOSITORIES}/{self.directory}/{_ARCHITECTURES[self.architecture]}"

    @property
    def toolkit_repository(self) -> str:
        """The address of the container toolkit's repository."""
        if self.manager == "apt":
            return f"{TOOLKIT_REPOSITORY}/stable/deb/{DEB_ARCHITECTURES[self.architecture]}"
        return f"{TOOLKIT_REPOSITORY}/stable/rpm/{self.architecture}"

    def part(self, name: str, driver: str, toolkit: str = "") -> tuple[str, ...]:
        """Return the names that a part may have in a version of the driver, and of the CUDA toolkit."""
        branch = driver.partition(".")[0]
        cuda = newest_cuda(int(branch))
        return tuple(
            candidate.format(branch=branch, cuda=cuda, toolkit=toolkit) for candidate in self.parts[name].names
        )


# What the switches, and the hardware, ask for; the same names everywhere.
_EXTRAS = {
    "fabricmanager": Part(("nvidia-fabricmanager", "nvidia-fabricmanager-{branch}")),
    "nscq": Part(("libnvidia-nscq", "libnvidia-nscq-{branch}")),
    "nvsdm": Part(("libnvsdm", "libnvsdm-{branch}"), optional=True),  # there is none for arm64
    "imex": Part(("nvidia-imex", "nvidia-imex-{branch}")),
    "nvlsm": Part(("nvlsm",), matched=False),
    "container_toolkit": Part(("nvidia-container-toolkit",), matched=False),
    "dcgm": Part(("datacenter-gpu-manager-4-cuda{cuda}",), matched=False),
    "cuda_toolkit": Part(("cuda-toolkit-{toolkit}",), matched=False),
}

_DEBIAN = {
    "driver": Part(("nvidia-driver-cuda",)),
    "open": Part(("nvidia-kernel-open-dkms",)),
    "proprietary": Part(("nvidia-kernel-dkms",)),
    "persistenced": Part(("nvidia-persistenced",)),
    **_EXTRAS,
}

_UBUNTU = {
    "driver": Part(("libnvidia-compute-{branch}", "libnvidia-compute")),
    "tools": Part(("nvidia-utils-{branch}", "nvidia-utils"), optional=True),
    "open": Part(("nvidia-dkms-{branch}-open", "nvidia-dkms-open")),
    "proprietary": Part(("nvidia-dkms-{branch}", "nvidia-dkms")),
    "persistenced": Part(("nvidia-compute-utils-{branch}", "nvidia-persistenced")),
    **_EXTRAS,
}

_EL = {
    "driver": Part(("nvidia-driver-cuda",)),
    "open": Part(("kmod-nvidia-open-dkms",)),
    "proprietary": Part(("kmod-nvidia-latest-dkms",)),
    "persistenced": Part(("nvidia-persistenced",)),
    **_EXTRAS,
}

_UPDATE_INITRAMFS = ("update-initramfs", "-u", "-k", "all")
_DRACUT = ("dracut", "--regenerate-all", "--force")


def platform_of(system: str, version: str, like: str, architecture: str) -> Platform:
    """Return the platform of a host.

    :param system: ``ID`` in ``/etc/os-release``, ``version`` its ``VERSION_ID``, ``like`` its ``ID_LIKE``.
    :param architecture: The processor's, as ``uname -m`` names it.
    :raises DriverError: When the table has none.
    """
    major = version.partition(".")[0]
    if architecture in _ARCHITECTURES:
        if system == "debian" and major in ("12", "13"):
            return _debian(major, architecture)
        if system == "ubuntu" and version in ("22.04", "24.04"):
            return _ubuntu(version, architecture)
        if (system == "rhel" or "rhel" in like.split()) and major in ("8", "9", "10"):
            return _el(system, major, architecture)
    raise DriverError(
        f"{system} {version} on {architecture}: expected Debian 12 or 13, Ubuntu 22.04 or 24.04, or RHEL or Rocky 8, 9 "
        "or 10, on x86_64 or aarch64; install the driver by other means and set cuda_driver_enabled to false"
    )


def _debian(major: str, architecture: str) -> Platform:
    key, fingerprint = {"12": ("3bf863cc.pub", _CUDA_KEY), "13": ("8793F200.pub", _DEBIAN_13_KEY)}[major]
    return Platform(
        name=f"Debian {major}",
        manager="apt",
        directory=f"debian{major}",
        key=key,
        fingerprint=fingerprint,
        architecture=architecture,
        parts=_DEBIAN,
        headers="linux-headers-{kernel}",
        initramfs=_UPDATE_INITRAMFS,
    )


def _ubuntu(version: str, architecture: str) -> Platform:
    return Platform(
        name=f"Ubuntu {version}",
        certificate="/var/lib/shim-signed/mok/MOK.der",
        manager="apt",
        directory=f"ubuntu{version.replace('.', '')}",
        key="3bf863cc.pub",
        fingerprint=_CUDA_KEY,
        architecture=architecture,
        parts=_UBUNTU,
        headers="linux-headers-{kernel}",
        initramfs=_UPDATE_INITRAMFS,
    )


def _el(system: str, major: str, architecture: str) -> Platform:
    # NVIDIA has given the key of its repository for 10 an id, and no fingerprint that could be checked here.
    key, fingerprint = ("CDF6BA43.pub", None) if major == "10" else ("D42D0685.pub", _RHEL_KEY)
    return Platform(
        name=f"{'RHEL' if system == 'rhel' else system.capitalize()} {major}",
        manager="dnf",
        directory=f"rhel{major}",
        key=key,
        fingerprint=fingerprint,
        architecture=architecture,
        parts=_EL,
        headers="kernel-devel-{kernel}",
        initramfs=_DRACUT,
        streams=major != "10",
        needed=("python3-dnf-plugin-versionlock", "dkms"),  # dkms comes from EPEL
    )

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Package repositories as NVIDIA's are built: the same files, fields and names, for some versions of the driver."""

from __future__ import annotations

import gzip
from collections.abc import Iterable

from ansible_collections.gpufleet.models.plugins.module_utils._errors import HubError

DEBIAN = """\
Package: {name}
Version: {version}
Source: nvidia-graphics-drivers
Architecture: amd64
Maintainer: NVIDIA <cudatools@nvidia.com>
{depends}Description: NVIDIA package
 with a second line: of description
Filename: ./{name}_{version}_amd64.deb
Size: 1000
"""


class Repository:
    """Answers requests from a dictionary, and remembers what was asked."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        try:
            return self.files[url]
        except KeyError:
            raise HubError(f"{url}: HTTP Error 404: Not Found") from None


def deb(name: str, version: str, depends: str = "") -> str:
    """Return a package's stanza."""
    return DEBIAN.format(name=name, version=version, depends=f"Depends: {depends}\n" if depends else "")


def debian(drivers: Iterable[str]) -> str:
    """Return the index of NVIDIA's repository for Debian."""
    stanzas = [deb("nvlsm", "2025.06.6-1"), deb("nvlsm", "2025.10.1-1")]
    for driver in drivers:
        version = f"{driver}-1"
        kernel = f"nvidia-kernel-dkms (= {version}) | nvidia-kernel-open-dkms (= {version})"
        stanzas += [
            deb(
                "nvidia-driver-cuda", version, f"libnvidia-ml1 (= {version}), {kernel}, nvidia-modprobe (>= {version})"
            ),
            deb("libnvidia-ml1", version, "libc6 (>= 2.28)"),
            deb("nvidia-modprobe", version),
            deb("nvidia-kernel-support", version),
            deb("nvidia-kernel-open-dkms", version, f"nvidia-kernel-support (= {version}), dkms (>= 3.1.8)"),
            deb("nvidia-kernel-dkms", version, f"nvidia-kernel-support (= {version}), dkms (>= 3.1.8)"),
            deb("nvidia-persistenced", version, f"libnvidia-ml1 (>= {version})"),
            deb("nvidia-fabricmanager", version),
            deb("libnvidia-nscq", version),
            deb("libnvsdm", version),
            deb("nvidia-imex", version),
        ]
    stanzas += [
        deb("datacenter-gpu-manager-4-cuda13", "1:4.4.1-1", "datacenter-gpu-manager-4-core (= 1:4.4.1-1)"),
        deb("datacenter-gpu-manager-4-cuda12", "1:4.4.1-1", "datacenter-gpu-manager-4-core (= 1:4.4.1-1)"),
        deb("datacenter-gpu-manager-4-core", "1:4.4.1-1"),
        deb("cuda-toolkit-13-0", "13.0.2-1"),
        deb("nvidia-container-toolkit", "1.17.8-1"),
        deb("nvidia-container-toolkit", "1.18.0~rc.1-1"),
    ]
    return "\n".join(stanzas)


def ubuntu(drivers: Iterable[str]) -> str:
    """Return the index of NVIDIA's repository for Ubuntu, whose names have the branch in them up to 580."""
    stanzas = []
    for driver in drivers:
        branch = int(driver.partition(".")[0])
        version = f"{driver}-{0 if branch < 590 else 1}ubuntu1"
        suffix = f"-{branch}" if branch <= 580 else ""
        common = f"nvidia-kernel-common{suffix}"
        stanzas += [
            deb(f"libnvidia-compute{suffix}", version, f"{common} (= {version}), libc6 (>= 2.34)"),
            deb(common, version, f"nvidia-firmware{suffix} (= {version})"),
            deb(f"nvidia-firmware{suffix}", version),
            deb(f"nvidia-dkms{suffix}-open", version, f"{common} (= {version}), dkms"),
            deb(f"nvidia-dkms{suffix}", version, f"{common} (= {version}), dkms"),
            deb("nvidia-persistenced" if branch > 580 else f"nvidia-compute-utils-{branch}", version),
            deb("nvidia-fabricmanager", version),
            deb("libnvidia-nscq", version),
            deb("libnvsdm", version),
        ]
        if branch <= 580:
            stanzas.append(deb(f"nvidia-utils-{branch}", version, f"libnvidia-compute-{branch} (= {version})"))
    return "\n".join(stanzas)


def apt_files(url: str, index: str) -> dict[str, bytes]:
    """Return the files of an apt repository."""
    return {f"{url}/Packages.gz": gzip.compress(index.encode())}


RPM = """\
<package type="rpm"><name>{name}</name><arch>{arch}</arch>
<version epoch="{epoch}" ver="{version}" rel="{release}"/>
<format><rpm:provides><rpm:entry name="{name}" flags="EQ" epoch="{epoch}" ver="{version}" rel="{release}"/>{provides}
</rpm:provides><rpm:requires>{requires}</rpm:requires></format></package>
"""


def rpm(name: str, driver: str, requires: str = "", provides: str = "", el: str = "9", arch: str = "x86_64") -> str:
    """Return a package's element; ``requires`` and ``provides`` name others of the same version."""

    def entries(names: str) -> str:
        return "".join(f'<rpm:entry name="{one}" flags="EQ" epoch="3" ver="{driver}"/>' for one in names.split())

    return RPM.format(
        name=name,
        arch=arch,
        epoch=3,
        version=driver,
        release=f"1.el{el}",
        requires=entries(requires) + '<rpm:entry name="libc.so.6()(64bit)"/>',
        provides=entries(provides),
    )


def dnf_files(url: str, drivers: Iterable[str], el: str, streams: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the files of NVIDIA's repository for RHEL."""
    packages = [rpm("nvidia-driver-cuda", "999.1", el=el, arch="aarch64")]
    for driver in drivers:
        packages += [
            rpm("nvidia-driver-cuda", driver, "nvidia-driver-cuda-libs nvidia-kmod nvidia-persistenced", el=el),
            rpm("nvidia-driver-cuda-libs", driver, el=el),
            rpm("nvidia-kmod-common", driver, "nvidia-kmod", el=el),
            rpm("kmod-nvidia-open-dkms", driver, "nvidia-kmod-common", "nvidia-kmod", el=el),
            rpm("kmod-nvidia-latest-dkms", driver, "nvidia-kmod-common", "nvidia-kmod", el=el),
            rpm("nvidia-persistenced", driver, el=el),
            rpm("nvidia-fabricmanager", driver, el=el),
            rpm("libnvidia-nscq", driver, el=el),
        ]
    primary = (
        '<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm">'
        f"{''.join(packages)}</metadata>"
    )
    modules = "".join(
        f'---\ndocument: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n  stream: "{stream}"\n...\n'
        for stream in streams
    )
    parts = {"primary": ("1-primary.xml.gz", primary)}
    if modules:
        parts["modules"] = ("2-modules.yaml.gz", modules)
    repomd = "".join(
        f'<data type="{kind}"><location href="repodata/{name}"/></data>' for kind, (name, text) in parts.items()
    )
    return {
        f"{url}/repodata/repomd.xml": f'<repomd xmlns="http://linux.duke.edu/metadata/repo">{repomd}</repomd>'.encode(),
        **{f"{url}/repodata/{name}": gzip.compress(text.encode()) for name, text in parts.values()},
    }

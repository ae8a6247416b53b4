"""Build signed apt repositories with packages under NVIDIA's names, as `python -m tests.hosts.repository DIRECTORY`.

The packages have the names, the exact dependencies and the layout of the real ones, and next to nothing in them. Below
the directory there are ``cuda`` and ``toolkit``, which are as they should be, and ``forged``, which another key has
signed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
DRIVERS = ("580.82.07", "580.95.05", "595.45.04")
KEY = "3bf863cc.pub"
OTHER_KEY = "8793F200.pub"  # Debian 13's has another name

# As building a kernel module does, it fails when told to.
MODULE_POSTINST = """#!/bin/sh
set -e
if [ "$(cat /opt/gpu/fail-postinst 2>/dev/null)" = "{version}" ]; then
    echo "Error! Bad return status for module build on kernel: $(uname -r)" >&2
    exit 10
fi
"""

SERVICE = """[Unit]
Description={name}
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Package:
    """A package; ``files`` are its files with their content."""

    name: str
    version: str
    source: str = "nvidia-graphics-drivers"
    depends: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    postinst: str = ""


def driver_packages(driver: str, library: bytes) -> list[Package]:
    """Return the packages of one version of the driver, as NVIDIA has them for Debian."""
    version = f"{driver}-1"
    module = {"/usr/src/nvidia-module/version": f"{driver}\n".encode()}
    postinst = MODULE_POSTINST.format(version=driver)
    support = f"nvidia-kernel-support (= {version})"
    lib = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"

    def service(name: str) -> dict[str, bytes]:
        return {f"/usr/lib/systemd/system/{name}.service": SERVICE.format(name=name).encode()}

    smi = f"#!/bin/sh\necho 'NVIDIA-SMI {driver}'\n".encode()
    return [
        Package(
            "nvidia-driver-cuda",
            version,
            depends=f"libcuda1 (= {version}), libnvidia-ml1 (= {version}), nvidia-kernel-dkms (= {version}) "
            f"| nvidia-kernel-open-dkms (= {version}), nvidia-modprobe (>= {version})",
            fields={"Conflicts": "nvidia-smi"},
            files={"/usr/bin/nvidia-smi": smi},
        ),
        Package("libcuda1", version, depends=f"libnvidia-ml1 (= {version})"),
        Package("libnvidia-ml1", version, depends="libc6 (>= 2.28)", files={lib: library}),
        Package("nvidia-kernel-support", version),
        Package("nvidia-modprobe", version),
        Package(
            "nvidia-kernel-open-dkms",
            version,
            depends=support,
            files=module,
            postinst=postinst,
            fields={"Conflicts": "nvidia-kernel-dkms"},
        ),
        Package(
            "nvidia-kernel-dkms",
            version,
            depends=support,
            files=module,
            postinst=postinst,
            fields={"Conflicts": "nvidia-kernel-open-dkms"},
        ),
        Package(
            "nvidia-persistenced", version, depends=f"libnvidia-ml1 (= {version})", files=service("nvidia-persistenced")
        ),
        Package("nvidia-fabricmanager", version, source="fabricmanager", files=service("nvidia-fabricmanager")),
        Package("libnvidia-nscq", version, source="libnvidia-nscq"),
    ]


def other_packages() -> list[Package]:
    """Return what does not follow the driver's version."""
    dcgm = {"/usr/lib/systemd/system/nvidia-dcgm.service": SERVICE.format(name="nvidia-dcgm").encode()}
    return [
        Package("datacenter-gpu-manager-4-cuda13", "1:4.4.1-1", source="datacenter-gpu-manager-4", files=dcgm),
        Package(f"linux-headers-{platform.release()}", "1", source="linux"),
        Package("bystander", "1", source="bystander"),
        Package("bystander", "2", source="bystander"),
    ]


def build(package: Package, directory: Path) -> None:
    """Write a package's ``.deb`` file."""
    root = directory / "build"
    shutil.rmtree(root, ignore_errors=True)
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Source": package.source,
        "Architecture": "amd64",
        "Maintainer": "gpufleet.models contributors <nobody@example.org>",
        **({"Depends": package.depends} if package.depends else {}),
        **package.fields,
        "Description": "fake of a package of NVIDIA's, for tests",
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
    if package.postinst:
        script = control / "postinst"
        script.write_text(package.postinst, encoding="utf-8")
        script.chmod(0o755)
    for path, content in package.files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755)
    name = f"{package.name}_{package.version.replace(':', '%3a')}_amd64.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(root), str(directory / name))
    shutil.rmtree(root)


def sign(directory: Path, home: Path, user: str) -> str:
    """Write the index of a repository, sign it, put the key beside it, and return the key's fingerprint."""
    environment = {**os.environ, "GNUPGHOME": str(home)}
    home.mkdir(mode=0o700, exist_ok=True)
    run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", user, "rsa2048", "sign", env=environment)
    index = run("apt-ftparchive", "packages", ".", cwd=directory)
    (directory / "Packages").write_text(index, encoding="utf-8")
    run("gzip", "--keep", "--force", "Packages", cwd=directory)
    options = [f"APT::FTPArchive::Release::{name}=NVIDIA" for name in ("Origin", "Label")]
    release = run("apt-ftparchive", *(f"-o={option}" for option in options), "release", ".", cwd=directory)
    (directory / "Release").write_text(release, encoding="utf-8")
    for arguments in (["--clearsign", "-o", "InRelease"], ["--armor", "--detach-sign", "-o", "Release.gpg"]):
        run("gpg", "--batch", "--yes", *arguments, "Release", cwd=directory, env=environment)
    key = run("gpg", "--armor", "--export", env=environment)
    for name in (KEY, OTHER_KEY):
        (directory / name).write_text(key, encoding="utf-8")
    listing = run("gpg", "--with-colons", "--fingerprint", env=environment)
    return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))


def run(*command: str, **options: object) -> str:
    """Run a command that must succeed and return what it prints."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def main() -> None:
    """Build all repositories."""
    work = Path(sys.argv[1]).resolve()
    shutil.rmtree(work, ignore_errors=True)
    cuda = work / "cuda"
    cuda.mkdir(parents=True)
    for driver in DRIVERS:
        library = work / "libnvidia-ml.so.1"
        source = str(HERE / "libnvidia-ml.c")
        run(
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            f'-DVERSION="{driver}"',
            "-Wl,-soname,libnvidia-ml.so.1",
            source,
            "-o",
            str(library),
        )
        for package in driver_packages(driver, library.read_bytes()):
            build(package, cuda)
    for package in other_packages():
        build(package, cuda)
    shutil.copytree(cuda, work / "forged")
    fingerprint = sign(cuda, work / "gnupg", "NVIDIA, for tests")
    sign(work / "forged", work / "gnupg-forged", "Mallory")
    # The forger offers the key that is trusted, and signs with another one.
    for name in (KEY, OTHER_KEY):
        shutil.copy(cuda / name, work / "forged" / name)
    (work / "fingerprint").write_text(fingerprint, encoding="utf-8")
    # The container toolkit has a repository and a key of its own, and the key is above the repository.
    toolkit = work / "toolkit/stable/deb/amd64"
    toolkit.mkdir(parents=True)
    build(Package("nvidia-container-toolkit", "1.17.8-1", source="nvidia-container-toolkit"), toolkit)
    fingerprint = sign(toolkit, work / "gnupg-toolkit", "NVIDIA's container toolkit, for tests")
    shutil.move(toolkit / KEY, work / "toolkit/gpgkey")
    (work / "toolkit/fingerprint").write_text(fingerprint, encoding="utf-8")


if __name__ == "__main__":
    main()

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan: what is wanted, what is there and what is offered go in; what has to be done comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._driver_apt import read_apt
from ansible_collections.gpufleet.models.plugins.module_utils._driver_change import spec
from ansible_collections.gpufleet.models.plugins.module_utils._driver_dnf import read_dnf
from ansible_collections.gpufleet.models.plugins.module_utils._driver_files import (
    MODULES,
    NOUVEAU,
    PREFERENCES,
    STREAM,
    UNATTENDED,
    VERSION_LOCK,
    Repository,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_hardware import Gpu, GpuUser, Hardware
from ansible_collections.gpufleet.models.plugins.module_utils._driver_kept import Kept
from ansible_collections.gpufleet.models.plugins.module_utils._driver_offers import Catalogue
from ansible_collections.gpufleet.models.plugins.module_utils._driver_packages import Packages, parse_rpm
from ansible_collections.gpufleet.models.plugins.module_utils._driver_plan import (
    plan_absent,
    plan_present,
    plan_previous,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_platform import Platform, platform_of
from ansible_collections.gpufleet.models.plugins.module_utils._driver_record import Record, parse_record
from ansible_collections.gpufleet.models.plugins.module_utils._driver_types import Host, Offered, Plan, Wanted
from ansible_collections.gpufleet.models.plugins.module_utils._errors import DriverError
from ansible_collections.gpufleet.models.plugins.module_utils._nvml_probe import Nvml
from tests.unit import repositories

DRIVERS = ["580.82.07", "580.95.05", "595.45.04"]
SOURCES = "/etc/apt/sources.list.d/gpufleet-cuda.sources"
DEBIAN = platform_of("debian", "12", "", "x86_64")
NO_NVML = Nvml(None, "libnvidia-ml.so.1 is not installed")
TOOLS = {"update-initramfs", "dracut", "modprobe"}


def gpus(*generations: str) -> tuple[Gpu, ...]:
    """Return a GPU of each generation."""
    return tuple(Gpu(f"0000:{index:02x}:00.0", 0, name) for index, name in enumerate(generations, 1))


BARE = Hardware(gpus("Ada"), None, False, None, False, False, False)


class Machine:
    """A host as the planner sees it, on which plans can be carried out."""

    def __init__(self, platform: Platform = DEBIAN, hardware: Hardware = BARE) -> None:
        self.platform = platform
        self.hardware = hardware
        self.versions: dict[str, str] = {"libc6": "2.36-9"}
        self.held: set[str] = set()
        self.files: dict[str, str] = {}
        self.record: Record | None = None
        self.users: tuple[GpuUser, ...] = ()
        self.tools = TOOLS
        self.asked = 0
        self.kept = "/no/such/directory"

    @property
    def host(self) -> Host:
        installed = Host(
            platform=self.platform,
            kernel="6.1.0-40-amd64",
            hardware=self.hardware,
            nvml=NO_NVML,
            users=self.users,
            packages=Packages(dict(self.versions), frozenset(self.held)),
            record=self.record,
            sources={path: text for path, text in self.files.items() if "sources.list.d" in path},
            kept=Kept(self.kept, self.platform.manager, "x86_64"),
            read=self.files.get,
            has_tool=self.tools.__contains__,
        )
        works = installed.driver is not None and installed.driver == self.hardware.loaded
        return replace(installed, nvml=Nvml(self.hardware.loaded, None)) if works else installed

    def ask(self, wanted: list[Repository]) -> Offered:
        """Offer what NVIDIA's repository for this platform has."""
        self.asked += 1
        url = wanted[0].url
        directory = self.platform.directory
        if self.platform.manager == "dnf":
            streams = [f"{branch}-{kind}" for branch in (580, 595) for kind in ("open", "dkms")]
            files = repositories.dnf_files(url, DRIVERS, directory[4:], streams if self.platform.streams else ())
            catalogue = Catalogue(*read_dnf(url, "x86_64", repositories.Repository(files).fetch))
        else:
            index = repositories.debian(DRIVERS) if directory.startswith("debian") else repositories.ubuntu(DRIVERS)
            files = repositories.apt_files(url, index)
            catalogue = Catalogue(read_apt(url, repositories.Repository(files).fetch))
        return Offered(catalogue, {one.key_path(self.platform.manager): f"key of {one.name}" for one in wanted})

    def plan(self, **wishes: Any) -> Plan:
        return plan_present(Wanted(**wishes), self.host, self.ask)

    def carry_out(self, plan: Plan, most: int | None = None) -> None:
        """Do what a plan says, as the role does.

        :param most: How many packages are installed before it is interrupted.
        """
        self.record = parse_text(plan.record)
        if self.record and self.record.expected is not None:  # apt tells what it is going to do
            changes = {*self.record.expected, *names(plan.install), *plan.remove}
            self.record = replace(self.record, expected=sorted(changes))
        if most is not None:
            plan = replace(plan, install=plan.install[:most], hold=())
        for path, text in plan.files.items():
            self.files.pop(path, None)
            if text is not None:
                self.files[path] = text
        self.held -= {*plan.unhold}
        for package in plan.install:
            name, equals, version = package.partition("=")
            if self.platform.manager == "dnf" and not equals:
                name, dash, version = package.partition("-3:")
                version = f"3:{version}" if dash else "1"
            self.versions[name] = version or "1"
            self.held.discard(name)  # as dpkg does
        for name in plan.remove:
            del self.versions[name]
        self.held |= {*plan.hold}

    def install(self, **wishes: Any) -> Plan:
        """Do all that is needed, boot, and note that it is done."""
        plan = self.plan(**wishes)
        self.carry_out(plan)
        self.boot()
        if self.record is not None:
            self.record = parse_text(self.plan(**wishes).record)
        return plan

    def boot(self) -> None:
        self.hardware = replace(self.hardware, loaded=self.host.driver)


def parse_text(record: Record | None) -> Record | None:
    """Write a record to a file and read it again."""
    return parse_record(json.dumps(record.to_json()), "record") if record else None


def names(specs: tuple[str, ...]) -> set[str]:
    """Return the packages of a list of them with versions."""
    return {spec.partition("=")[0] for spec in specs}


# The platform, and what a GPU of the generation Ada gets there from the branches 580 and 595.
PLANS: list[tuple[tuple[str, str, str], str, str, list[str]]] = [
    (
        ("debian", "12", ""),
        "580",
        "580.95.05",
        [
            "libnvidia-ml1=580.95.05-1",
            "nvidia-driver-cuda=580.95.05-1",
            "nvidia-kernel-open-dkms=580.95.05-1",
            "nvidia-kernel-support=580.95.05-1",
            "nvidia-modprobe=580.95.05-1",
            "nvidia-persistenced=580.95.05-1",
            "linux-headers-6.1.0-40-amd64",
        ],
    ),
    (
        ("ubuntu", "22.04", "debian"),
        "580",
        "580.95.05",
        [
            "libnvidia-compute-580=580.95.05-0ubuntu1",
            "nvidia-compute-utils-580=580.95.05-0ubuntu1",
            "nvidia-dkms-580-open=580.95.05-0ubuntu1",
            "nvidia-firmware-580=580.95.05-0ubuntu1",
            "nvidia-kernel-common-580=580.95.05-0ubuntu1",
            "nvidia-utils-580=580.95.05-0ubuntu1",
            "linux-headers-6.1.0-40-amd64",
        ],
    ),
    (
        ("ubuntu", "24.04", "debian"),
        "595",
        "595.45.04",
        [
            "libnvidia-compute=595.45.04-1ubuntu1",
            "nvidia-dkms-open=595.45.04-1ubuntu1",
            "nvidia-firmware=595.45.04-1ubuntu1",
            "nvidia-kernel-common=595.45.04-1ubuntu1",
            "nvidia-persistenced=595.45.04-1ubuntu1",
            "linux-headers-6.1.0-40-amd64",
        ],
    ),
    *(
        (
            (system, version, "rhel fedora"),
            "580.82.07",
            "580.82.07",
            [
                f"kmod-nvidia-open-dkms-3:580.82.07-1.el{version[0] if version[0] != '1' else '10'}",
                f"nvidia-driver-cuda-3:580.82.07-1.el{version[0] if version[0] != '1' else '10'}",
                f"nvidia-driver-cuda-libs-3:580.82.07-1.el{version[0] if version[0] != '1' else '10'}",
                f"nvidia-kmod-common-3:580.82.07-1.el{version[0] if version[0] != '1' else '10'}",
                f"nvidia-persistenced-3:580.82.07-1.el{version[0] if version[0] != '1' else '10'}",
                "python3-dnf-plugin-versionlock",
                "dkms",
                "kernel-devel-6.1.0-40-amd64",
            ],
        )
        for system, version in (("rhel", "8.10"), ("rocky", "9.6"), ("rhel", "10.0"))
    ),
]


@pytest.mark.parametrize(("release", "wanted", "driver", "install"), PLANS, ids=str)
def test_plan_of_each_platform(release: tuple[str, str, str], wanted: str, driver: str, install: list[str]) -> None:
    machine = Machine(platform_of(*release, "x86_64"))
    plan = machine.plan(version=wanted)
    assert plan.driver == driver
    assert list(plan.install) == install
    assert not plan.remove
    assert plan.initramfs[0] == ("update-initramfs" if machine.platform.manager == "apt" else "dracut")
    assert "blacklist nouveau" in (plan.files[NOUVEAU] or "")

    machine.install(version=wanted)
    assert machine.host.driver == driver
    asked = machine.asked
    again = machine.plan(version=wanted)
    assert not again.pending
    assert again.message == f"driver {driver} works as wanted"
    assert machine.asked == asked


@pytest.mark.parametrize(
    ("release", "stream"), [(("rhel", "8.10"), True), (("rocky", "9.6"), True), (("rhel", "10.0"), False)], ids=str
)
@pytest.mark.parametrize(("modules", "suffix"), [("open", "open"), ("proprietary", "dkms")])
def test_el_has_a_stream_or_locks_alone(release: tuple[str, str], stream: bool, modules: str, suffix: str) -> None:
    machine = Machine(platform_of(*release, "rhel", "x86_64"))
    machine.files[VERSION_LOCK] = "kernel-0:5.14.0-1.el9.*\n"
    plan = machine.plan(version="580", modules=modules)
    text = plan.files.get(STREAM)
    assert (f"stream=580-{suffix}\n" in (text or "")) == stream
    locks = (plan.files[VERSION_LOCK] or "").splitlines()
    assert locks[0] == "kernel-0:5.14.0-1.el9.*"
    assert f"nvidia-driver-cuda-{plan.packages['nvidia-driver-cuda']}.*" in locks
    assert not plan.hold

    machine.carry_out(plan)
    machine.install(version="595", modules="open")
    locks = machine.files[VERSION_LOCK].splitlines()
    assert len(locks) == 3 + len(machine.plan(version="595").packages)
    machine.files[VERSION_LOCK] += "vim-2:9.0-1.el9.*\n"
    assert not machine.plan(version="595").pending
    machine.carry_out(plan_absent(Wanted(), machine.host))
    assert machine.files[VERSION_LOCK] == "kernel-0:5.14.0-1.el9.*\nvim-2:9.0-1.el9.*\n"
    assert STREAM not in machine.files


def test_arm64() -> None:
    platform = platform_of("ubuntu", "24.04", "debian", "aarch64")
    assert platform.repository == "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/sbsa"
    assert platform.toolkit_repository.endswith("/stable/deb/arm64")


@pytest.mark.parametrize(
    ("system", "version", "architecture"),
    [("debian", "11", "x86_64"), ("ubuntu", "23.10", "x86_64"), ("rhel", "7.9", "x86_64"), ("debian", "12", "riscv64")],
)
def test_unknown_platforms(system: str, version: str, architecture: str) -> None:
    with pytest.raises(DriverError, match=f"{system} {version} on {architecture}: expected Debian 12"):
        platform_of(system, version, "", architecture)


@pytest.mark.parametrize(
    ("hardware", "more"),
    [
        ({}, set()),
        ({"nvswitch": "nvlink4"}, {"nvidia-fabricmanager", "libnvidia-nscq"}),
        ({"nvswitch": "nvlink5"}, {"nvidia-fabricmanager", "libnvidia-nscq", "libnvsdm", "nvlsm", "infiniband-diags"}),
        ({"imex": True}, {"nvidia-imex"}),
    ],
    ids=["none", "nvlink4", "nvlink5", "imex"],
)
def test_hardware_decides_about_the_fabric(hardware: dict[str, Any], more: set[str]) -> None:
    usual = names(Machine().plan().install)
    plan = Machine(hardware=replace(BARE, **hardware)).plan()
    assert names(plan.install) - usual == more
    for name in more - {"nvlsm", "infiniband-diags"}:
        assert plan.packages[name] == "580.95.05-1"
    if "nvlsm" in more:
        assert plan.packages["nvlsm"] == "2025.10.1-1"
    assert ("nvidia-fabricmanager" in plan.services) == ("nvidia-fabricmanager" in more)
    assert (MODULES in plan.files) == ("ib_umad" in plan.load) == ("nvlsm" in more)
    assert "ib_umad\n" in (plan.files.get(MODULES) or "ib_umad\n")


@pytest.mark.parametrize(
    ("wishes", "more"),
    [
        ({"dcgm": True}, {"datacenter-gpu-manager-4-cuda13", "datacenter-gpu-manager-4-core"}),
        ({"cuda_toolkit": "13-0"}, {"cuda-toolkit-13-0"}),
        ({"container_toolkit": True}, {"nvidia-container-toolkit"}),
    ],
    ids=["dcgm", "cuda_toolkit", "container_toolkit"],
)
def test_switches(wishes: dict[str, Any], more: set[str]) -> None:
    machine = Machine()
    machine.install()
    before = machine.asked
    plan = machine.install(**wishes)
    assert names(plan.install) == more
    assert plan.driver == "580.95.05"
    assert machine.asked == before + 1
    assert not machine.plan(**wishes).pending
    if "container_toolkit" in wishes:
        assert machine.versions["nvidia-container-toolkit"] == "1.18.0~rc.1-1"
        assert "libnvidia-container/stable/deb/amd64" in machine.files[SOURCES.replace("cuda", "container-toolkit")]
    off = machine.install()
    assert {*off.remove} == more
    assert not off.install
    assert not [path for path in machine.files if "container-toolkit" in path]
    assert not machine.plan().pending


def test_one_mirror_for_all() -> None:
    machine = Machine()
    url = "https://mirror.example.org/all"
    machine.install(repository=url, toolkit_repository=f"{url}/", container_toolkit=True)
    assert machine.versions["nvidia-container-toolkit"]
    assert not [path for path in machine.files if "container-toolkit" in path]


def test_a_driver_that_is_wanted_is_not_asked_for() -> None:
    machine = Machine()
    machine.install(version="580")
    assert machine.asked == 1
    for version in ("", "580", "580.95.05"):
        plan = machine.plan(version=version)
        assert not plan.pending
        assert not plan.reboot_required
    assert machine.asked == 1


def test_a_driver_of_others_is_left_alone() -> None:
    """A driver that works, installed by whomever."""
    machine = Machine(hardware=replace(BARE, loaded="535.288.01"))
    host = replace(machine.host, nvml=Nvml("535.288.01", None))
    for version in ("", "535", "535.288.01"):
        plan = plan_present(Wanted(version), host, machine.ask)
        assert not plan.pending
        assert plan.message == "driver 535.288.01 works and is left as it is"
    assert machine.asked == 0
    # Only what a switch adds comes, and is all that is taken away again.
    plan = plan_present(Wanted(dcgm=True), host, machine.ask)
    assert names(plan.install) == {"datacenter-gpu-manager-4-cuda12", "datacenter-gpu-manager-4-core"}
    assert NOUVEAU not in plan.files
    assert plan.record is not None
    assert plan.record.driver is None
    machine.carry_out(plan)
    host = replace(machine.host, nvml=Nvml("535.288.01", None))
    plan = plan_present(Wanted(dcgm=True), host, machine.ask)
    assert not plan.pending
    assert plan.record is not None
    assert plan.record.owned == ["datacenter-gpu-manager-4-core", "datacenter-gpu-manager-4-cuda12"]


def test_runfile() -> None:
    machine = Machine(hardware=replace(BARE, loaded="535.288.01"))
    machine.tools = TOOLS | {"nvidia-uninstall"}
    with pytest.raises(DriverError, match=r"installed by NVIDIA's \.run file"):
        plan_present(Wanted("580"), replace(machine.host, nvml=Nvml("535.288.01", None)), machine.ask)


@pytest.mark.parametrize(
    ("first", "second", "verb"), [("580.82.07", "580.95.05", "upgrade"), ("595", "580", "downgrade")]
)
def test_another_version(first: str, second: str, verb: str) -> None:
    machine = Machine()
    machine.install(version=first)
    plan = machine.plan(version=second)
    assert plan.message.startswith(f"{verb} driver {machine.host.driver} to 580.95.05: 6 packages to install")
    assert set(plan.unhold) == set(plan.hold) == names(plan.install)
    assert plan.reboot_required
    machine.carry_out(plan)
    assert machine.held == names(plan.install)
    pending = machine.plan(version=second)
    assert not pending.pending
    assert pending.reboot_required
    assert pending.message == "driver 580.95.05 is installed as wanted"
    machine.boot()
    assert not machine.plan(version=second).reboot_required


def test_ubuntu_renames_packages_between_branches() -> None:
    machine = Machine(platform_of("ubuntu", "24.04", "debian", "x86_64"))
    machine.install(version="580")
    plan = machine.plan(version="595")
    assert "libnvidia-compute=595.45.04-1ubuntu1" in plan.install
    assert {"libnvidia-compute-580", "nvidia-dkms-580-open", "nvidia-utils-580"} <= {*plan.remove}
    assert {*plan.remove} <= {*plan.unhold}
    machine.install(version="595")
    assert not [name for name in machine.versions if "580" in name]
    assert machine.held == {*machine.plan(version="595").packages}


def test_another_flavour() -> None:
    machine = Machine()
    machine.install()
    plan = machine.plan(version="595", modules="proprietary")
    assert "nvidia-kernel-dkms=595.45.04-1" in plan.install
    assert plan.remove == ("nvidia-kernel-open-dkms",)


def test_holds() -> None:
    machine = Machine()
    plan = machine.install()
    assert machine.held == {*plan.packages}
    assert f'"^{"libnvidia-ml1"}$";' in machine.files[UNATTENDED].replace("\\", "")
    assert "Package: src:*nvidia*:any\nPin: version 580.95.05*\nPin-Priority: 1001" in machine.files[PREFERENCES]
    # Lost holds, files and pins are put back.
    machine.held.discard("libnvidia-ml1")
    del machine.files[PREFERENCES]
    plan = machine.plan()
    assert (plan.hold, plan.install) == (("libnvidia-ml1",), ())
    assert set(plan.files) == {PREFERENCES}
    machine.install()
    # And given up when they are not wanted any more.
    machine.install(hold=False)
    assert not machine.held
    assert PREFERENCES not in machine.files
    assert not machine.plan(hold=False).pending


def test_a_package_that_is_not_whole_is_installed_again() -> None:
    machine = Machine()
    machine.install()
    machine.versions["nvidia-kernel-open-dkms"] = ""
    assert machine.plan().install[:1] == ("nvidia-kernel-open-dkms=580.95.05-1",)


def test_a_version_that_is_there_in_part_does_not_count() -> None:
    machine = Machine()

    def ask(wanted: list[Repository]) -> Offered:
        offers = [
            offer
            for offer in machine.ask(wanted).catalogue
            if (offer.name, offer.upstream) != ("nvidia-persistenced", "580.95.05")
        ]
        return Offered(Catalogue(offers), {})

    assert plan_present(Wanted("580"), machine.host, ask).driver == "580.82.07"
    with pytest.raises(DriverError, match=r"does not have nvidia-persistenced in this version"):
        plan_present(Wanted("580.95.05"), machine.host, ask)
    assert plan_present(Wanted("580.95.05", persistenced=False), machine.host, ask).driver == "580.95.05"


@pytest.mark.parametrize(
    ("hardware", "wishes", "message"),
    [
        ({}, {"version": "570"}, r"driver 570: the repository has 595.45.04, 580.95.05, 580.82.07 for Debian 12"),
        ({}, {"version": "580.95"}, ""),
        ({"gpus": gpus("Volta")}, {"version": "595"}, "580 is the last branch for Volta, found 595"),
        ({"gpus": gpus("Blackwell")}, {"modules": "proprietary"}, "Blackwell has no proprietary kernel modules"),
        ({"secure_boot": True}, {}, "Secure Boot is on"),
        ({}, {"cuda_toolkit": "14-0"}, "do not have cuda-toolkit-14-0"),
    ],
    ids=str,
)
def test_what_cannot_be(hardware: dict[str, Any], wishes: dict[str, Any], message: str) -> None:
    machine = Machine(hardware=replace(BARE, **hardware))
    if message:
        with pytest.raises(DriverError, match=message):
            machine.plan(**wishes)
    else:
        assert machine.plan(**wishes).pending


@pytest.mark.parametrize("choice", ["signed", "enroll"])
def test_secure_boot_choices(choice: str) -> None:
    machine = Machine(hardware=replace(BARE, secure_boot=True))
    plan = machine.plan(secure_boot=choice, signing_key="/k", signing_certificate="/c")
    assert plan.pending
    assert "mok_signing_key=/k\nmok_certificate=/c\n" in "".join(text or "" for text in plan.files.values())


def test_secure_boot_does_not_matter_for_what_is_there() -> None:
    machine = Machine()
    machine.install()
    machine.hardware = replace(machine.hardware, secure_boot=True)
    assert not machine.plan().pending
    assert machine.plan(dcgm=True).pending


def test_users_of_the_gpu() -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    machine.users = (GpuUser(7, "python3", "inference.service"), GpuUser(9, "train", None))
    assert not machine.plan(version="580").pending
    assert machine.plan(version="580", dcgm=True).pending
    with pytest.raises(DriverError, match=r"python3 \(process 7 of inference.service\), train \(process 9\)"):
        machine.plan(version="580.95.05")
    with pytest.raises(DriverError, match=r"in use by train \(process 9\)"):
        machine.plan(version="580.95.05", stop_services=("inference",))
    assert machine.plan(version="580.95.05", ignore_gpu_users=True).pending
    with pytest.raises(DriverError, match="in use"):
        plan_absent(Wanted(), machine.host)


def test_a_reboot_that_is_still_due_asks_for_users_again() -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    machine.carry_out(machine.plan(version="580.95.05"))
    machine.users = (GpuUser(7, "python3", "inference.service"),)
    assert machine.plan(version="580.95.05").reboot_required
    with pytest.raises(DriverError, match=r"in use by python3 \(process 7 of inference.service\)"):
        machine.plan(version="580.95.05", reboot=True)
    assert machine.plan(version="580.95.05", reboot=True, stop_services=("inference",)).reboot_required
    assert machine.plan(version="580.95.05", reboot=True, ignore_gpu_users=True).reboot_required
    machine.boot()
    assert not machine.plan(version="580.95.05", reboot=True).reboot_required


HEADERS = "linux-headers-6.1.0-40-amd64"


@pytest.mark.parametrize("headers", [True, False])
def test_a_kernel_without_modules_gets_them(headers: bool) -> None:
    """As after an upgrade of the kernel that left its headers out."""
    machine = Machine()
    machine.tools = TOOLS | {"dkms"}
    machine.install()
    before = dict(machine.versions)
    machine.hardware = replace(machine.hardware, loaded=None)
    if not headers:
        del machine.versions[HEADERS]
    plan = machine.plan()
    assert plan.pending
    assert plan.message == "build the kernel modules of driver 580.95.05 for kernel 6.1.0-40-amd64"
    assert plan.install == (() if headers else (HEADERS,))
    assert plan.build == ("dkms", "autoinstall", "-k", "6.1.0-40-amd64")
    assert plan.load == ("nvidia",)
    assert (plan.files, plan.remove, plan.hold) == ({}, (), ())
    assert machine.asked == 1
    machine.carry_out(plan)
    assert machine.versions == before
    # It is built now, and only has to be loaded.
    machine.hardware = replace(machine.hardware, built=True)
    plan = machine.plan()
    assert (plan.pending, plan.load) == (False, ("nvidia",))
    machine.boot()
    plan = machine.plan()
    assert (plan.pending, plan.load, plan.reboot_required) == (False, (), False)


def test_modules_that_cannot_be_built_or_are_not_ours() -> None:
    machine = Machine()
    machine.tools = TOOLS | {"dkms"}
    machine.install()
    machine.hardware = replace(machine.hardware, loaded=None, secure_boot=True)
    with pytest.raises(DriverError, match="Secure Boot is on"):
        machine.plan()
    assert machine.plan(secure_boot="signed").build
    assert machine.plan(secure_boot="signed", kernel_headers=False).build
    machine.tools = TOOLS
    assert not machine.plan().pending
    machine.tools = TOOLS | {"dkms"}
    machine.record = None
    assert not machine.plan().pending


def test_nouveau_keeps_the_module_from_being_loaded() -> None:
    assert Machine().plan().load == ("nvidia",)
    assert not Machine().plan().reboot_required
    plan = Machine(hardware=replace(BARE, nouveau=True)).plan()
    assert "nvidia" not in plan.load
    assert plan.reboot_required


def test_no_tool_for_the_initial_ram_disk() -> None:
    machine = Machine()
    machine.tools = set()
    plan = machine.plan()
    assert not plan.initramfs
    assert "nvidia" not in plan.load
    assert plan.reboot_required


def test_other_descriptions_of_the_repository_go() -> None:
    machine = Machine()
    other = "/etc/apt/sources.list.d/cuda-debian12-x86_64.list"
    text = "deb [signed-by=/k] https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/ /\n"
    machine.files[other] = text
    machine.files["/etc/apt/sources.list.d/debian.sources"] = "URIs: http://deb.debian.org/debian\n"
    machine.install()
    assert other not in machine.files
    assert not machine.plan().pending
    machine.carry_out(plan_absent(Wanted(), machine.host))
    assert machine.files[other] == text
    assert SOURCES not in machine.files


OURS = "deb https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/ /"


@pytest.mark.parametrize(
    ("text", "goes"),
    [
        (f"# {OURS}\ndeb http://example.org/debian stable main\n", False),
        (OURS.replace("x86_64", "x86_64-old") + "\n", False),
        (f"{OURS}\n# deb http://example.org/ /\n", True),
        (f"Types: deb\nURIs: {OURS[4:-2]}\nSuites: /\n", True),
        (f"{OURS}\ndeb http://example.org/debian stable main\n", None),
    ],
)
def test_which_descriptions_go(text: str, goes: bool | None) -> None:
    machine = Machine()
    path = "/etc/apt/sources.list.d/some.list"
    machine.files[path] = text
    if goes is None:
        with pytest.raises(DriverError, match=r"some\.list: this file describes the same repository"):
            machine.plan()
    else:
        assert (path in machine.plan().files) == goes


def test_somebody_else_has_upgraded_our_driver() -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    for name, version in machine.plan(version="580.95.05").packages.items():
        machine.versions[name] = version
    machine.boot()
    plan = machine.plan()
    assert not plan.install
    assert plan.driver == "580.95.05"
    assert "580.95.05-1" in (plan.files[PREFERENCES] or "")
    machine.install()
    assert not machine.plan().pending


def test_another_repository() -> None:
    machine = Machine()
    machine.install()
    plan = machine.plan(repository="https://mirror.example.org/debian12")
    assert "URIs: https://mirror.example.org/debian12/\n" in (plan.files[SOURCES] or "")
    assert not plan.install


def test_absent() -> None:
    machine = Machine()
    machine.versions["nvidia-modprobe"] = "575.57.08-1"  # was there before, and is only upgraded
    machine.install(dcgm=True)
    machine.install(version="595", dcgm=True)
    plan = plan_absent(Wanted(), machine.host)
    assert plan.reboot_required
    machine.carry_out(plan)
    assert machine.versions == {"libc6": "2.36-9", "nvidia-modprobe": "595.45.04-1"}
    assert not machine.held
    assert not machine.files
    assert not plan_absent(Wanted(), Machine().host).pending


def change(machine: Machine, how: Callable[[Machine, Plan], None]) -> Plan:
    """Begin a change, let it end in some way, and return the plan for going back."""
    plan = machine.plan(version="595", dcgm=True)
    how(machine, plan)
    return plan_previous(Wanted(), machine.host)


def completely(machine: Machine, plan: Plan) -> None:
    machine.carry_out(plan)
    machine.boot()
    machine.record = parse_text(machine.plan(version="595", dcgm=True).record)


def without_its_last_packages(machine: Machine, plan: Plan) -> None:
    machine.carry_out(plan, most=3)
    machine.versions["libnvidia-ml1"] = ""


def without_its_holds(machine: Machine, plan: Plan) -> None:
    machine.carry_out(replace(plan, hold=()))


def with_its_record_alone(machine: Machine, plan: Plan) -> None:
    machine.record = parse_text(plan.record)


@pytest.mark.parametrize("how", [completely, without_its_last_packages, without_its_holds, with_its_record_alone])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "with an older driver"])
def test_going_back_brings_exactly_what_there_was(how: Callable[[Machine, Plan], None], fresh: bool) -> None:
    machine = Machine()
    if not fresh:
        machine.install(version="580.82.07")
        machine.held.add("libc6")
    before = (dict(machine.versions), set(machine.held), dict(machine.files))
    record = machine.record
    plan = change(machine, how)
    assert plan.update_index == (SOURCES in plan.files and bool(plan.install))
    machine.carry_out(plan)
    assert (machine.versions, machine.held, machine.files) == before
    assert not plan_previous(Wanted(), machine.host).pending
    machine.record = parse_record(None, "") if plan.record_after is None else Record(**clean(plan.record_after))
    assert machine.record == (replace(record, before=None) if record else None)
    machine.boot()
    if not fresh:
        assert not machine.plan(version="580.82.07").pending


def clean(values: dict[str, Any]) -> dict[str, Any]:
    """Return a record's values without its format."""
    return {name: value for name, value in values.items() if name != "format"}


def test_a_change_that_was_interrupted_goes_back_to_before_it() -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    before = dict(machine.versions)
    without_its_last_packages(machine, machine.plan(version="595"))
    # The next run wants something else, and fails too.
    without_its_last_packages(machine, machine.plan(version="580.95.05"))
    machine.carry_out(plan_previous(Wanted(), machine.host))
    assert machine.versions == before


def test_others_upgrades_are_not_taken_back() -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    machine.install(version="580.95.05")
    machine.versions["libc6"] = "2.36-10"
    machine.versions["vim"] = "9"
    machine.carry_out(plan_previous(Wanted(), machine.host))
    assert (machine.versions["libc6"], machine.versions["vim"]) == ("2.36-10", "9")
    assert machine.versions["libnvidia-ml1"] == "580.82.07-1"


@pytest.mark.parametrize("how", [without_its_last_packages, with_its_record_alone])
def test_what_others_install_after_a_run_was_killed_is_theirs(how: Callable[[Machine, Plan], None]) -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    before = dict(machine.versions)
    how(machine, machine.plan(version="595"))
    machine.versions.update({"vim": "9", "libc6": "2.36-10"})
    # Also when another run was killed since.
    how(machine, machine.plan(version="580.95.05"))
    machine.versions["git"] = "2"
    machine.carry_out(plan_previous(Wanted(), machine.host))
    assert machine.versions == {**before, "vim": "9", "libc6": "2.36-10", "git": "2"}


def test_what_a_change_replaces() -> None:
    """A way back needs exactly that, also when a run was killed in between."""
    machine = Machine()
    assert not machine.plan(version="580.82.07").replaced
    machine.install(version="580.82.07", dcgm=True)
    driver = {name: version for name, version in machine.versions.items() if version == "580.82.07-1"}
    plan = machine.plan(version="595", modules="proprietary", dcgm=True)
    assert plan.replaced == driver
    machine.carry_out(plan, most=3)
    machine.versions["libnvidia-ml1"] = ""
    assert machine.plan(version="595", modules="proprietary", dcgm=True).replaced == driver
    assert machine.plan(version="580.95.05", dcgm=True).replaced == driver
    # Turning a switch off takes its packages away; holds alone replace nothing.
    machine = Machine()
    machine.install(dcgm=True)
    assert {*machine.plan().replaced} == {"datacenter-gpu-manager-4-cuda13", "datacenter-gpu-manager-4-core"}
    assert not machine.plan(dcgm=True, hold=False).replaced


def test_the_way_back_takes_what_was_kept(tmp_path: Path) -> None:
    machine = Machine()
    machine.install(version="580.82.07")
    machine.install(version="580.95.05", repository="https://mirror.example.org/debian12")
    machine.kept = str(tmp_path)
    plan = plan_previous(Wanted(), machine.host)
    assert "libnvidia-ml1=580.82.07-1" in plan.install
    assert plan.update_index  # as another repository is described again
    for name in plan.packages:
        (tmp_path / f"{name}_580.82.07-1_amd64.deb").touch()
    plan = plan_previous(Wanted(), machine.host)
    assert str(tmp_path / "libnvidia-ml1_580.82.07-1_amd64.deb") in plan.install
    assert all(path.startswith("/") for path in plan.install)
    assert not plan.update_index
    assert plan.apt[:2] == ["apt-get", "install"]
    assert plan.apt[-len(plan.install) :] == list(plan.install)


def test_nothing_to_go_back_to() -> None:
    with pytest.raises(DriverError, match="nothing is recorded"):
        plan_previous(Wanted(), Machine().host)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "before": null}', '{"format": 1, "x": 1}']
)
def test_damaged_records(text: str) -> None:
    with pytest.raises(DriverError, match=r"record\.json: expected the record of this host's driver"):
        parse_record(text, "/var/lib/gpufleet/record.json")


def test_packages_of_rpm() -> None:
    packages = parse_rpm(
        "gpg-pubkey\t0\td42d0685-62589a51\t(none)\n"
        "gpg-pubkey\t0\t350d275d-6279464b\t(none)\n"
        "kernel-devel\t0\t5.14.0-427.el9\tx86_64\n"
        "kernel-devel\t0\t5.14.0-503.el9\tx86_64\n"
        "nvidia-driver-cuda\t3\t580.82.07-1.el9\tx86_64\n"
    )
    assert packages.versions == {
        "kernel-devel-5.14.0-427.el9.x86_64": "5.14.0-427.el9",
        "kernel-devel-5.14.0-503.el9.x86_64": "5.14.0-503.el9",
        "nvidia-driver-cuda": "3:580.82.07-1.el9",
    }
    el = platform_of("rocky", "9.6", "rhel", "x86_64")
    assert [spec(el, name, version) for name, version in packages.versions.items()] == [
        "kernel-devel-5.14.0-427.el9.x86_64",
        "kernel-devel-5.14.0-503.el9.x86_64",
        "nvidia-driver-cuda-3:580.82.07-1.el9",
    ]


def test_el_takes_a_key_and_a_kernel_of_others_for_no_part_of_a_change() -> None:
    machine = Machine(platform_of("rocky", "9.6", "rhel", "x86_64"))
    machine.versions["kernel-devel-6.1.0-40-amd64"] = "6.1.0-40"
    plan = machine.plan()
    assert "kernel-devel-6.1.0-40-amd64" not in plan.install
    assert "kernel-devel-6.1.0-40-amd64" not in plan.replaced

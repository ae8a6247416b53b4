# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan for a host's GPU driver: from what is wanted, what is there and what is offered to what has to be done.

It decides; it does nothing. There are three wishes (:func:`plan_present`, :func:`plan_absent`, :func:`plan_previous`),
one form of a plan, and so one way of carrying it out.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from ._driver_files import (
    NOUVEAU,
    PREFERENCES,
    SIGNING,
    VERSION_LOCK,
    Repository,
    common_files,
    hold_files,
    other_sources,
    stream_file,
    unlock_versions,
)
from ._driver_generation import modules_for
from ._driver_hardware import GpuUser, Hardware
from ._driver_offers import Catalogue, branch_of, compare_versions, upstream_of
from ._driver_packages import BROKEN, Packages
from ._driver_platform import TOOLKIT_FINGERPRINT, Platform
from ._driver_record import Before, Record
from ._driver_select import choose_driver, find_part, matches, with_dependencies
from ._errors import DriverError
from ._nvml_probe import Nvml

DEFAULT_BRANCH = "580"

# What comes and goes without the driver.
_SWITCHES = ("container_toolkit", "dcgm", "cuda_toolkit")

_SERVICES = {
    "persistenced": "nvidia-persistenced",
    "fabricmanager": "nvidia-fabricmanager",
    "imex": "nvidia-imex",
    "dcgm": "nvidia-dcgm",
}


@dataclass(frozen=True)
class Wanted:
    """What a host's driver shall be. An empty version leaves one that works as it is."""

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
    repository: str = ""
    fingerprint: str = ""
    toolkit_repository: str = ""
    toolkit_fingerprint: str = ""


@dataclass(frozen=True)
class Host:
    """What there is. ``read`` returns a file's text, or None; ``has_tool`` tells whether a command is installed.

    ``sources`` are the files that describe repositories.
    """

    platform: Platform
    kernel: str
    hardware: Hardware
    nvml: Nvml
    users: tuple[GpuUser, ...]
    packages: Packages
    record: Record | None
    sources: Mapping[str, str]
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
    """What has to be done, in this order: the record, files, releases from hold, installation, removal, holds.

    ``files`` has the content of each file that changes, None for one that goes. ``driver`` is the version that is
    there afterwards. ``record`` is what the record has to be before anything is done, ``record_after`` what it has to
    be after a removal or a way back; None stands for no record.
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
    reboot_required: bool = False
    load_module: bool = False

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.install or self.remove or self.hold or self.unhold or self.files)


def plan_present(wanted: Wanted, host: Host, ask: Callable[[list[Repository]], Offered]) -> Plan:
    """Decide what makes a host's driver as it is wanted.

    :param ask: Asks the repositories. It is not called where the host is as it shall be.
    :raises DriverError: When it cannot be, before anything was changed.
    """
    hardware, platform = host.hardware, host.platform
    modules = modules_for(hardware.generations, wanted.modules)
    parts = _parts(wanted, host, modules)
    settled = _settled(wanted, host)
    ours = not settled or _is_ours(host)
    if not ours:  # the driver is what is wanted, and somebody else's: only what the switches add is this role's
        parts = [part for part in parts if not platform.parts[part].matched]
    if (
        settled
        and not (_missing(wanted, host, parts, settled) or _surplus(host, parts, settled))
        and _kept(wanted, host)
    ):
        return _nothing(host, settled, parts)
    if not settled and hardware.loaded and host.driver is None and host.has_tool("nvidia-uninstall"):
        raise DriverError(
            f"driver {hardware.loaded} was installed by NVIDIA's .run file, which packages cannot replace; run "
            "nvidia-uninstall and reboot first"
        )
    repositories = _repositories(wanted, platform)
    offered = ask(repositories)
    driver = settled or choose_driver(
        offered.catalogue, platform, parts, wanted.version or DEFAULT_BRANCH, hardware.generations, modules
    )
    packages = _packages(wanted, host, parts, offered.catalogue, driver, keep=bool(settled))
    if ours and any(host.packages.versions.get(name) != packages.get(name) for name in platform.part(modules, driver)):
        _require_secure_boot(wanted, host)
    if not settled:
        _require_idle(wanted, host)
    load_module = hardware.loaded is None and not hardware.nouveau and host.has_tool("modprobe")
    plan = replace(
        _change(wanted, host, packages, driver, ours),
        services=_services(parts),
        load_module=load_module,
        reboot_required=hardware.loaded != driver and not load_module,
    )
    files: dict[str, str | None] = {
        path: _original(host, path) for path in (host.record.original if host.record else ())
    }
    files.update(offered.keys)
    files.update(_source_files(host, repositories))
    if ours:
        files.update(common_files(wanted.signing_key, wanted.signing_certificate))
        files.update(_stream_files(platform, driver, modules, offered.catalogue))
    if wanted.hold:
        files.update(hold_files(platform, driver if ours else None, packages, host.read(VERSION_LOCK)))
    plan = _with_files(plan, host, files)
    return replace(
        plan,
        message=_describe(host, driver, plan),
        record=_begin(host, plan, driver if ours else None, packages, files),
    )


def plan_nothing(record: Record | None) -> Plan:
    """Return the plan for a host that has no GPU of NVIDIA."""
    return Plan("there is no NVIDIA GPU here, so there is nothing to do", record=record)


def plan_absent(wanted: Wanted, host: Host) -> Plan:
    """Decide what removes all that the role installed on a host, and nothing else."""
    record = host.record
    if record is None:
        return Plan("this role has installed nothing here, so there is nothing to remove", driver=host.driver)
    _require_idle(wanted, host)
    remove = host.packages.unneeded(record.owned if record.finished else record.finish(host.packages).owned)
    what = f"driver {record.driver}" if record.driver else "what belongs to the driver"
    plan = Plan(
        f"remove {what}: {len(remove)} packages",
        remove=remove,
        unhold=tuple(sorted(host.packages.held & {*record.packages})),
        record=record,
        reboot_required=record.driver is not None and host.hardware.loaded is not None,
    )
    return _with_files(plan, host, {path: _original(host, path) for path in record.original})


def plan_previous(wanted: Wanted, host: Host) -> Plan:
    """Decide what brings back exactly what there was before the last change, whether that came to its end or not.

    :raises DriverError: When nothing is recorded to go back to.
    """
    record = host.record
    if record is None or record.before is None:
        raise DriverError("nothing is recorded here to go back to; name the version you want in cuda_driver_version")
    if record.finished:
        _require_idle(wanted, host)
    before, now = record.before, host.packages
    touched = record.touched if record.touched is not None else record.finish(now).touched or []
    install = [name for name in touched if name in before.versions and now.versions.get(name) != before.versions[name]]
    new = [name for name in touched if name not in before.versions and name in now.versions]
    mine = {*touched, *record.packages}
    plan = Plan(
        f"go back to driver {before.driver}" if before.driver else "go back to having no driver",
        driver=before.driver,
        install=tuple(_spec(host.platform, name, before.versions[name]) for name in install),
        remove=tuple(sorted(new)) if not record.finished else now.unneeded(new),
        # A hold vanishes when a held package is changed.
        hold=tuple(sorted(mine & {*before.held} & ({*install} | {*before.versions} - now.held))),
        unhold=tuple(sorted(mine & now.held - {*before.held})),
        automatic=tuple(sorted({*install} & {*before.automatic})),
        record=record,
        record_after=before.record,
        reboot_required=host.hardware.loaded != before.driver and bool(host.hardware.loaded or before.driver),
    )
    return _with_files(plan, host, before.files)


def _parts(wanted: Wanted, host: Host, modules: str) -> list[str]:
    """Return the parts that this hardware and these wishes ask for."""
    switches = host.hardware.nvswitch is not None
    nvlink5 = host.hardware.nvswitch == "nvlink5"
    asked = {
        "driver": True,
        "tools": True,
        modules: True,
        "persistenced": wanted.persistenced,
        "fabricmanager": switches,
        "nscq": switches,
        "nvsdm": nvlink5,
        "nvlsm": nvlink5,
        "imex": host.hardware.imex,
        "container_toolkit": wanted.container_toolkit,
        "dcgm": wanted.dcgm,
        "cuda_toolkit": bool(wanted.cuda_toolkit),
    }
    return [part for part, needed in asked.items() if needed and part in host.platform.parts]


def _services(parts: list[str]) -> tuple[str, ...]:
    return tuple(_SERVICES[part] for part in parts if part in _SERVICES)


def _settled(wanted: Wanted, host: Host) -> str | None:
    """Return the version that is here already and need not change, None where another one has to be installed."""
    for version in (host.nvml.version, host.driver):
        if version and (not wanted.version or matches(version, wanted.version)):
            return version
    return None


def _is_ours(host: Host) -> bool:
    """Whether this role has installed the driver itself."""
    return host.record is not None and host.record.driver is not None


def _missing(wanted: Wanted, host: Host, parts: list[str], driver: str) -> list[str]:
    """Return the parts that are not installed in this version."""
    missing = []
    for part in parts:
        kind = host.platform.parts[part]
        names = host.platform.part(part, driver, wanted.cuda_toolkit)
        versions = [host.packages.versions.get(name, BROKEN) for name in names]
        there = any(version and (not kind.matched or upstream_of(version) == driver) for version in versions)
        if not there and not kind.optional:
            missing.append(part)
    return missing


def _surplus(host: Host, parts: list[str], driver: str) -> list[str]:
    """Return what a switch brought that is off now."""
    recorded = list(host.record.packages) if host.record else []
    off = [part for part in _SWITCHES if part not in parts]
    return [
        name
        for part in off
        for pattern in host.platform.part(part, driver, "*")
        for name in fnmatch.filter(recorded, pattern)
    ]


def _kept(wanted: Wanted, host: Host) -> bool:
    """Whether files, versions and holds are as the role left them, and as they are wanted now."""
    record, platform = host.record, host.platform
    if record is None:
        return True
    files = {**record.files, **_source_files(host, _repositories(wanted, platform))}
    if record.driver:
        files.update(common_files(wanted.signing_key, wanted.signing_certificate))
    if wanted.hold:
        files.update(hold_files(platform, record.driver, record.packages, host.read(VERSION_LOCK)))
    held = {*record.packages} <= host.packages.held or platform.manager != "apt"
    return (
        all(host.read(path) == text for path, text in files.items())
        and all(host.packages.versions.get(name) == version for name, version in record.packages.items())
        and bool(wanted.signing_key) == (record.files.get(SIGNING) is not None)
        and (held if wanted.hold else record.files.get(PREFERENCES) is None)
    )


def _nothing(host: Host, driver: str, parts: list[str]) -> Plan:
    """Return the plan for a host that is as it shall be."""
    record = host.record
    if record and not record.finished:
        record = record.finish(host.packages)
    if record and host.nvml.version == host.driver:
        record = replace(record, proven=True)
    state = "works" if host.nvml.version else "is installed"
    return Plan(
        f"driver {driver} {state} as wanted" if _is_ours(host) else f"driver {driver} {state} and is left as it is",
        driver=driver,
        packages=record.packages if record else {},
        services=_services(parts),
        record=record,
        reboot_required=host.driver is not None and host.hardware.loaded != host.driver,
    )


def _repositories(wanted: Wanted, platform: Platform) -> list[Repository]:
    url = wanted.repository or platform.repository
    key = f"{url.rstrip('/')}/{platform.key}"
    repositories = [Repository("cuda", url, key, wanted.fingerprint or platform.fingerprint)]
    if wanted.container_toolkit:
        other = wanted.toolkit_repository or platform.toolkit_repository
        # NVIDIA keeps this key above the repositories of all distributions.
        key = f"{other.partition('/stable/')[0].rstrip('/')}/gpgkey"
        fingerprint = wanted.toolkit_fingerprint or TOOLKIT_FINGERPRINT
        if other.rstrip("/") != url.rstrip("/"):  # one mirror may have all
            repositories.append(Repository("container-toolkit", other, key, fingerprint))
    return repositories


def _packages(
    wanted: Wanted, host: Host, parts: list[str], catalogue: Catalogue, driver: str, keep: bool
) -> dict[str, str]:
    """Return every package of the driver with its exact version.

    :param keep: Keep the versions of what is recorded already: the driver stays, something is added.
    """
    roots = []
    for part in parts:
        offer = find_part(catalogue, host.platform, part, driver, wanted.cuda_toolkit)
        if offer is not None:
            roots.append(offer)
        elif not host.platform.parts[part].optional:
            names = " or ".join(host.platform.part(part, driver, wanted.cuda_toolkit))
            raise DriverError(f"the repositories do not have {names} for driver {driver}; nothing was changed")
    chosen = with_dependencies(catalogue, roots, driver, host.packages)
    recorded = host.record.packages if host.record and keep and host.record.driver in (None, driver) else {}
    return {name: recorded.get(name, offer.version) for name, offer in chosen.items()}


def _change(wanted: Wanted, host: Host, packages: dict[str, str], driver: str, ours: bool) -> Plan:
    """Return the plan's packages and holds."""
    platform, versions, held = host.platform, host.packages.versions, host.packages.held
    changing = [name for name in packages if versions.get(name) != packages[name]]
    needed = [*platform.needed, *([platform.headers.format(kernel=host.kernel)] if wanted.kernel_headers else [])]
    recorded = {*(host.record.packages if host.record else {})}
    modules = {
        name
        for part in ("open", "proprietary")
        for version in (driver, host.driver or driver)
        for name in platform.part(part, version)
    }
    leaving = (recorded | (modules if ours else set())) - {*packages}
    remove = sorted(name for name in leaving if name in versions)
    release = held & {*changing, *remove, *(() if wanted.hold else recorded)}
    holds = {*packages} - (held - release) if wanted.hold and platform.manager == "apt" else set()
    return Plan(
        "",
        driver=driver,
        packages=packages,
        update_index=True,
        install=(
            *(_spec(platform, name, packages[name]) for name in changing),
            *(name for name in needed if ours and changing and name not in versions),
        ),
        remove=tuple(remove),
        hold=tuple(sorted(holds)),
        unhold=tuple(sorted(release)),
    )


def _source_files(host: Host, repositories: list[Repository]) -> dict[str, str | None]:
    """Return the descriptions of repositories: this role's, and None for others of the same repositories."""
    manager = host.platform.manager
    files: dict[str, str | None] = {one.source_path(manager): one.source(manager) for one in repositories}
    others = other_sources(host.sources, [one.url for one in repositories], files)
    return {**files, **dict.fromkeys(others)}


def _stream_files(platform: Platform, driver: str, modules: str, catalogue: Catalogue) -> dict[str, str]:
    """Return the file that enables the branch's stream, where a branch is one."""
    if not platform.streams:
        return {}
    stream = f"{branch_of(driver)}-{'open' if modules == 'open' else 'dkms'}"
    if stream not in catalogue.streams:
        raise DriverError(f"the repository has no stream {stream} of the module nvidia-driver; nothing was changed")
    return stream_file(stream)


def _original(host: Host, path: str) -> str | None:
    """Return what a file was before this role's first change; of version locks, those of others stay."""
    if path == VERSION_LOCK:
        return unlock_versions(host.read(path)) or None
    return host.record.original.get(path) if host.record else None


def _with_files(plan: Plan, host: Host, files: Mapping[str, str | None]) -> Plan:
    """Return a plan with those of the files that are not so yet, and what follows from them."""
    changed = {path: text for path, text in files.items() if host.read(path) != text}
    tool = host.platform.initramfs
    return replace(
        plan,
        files=changed,
        # Indexes of a repository that was taken out are gone. Otherwise the way back needs none, and no network.
        update_index=plan.update_index
        or any(path in host.sources or path.endswith((".sources", ".repo")) for path in changed),
        initramfs=tool if NOUVEAU in changed and host.has_tool(tool[0]) else (),
    )


def _begin(
    host: Host, plan: Plan, driver: str | None, packages: dict[str, str], files: Mapping[str, str | None]
) -> Record | None:
    """Return the record that has to be written before the plan is carried out."""
    if not plan.pending:
        return host.record
    former = host.record
    now = {path: host.read(path) for path in files}
    if former and former.before and not former.finished:
        # The former change did not come to its end, so what was before it is what there is to go back to.
        before = replace(former.before, files={**now, **former.before.files})
    else:
        before = Before(
            driver=host.driver,
            versions=host.packages.versions,
            held=sorted(host.packages.held),
            automatic=sorted(host.packages.automatic),
            files=now,
            record=replace(former, before=None).to_json() if former else None,
        )
    return Record(
        driver=driver,
        packages=packages,
        files={path: text for path, text in files.items() if path != VERSION_LOCK},
        owned=former.owned if former else [],
        original={**now, **(former.original if former else {})},
        before=before,
        touched=None,
    )


def _require_secure_boot(wanted: Wanted, host: Host) -> None:
    """Refuse to install modules that this host's firmware would not load."""
    if not host.hardware.secure_boot or wanted.secure_boot != "fail":
        return
    raise DriverError(
        "Secure Boot is on, so the kernel loads only modules that are signed with a key that the firmware trusts; "
        "nothing was changed. Set cuda_driver_secure_boot to signed, with a key that is enrolled already, or to "
        "enroll, which needs somebody at the console at the next boot, or switch Secure Boot off"
    )


def _require_idle(wanted: Wanted, host: Host) -> None:
    """Refuse to pull the driver from under those who use it."""
    users = [user for user in host.users if user.service not in _units(wanted.stop_services)]
    if users and not wanted.ignore_gpu_users:
        raise DriverError(
            f"the GPU is in use by {', '.join(map(str, users))}; nothing was changed. Stop them, name their services "
            "in cuda_driver_stop_services, or set cuda_driver_ignore_gpu_users"
        )


def _units(names: tuple[str, ...]) -> set[str]:
    return {name if "." in name else f"{name}.service" for name in names}


def _spec(platform: Platform, name: str, version: str) -> str:
    """Return how the package manager is asked for a package in one version."""
    return f"{name}={version}" if platform.manager == "apt" else f"{name}-{version}"


def _describe(host: Host, driver: str, plan: Plan) -> str:
    """Return a plan in one sentence."""
    if not plan.pending:
        return f"driver {driver} is installed as wanted"
    former = host.driver
    if former is None:
        verb = f"install driver {driver}"
    elif former == driver:
        verb = f"keep driver {driver} and bring what belongs to it in order"
    else:
        direction = "upgrade" if compare_versions(driver, former) > 0 else "downgrade"
        verb = f"{direction} driver {former} to {driver}"
    return f"{verb}: {len(plan.install)} packages to install, {len(plan.remove)} to remove"


def result_of(plan: Plan) -> dict[str, Any]:
    """Return a plan as a module returns it."""
    return {
        "msg": plan.message,
        "pending": plan.pending,
        "driver": plan.driver,
        "packages": plan.packages,
        "install": list(plan.install),
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
        "reboot_required": plan.reboot_required,
        "load_module": plan.load_module,
    }

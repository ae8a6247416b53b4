# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan for a host's GPU driver: from what is wanted, what is there and what is offered to what has to be done.

It decides; it does nothing. There are three wishes (:func:`plan_present`, :func:`plan_absent`, :func:`plan_previous`),
one form of a plan, and so one way of carrying it out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

from ._driver_change import (
    begin,
    change_packages,
    describe,
    headers_of,
    kernel_modules,
    original,
    own_files,
    packages_of,
    replaced,
    repositories_of,
    source_files,
    spec,
    stream_files,
    with_files,
)
from ._driver_files import PREFERENCES, SIGNING, VERSION_LOCK, Repository, hold_files
from ._driver_generation import modules_for
from ._driver_hardware import Hardware
from ._driver_parts import missing_parts, parts_of, services_of, surplus
from ._driver_record import Record
from ._driver_refusals import require_idle, require_secure_boot
from ._driver_select import choose_driver, matches
from ._driver_types import Host, Offered, Plan, Wanted
from ._errors import DriverError
from ._nvml_probe import Nvml

DEFAULT_BRANCH = "580"


def plan_present(wanted: Wanted, host: Host, ask: Callable[[list[Repository]], Offered]) -> Plan:
    """Decide what makes a host's driver as it is wanted.

    :param ask: Asks the repositories. It is not called where the host is as it shall be.
    :raises DriverError: When it cannot be, before anything was changed.
    """
    hardware, platform = host.hardware, host.platform
    modules = modules_for(hardware.generations, wanted.modules)
    parts = parts_of(wanted, host, modules)
    settled = _settled(wanted, host)
    ours = not settled or _is_ours(host)
    if not ours:  # the driver is what is wanted, and somebody else's: only what the switches add is this role's
        parts = [part for part in parts if not platform.parts[part].matched]
    if (
        settled
        and not (missing_parts(wanted, host, parts, settled) or surplus(host, parts, settled))
        and _kept(wanted, host)
    ):
        return _rebuild(wanted, host, settled, parts) or _nothing(wanted, host, settled, parts)
    if not settled and host.nvml.elsewhere:
        raise DriverError(
            f"expected driver {wanted.version}, found {host.nvml.version} at work, which packages cannot replace: its "
            f"library is {host.nvml.elsewhere}; nothing was changed. Change it where it comes from, or leave "
            "cuda_driver_version empty for this host"
        )
    if not settled and hardware.loaded and host.driver is None and host.has_tool("nvidia-uninstall"):
        raise DriverError(
            f"driver {hardware.loaded} was installed by NVIDIA's .run file, which packages cannot replace; run "
            "nvidia-uninstall and reboot first"
        )
    repositories = repositories_of(wanted, platform)
    offered = ask(repositories)
    driver = settled or choose_driver(
        offered.catalogue, platform, parts, wanted.version or DEFAULT_BRANCH, hardware.generations, modules
    )
    packages = packages_of(wanted, host, parts, offered.catalogue, driver, keep=bool(settled))
    if ours and any(host.packages.versions.get(name) != packages.get(name) for name in platform.part(modules, driver)):
        require_secure_boot(wanted, host)
    if not settled:
        require_idle(wanted, host)
    load = _load(host) if ours else ()
    plan = replace(
        change_packages(wanted, host, packages, driver, ours),
        services=services_of(parts),
        load=load,
        reboot_required=hardware.loaded != driver and "nvidia" not in load,
    )
    files: dict[str, str | None] = {
        path: original(host, path) for path in (host.record.original if host.record else ())
    }
    files.update(offered.keys)
    files.update(source_files(host, repositories))
    if ours:
        files.update(own_files(wanted, host))
        files.update(stream_files(platform, driver, modules, offered.catalogue))
    if wanted.hold:
        files.update(hold_files(platform, driver if ours else None, packages, host.read(VERSION_LOCK)))
    plan = with_files(plan, host, files)
    plan = replace(
        plan,
        message=describe(host, driver, plan),
        record=begin(host, plan, driver if ours else None, packages, files),
    )
    return replace(plan, replaced=replaced(plan) if plan.install or plan.remove else {})


def plan_nothing(record: Record | None) -> Plan:
    """Return the plan for a host that has no GPU of NVIDIA."""
    return Plan("there is no NVIDIA GPU here, so there is nothing to do", record=record)


def plan_running(wanted: Wanted, hardware: Hardware, nvml: Nvml, obstacle: DriverError | None = None) -> Plan | None:
    """Decide about a driver that runs already and is nothing of this role's, before the host is looked at closer.

    Whoever brought it, a container or a distribution that this role does not know: it stays where it is what is wanted.

    :param obstacle: Why this role could not install a driver here.
    :return: None where more has to be known.
    :raises DriverError: When the driver that runs is not the wanted one, and cannot be replaced.
    """
    running = nvml.version or (hardware.loaded if obstacle else None)
    if running is None:
        if obstacle:
            raise obstacle
        return None
    if wanted.version and not matches(running, wanted.version):
        if obstacle:
            raise DriverError(f"expected driver {wanted.version}, found {running} at work; {obstacle}")
        return None
    if wanted.additions:
        if obstacle:
            raise obstacle
        return None
    state = "works" if nvml.version else f"is loaded ({nvml.reason})"
    return Plan(f"driver {running} {state} and is left as it is", driver=running)


def plan_nothing_to_remove() -> Plan:
    """Return the plan for removing what was never installed."""
    return Plan("this role has installed nothing here, so there is nothing to remove")


def plan_absent(wanted: Wanted, host: Host) -> Plan:
    """Decide what removes all that the role installed on a host, and nothing else."""
    record = host.record
    if record is None:
        return plan_nothing_to_remove()
    require_idle(wanted, host)
    remove = host.packages.unneeded(record.owned if record.finished else record.finish(host.packages).owned)
    what = f"driver {record.driver}" if record.driver else "what belongs to the driver"
    plan = Plan(
        f"remove {what}: {len(remove)} packages",
        remove=remove,
        unhold=tuple(sorted(host.packages.held & {*record.packages})),
        record=record,
        reboot_required=record.driver is not None and host.hardware.loaded is not None,
    )
    return with_files(plan, host, {path: original(host, path) for path in record.original})


def plan_previous(wanted: Wanted, host: Host) -> Plan:
    """Decide what brings back exactly what there was before the last change, whether that came to its end or not.

    :raises DriverError: When nothing is recorded to go back to.
    """
    record = host.record
    if record is None or record.before is None:
        raise DriverError("nothing is recorded here to go back to; name the version you want in cuda_driver_version")
    if record.finished:
        require_idle(wanted, host)
    before, now = record.before, host.packages
    touched = record.touched if record.touched is not None else record.finish(now).touched or []
    install = [name for name in touched if name in before.versions and now.versions.get(name) != before.versions[name]]
    new = [name for name in touched if name not in before.versions and name in now.versions]
    mine = {*touched, *record.packages}
    files = {name: host.kept.find(name, before.versions[name]) for name in install}
    plan = Plan(
        f"go back to driver {before.driver}" if before.driver else "go back to having no driver",
        driver=before.driver,
        packages={name: before.versions[name] for name in touched if name in before.versions},
        install=tuple(files[name] or spec(host.platform, name, before.versions[name]) for name in install),
        remove=tuple(sorted(new)) if not record.finished else now.unneeded(new),
        # A hold vanishes when a held package is changed.
        hold=tuple(sorted(mine & {*before.held} & ({*install} | {*before.versions} - now.held))),
        unhold=tuple(sorted(mine & now.held - {*before.held})),
        automatic=tuple(sorted({*install} & {*before.automatic})),
        record=record,
        record_after=before.record,
        reboot_required=host.hardware.loaded != before.driver and bool(host.hardware.loaded or before.driver),
    )
    plan = with_files(plan, host, before.files)
    # What was kept needs no repository: then the way back is open also without network.
    return replace(plan, update_index=plan.update_index and not all(files.values()))


def _settled(wanted: Wanted, host: Host) -> str | None:
    """Return the version that is here already and need not change, None where another one has to be installed."""
    for version in (host.nvml.version, host.driver):
        if version and (not wanted.version or matches(version, wanted.version)):
            return version
    return None


def _is_ours(host: Host) -> bool:
    """Whether this role has installed the driver itself."""
    return host.record is not None and host.record.driver is not None


def _kept(wanted: Wanted, host: Host) -> bool:
    """Whether files, versions and holds are as the role left them, and as they are wanted now."""
    record, platform = host.record, host.platform
    if record is None:
        return True
    files = {**record.files, **source_files(host, repositories_of(wanted, platform))}
    if record.driver:
        files.update(own_files(wanted, host))
    if wanted.hold:
        files.update(hold_files(platform, record.driver, record.packages, host.read(VERSION_LOCK)))
    held = {*record.packages} <= host.packages.held or platform.manager != "apt"
    return (
        all(host.read(path) == text for path, text in files.items())
        and all(host.packages.versions.get(name) == version for name, version in record.packages.items())
        and bool(wanted.signing_key) == (record.files.get(SIGNING) is not None)
        and (held if wanted.hold else record.files.get(PREFERENCES) is None)
    )


def _load(host: Host) -> tuple[str, ...]:
    """Return the modules that can be loaded without a reboot."""
    if not host.has_tool("modprobe"):
        return ()
    driver = ("nvidia",) if host.hardware.loaded is None and not host.hardware.nouveau else ()
    return (*driver, *kernel_modules(host))


def _rebuild(wanted: Wanted, host: Host, driver: str, parts: list[str]) -> Plan | None:
    """Return what gives the running kernel its modules, as after an upgrade of the kernel; None where it has them."""
    if not _is_ours(host) or host.record is None or host.hardware.loaded or host.hardware.built:
        return None
    if not host.has_tool("dkms"):
        return None
    require_secure_boot(wanted, host)
    headers = tuple(name for name in headers_of(wanted, host) if name not in host.packages.versions)
    plan = Plan(
        f"build the kernel modules of driver {driver} for kernel {host.kernel}",
        driver=driver,
        packages=host.record.packages,
        install=headers,
        build=("dkms", "autoinstall", "-k", host.kernel),
        load=_load(host),
        reboot_required=host.hardware.nouveau,
        services=services_of(parts),
        update_index=bool(headers),
    )
    return replace(plan, record=begin(host, plan, host.record.driver, host.record.packages, host.record.files))


def _nothing(wanted: Wanted, host: Host, driver: str, parts: list[str]) -> Plan:
    """Return the plan for a host that is as it shall be."""
    record = host.record
    reboot_required = host.driver is not None and host.hardware.loaded != host.driver
    if reboot_required and wanted.reboot:
        require_idle(wanted, host)
    if record and not record.finished:
        record = record.finish(host.packages)
    if record and host.nvml.version == host.driver:
        record = replace(record, proven=True)
    state = "works" if host.nvml.version else "is installed"
    return Plan(
        f"driver {driver} {state} as wanted" if _is_ours(host) else f"driver {driver} {state} and is left as it is",
        driver=driver,
        packages=record.packages if record else {},
        services=services_of(parts),
        record=record,
        reboot_required=reboot_required,
        load=_load(host) if _is_ours(host) and host.hardware.built and not host.hardware.loaded else (),
    )

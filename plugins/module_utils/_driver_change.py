# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a change consists of: packages, files, and the record that is written before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ._driver_files import (
    NOUVEAU,
    VERSION_LOCK,
    Repository,
    common_files,
    other_sources,
    stream_file,
    unlock_versions,
)
from ._driver_offers import Catalogue, branch_of, compare_versions
from ._driver_platform import TOOLKIT_FINGERPRINT, Platform
from ._driver_record import Before, Record
from ._driver_select import find_part, with_dependencies
from ._driver_types import Host, Plan, Wanted
from ._errors import DriverError


def repositories_of(wanted: Wanted, platform: Platform) -> list[Repository]:
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


def packages_of(
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


def change_packages(wanted: Wanted, host: Host, packages: dict[str, str], driver: str, ours: bool) -> Plan:
    """Return the plan's packages and holds."""
    platform, versions, held = host.platform, host.packages.versions, host.packages.held
    changing = [name for name in packages if versions.get(name) != packages[name]]
    needed = [*platform.needed, *headers_of(wanted, host)]
    if host.hardware.nvswitch == "nvlink5":
        needed.append("infiniband-diags")  # Fabric Manager asks it for the switches
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
            *(spec(platform, name, packages[name]) for name in changing),
            *(name for name in needed if ours and changing and name not in versions),
        ),
        remove=tuple(remove),
        hold=tuple(sorted(holds)),
        unhold=tuple(sorted(release)),
    )


def headers_of(wanted: Wanted, host: Host) -> list[str]:
    """Return the package with the headers of the running kernel."""
    return [host.platform.headers.format(kernel=host.kernel)] if wanted.kernel_headers else []


def kernel_modules(host: Host) -> tuple[str, ...]:
    """Return the kernel's own modules that the driver's services need."""
    # Fabric Manager talks to the switches of NVLink 5 in InfiniBand's management datagrams.
    return ("ib_umad",) if host.hardware.nvswitch == "nvlink5" else ()


def own_files(wanted: Wanted, host: Host) -> dict[str, str]:
    """Return the files that a driver of this role's needs with any package manager."""
    return common_files(wanted.signing_key, wanted.signing_certificate, kernel_modules(host))


def source_files(host: Host, repositories: list[Repository]) -> dict[str, str | None]:
    """Return the descriptions of repositories: this role's, and None for others of the same repositories."""
    manager = host.platform.manager
    files: dict[str, str | None] = {one.source_path(manager): one.source(manager) for one in repositories}
    others = other_sources(host.sources, [one.url for one in repositories], files)
    return {**files, **dict.fromkeys(others)}


def stream_files(platform: Platform, driver: str, modules: str, catalogue: Catalogue) -> dict[str, str]:
    """Return the file that enables the branch's stream, where a branch is one."""
    if not platform.streams:
        return {}
    stream = f"{branch_of(driver)}-{'open' if modules == 'open' else 'dkms'}"
    if stream not in catalogue.streams:
        raise DriverError(f"the repository has no stream {stream} of the module nvidia-driver; nothing was changed")
    return stream_file(stream)


def original(host: Host, path: str) -> str | None:
    """Return what a file was before this role's first change; of version locks, those of others stay."""
    if path == VERSION_LOCK:
        return unlock_versions(host.read(path)) or None
    return host.record.original.get(path) if host.record else None


def with_files(plan: Plan, host: Host, files: Mapping[str, str | None]) -> Plan:
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


def begin(
    host: Host, plan: Plan, driver: str | None, packages: dict[str, str], files: Mapping[str, str | None]
) -> Record | None:
    """Return the record that has to be written before the plan is carried out."""
    if not plan.pending:
        return host.record
    former = host.record
    now = {path: host.read(path) for path in files}
    expected: list[str] | None = [] if host.platform.manager == "apt" else None  # apt tells before it changes anything
    if former and former.before and not former.finished:
        # The former change did not come to its end, so what was before it is what there is to go back to.
        before = replace(former.before, files={**now, **former.before.files})
        expected = former.expected
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
        expected=expected,
    )


def replaced(plan: Plan) -> dict[str, str]:
    """Return the packages of before a change that it does not leave as they are, with their versions."""
    before = plan.record.before.versions if plan.record and plan.record.before else {}
    expected = {*((plan.record.expected if plan.record else None) or ())}
    return {
        name: version
        for name, version in before.items()
        # What was not whole before is not worth keeping.
        if version and (name in plan.remove or name in expected or plan.packages.get(name, version) != version)
    }


def spec(platform: Platform, name: str, version: str) -> str:
    """Return how the package manager is asked for a package in one version."""
    if platform.manager == "apt":
        return f"{name}={version}"
    return name if version in name else f"{name}-{version}"


def describe(host: Host, driver: str, plan: Plan) -> str:
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

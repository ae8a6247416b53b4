# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Choosing a driver's version, and every package that it needs, from what the repositories offer."""

from __future__ import annotations

from collections.abc import Iterable

from ._driver_generation import branch_problem
from ._driver_offers import Catalogue, Dependency, Offer, branch_of, satisfies, version_key
from ._driver_packages import Packages
from ._driver_platform import Platform
from ._errors import DriverError

_SHOWN = 5  # versions in a message


def matches(driver: str, wanted: str) -> bool:
    """Whether a driver's version is the wanted one, or of the wanted branch."""
    return driver == wanted or driver.startswith(f"{wanted}.")


def choose_driver(
    catalogue: Catalogue,
    platform: Platform,
    parts: Iterable[str],
    wanted: str,
    generations: Iterable[str],
    modules: str,
) -> str:
    """Return the newest version of the driver that is wanted and that is offered as a whole.

    A version that a repository has only in part, while it is being published for example, does not count.

    :param parts: What the driver must have; the parts that must have its version count.
    :raises DriverError: When there is none.
    """
    required = [name for name in parts if platform.parts[name].matched and not platform.parts[name].optional]
    drivers = (offer for offer in catalogue if offer.upstream and offer.name in platform.part("driver", offer.upstream))
    offered = sorted(drivers, key=version_key, reverse=True)
    for offer in offered:
        driver = offer.upstream
        if matches(driver, wanted) and all(find_part(catalogue, platform, part, driver) for part in required):
            problem = branch_problem(generations, modules, branch_of(driver))
            if problem:
                raise DriverError(f"driver {wanted}: {problem}; set cuda_driver_version to an older branch")
            return driver
    partly = [offer.upstream for offer in offered if matches(offer.upstream, wanted)]
    if partly:
        missing = [part for part in required if not find_part(catalogue, platform, part, partly[0])]
        names = (platform.part(part, partly[0])[0] for part in missing)
        raise DriverError(f"driver {partly[0]}: the repository does not have {', '.join(names)} in this version")
    known = list(dict.fromkeys(offer.upstream for offer in offered))
    raise DriverError(
        f"driver {wanted}: the repository has {', '.join(known[:_SHOWN]) or 'no driver'}"
        f"{' and older ones' if len(known) > _SHOWN else ''} for {platform.name}; correct cuda_driver_version"
    )


def find_part(catalogue: Catalogue, platform: Platform, part: str, driver: str, toolkit: str = "") -> Offer | None:
    """Return the package that a part is in a version of the driver, if it is offered."""
    matched = platform.parts[part].matched
    for name in platform.part(part, driver, toolkit):
        offer = catalogue.at(name, driver) if matched else next(iter(catalogue.of(name)), None)
        if offer is not None:
            return offer
    return None


def with_dependencies(
    catalogue: Catalogue, roots: Iterable[Offer], driver: str, installed: Packages
) -> dict[str, Offer]:
    """Return packages with all that they need from the same repositories, each in one exact version.

    What the repositories do not offer is the distribution's, and left to the package manager.
    """
    chosen = {offer.name: offer for offer in roots}
    waiting = list(chosen.values())
    while waiting:
        for alternatives in waiting.pop().depends:
            if any(_met(alternative, chosen, catalogue, installed) for alternative in alternatives):
                continue
            offer = next(filter(None, (_pick(catalogue, alternative, driver) for alternative in alternatives)), None)
            if offer is not None and offer.name not in chosen:
                chosen[offer.name] = offer
                waiting.append(offer)
    return dict(sorted(chosen.items()))


def _met(dependency: Dependency, chosen: dict[str, Offer], catalogue: Catalogue, installed: Packages) -> bool:
    if dependency.name in chosen:
        return True
    if any(dependency.name in offer.provides for offer in chosen.values()):
        return True
    return dependency.name in installed.versions and dependency.name not in catalogue


def _pick(catalogue: Catalogue, dependency: Dependency, driver: str) -> Offer | None:
    """Return the offer for a dependency: the driver's own version where that will do, otherwise the newest."""
    fitting = [offer for offer in catalogue.of(dependency.name) if satisfies(offer.version, dependency)]
    fitting = fitting or catalogue.providing(dependency.name)
    return next((offer for offer in fitting if offer.upstream == driver), next(iter(fitting), None))

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in the way of a change, told before anything is changed."""

from __future__ import annotations

from ._driver_types import Host, Wanted
from ._errors import DriverError


def require_secure_boot(wanted: Wanted, host: Host) -> None:
    """Refuse to install modules that this host's firmware would not load."""
    if not host.hardware.secure_boot or wanted.secure_boot != "fail":
        return
    raise DriverError(
        "Secure Boot is on, so the kernel loads only modules that are signed with a key that the firmware trusts; "
        "nothing was changed. Set cuda_driver_secure_boot to signed, with a key that is enrolled already, or to "
        "enroll, which needs somebody at the console at the next boot, or switch Secure Boot off"
    )


def require_idle(wanted: Wanted, host: Host) -> None:
    """Refuse to pull the driver from under those who use it."""
    users = [user for user in host.users if user.service not in _units(wanted.stop_services)]
    if users and not wanted.ignore_gpu_users:
        raise DriverError(
            f"the GPU is in use by {', '.join(map(str, users))}; nothing was changed. Stop them, name their services "
            "in cuda_driver_stop_services, or set cuda_driver_ignore_gpu_users"
        )


def _units(names: tuple[str, ...]) -> set[str]:
    return {name if "." in name else f"{name}.service" for name in names}

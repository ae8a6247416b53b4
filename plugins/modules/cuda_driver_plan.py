#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_driver_plan
short_description: Tell what has to be done so that a host has the wanted NVIDIA driver
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Compares what is wanted with the hardware, with what is installed, and with what NVIDIA's package repository offers,
    and returns packages with exact versions, holds, files and all else that has to change. The role
    P(gpufleet.models.cuda_driver#role) carries that out.
  - For a host without a GPU of NVIDIA, and for one where a driver of somebody else's works and is what is wanted, there
    is nothing to do. That is told on any distribution, and without privileges.
  - It changes nothing, whatever the mode. It reads C(/sys), C(/proc) and the package database. The repository's index
    is read over HTTP by the module itself, so that a host where the repository is not configured yet has a plan too,
    and only when something has to change.
  - What cannot be, such as modules that Secure Boot would refuse or a version that the repository does not have as a
    whole, is a failure with one sentence before anything is changed.
extends_documentation_fragment:
  - gpufleet.models.attributes
attributes:
  check_mode:
    support: full
    details: It changes nothing anyway. Only in check mode does it report RV(pending) as changed.
  diff_mode:
    support: full
    details: Shows the driver's packages with their versions, before and after.
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) plans for the driver that the other options describe.
      - V(absent) plans for removing all that was installed by earlier plans.
      - V(previous) plans for going back to exactly what there was before the last change.
    type: str
    choices: [present, absent, previous]
    default: present
  version:
    description:
      - A version such as V(580.95.05), or a branch such as V(580), which any version of that branch satisfies.
      - Empty leaves a driver that works as it is, whatever its version, and means the branch 580 where there is none.
    type: str
    default: ""
  modules:
    description:
      - The flavour of the kernel modules. V(auto) takes open ones for Turing and later, proprietary ones before that.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  hold:
    description:
      - Keep the packages in their versions, with holds or locks, pins, and an exclusion from unattended upgrades.
    type: bool
    default: true
  persistenced:
    description:
      - Whether the persistence daemon belongs to the driver.
    type: bool
    default: true
  container_toolkit:
    description:
      - Whether the NVIDIA container toolkit belongs to it; it comes from O(toolkit_repository).
    type: bool
    default: false
  dcgm:
    description:
      - Whether the Data Center GPU Manager belongs to it.
    type: bool
    default: false
  cuda_toolkit:
    description:
      - The version of the CUDA toolkit that belongs to it, as packages have it in their name, for example V(13-0).
        Empty for none.
    type: str
    default: ""
  kernel_headers:
    description:
      - Whether to install the headers of the running kernel, which building modules needs.
    type: bool
    default: true
  secure_boot:
    description:
      - What to do about kernel modules when Secure Boot is on. V(fail) refuses to install any.
      - V(signed) installs them, as they get signed with a key that the firmware trusts already, see O(signing_key).
      - V(enroll) installs them too, and leaves the key to be enrolled at the next boot.
    type: str
    choices: [fail, signed, enroll]
    default: fail
  signing_key:
    description:
      - The private key on the host that DKMS signs modules with. Empty for DKMS's own.
    type: path
    default: ""
  signing_certificate:
    description:
      - The certificate that belongs to O(signing_key).
    type: path
    default: ""
  stop_services:
    description:
      - Services that may use the GPU, as they are stopped before anything is changed.
    type: list
    elements: str
    default: []
  ignore_gpu_users:
    description:
      - Plan a change also while processes use the GPU.
    type: bool
    default: false
  reboot:
    description:
      - Whether the host is going to be rebooted where RV(reboot_required). Then processes that use the GPU are in the
        way also where nothing else is to be done.
    type: bool
    default: false
  repository:
    description:
      - The package repository with the driver. Empty for NVIDIA's for this platform.
    type: str
    default: ""
  fingerprint:
    description:
      - The fingerprint of that repository's key. Empty for NVIDIA's for this platform.
    type: str
    default: ""
  toolkit_repository:
    description:
      - The package repository with the container toolkit. Empty for NVIDIA's.
    type: str
    default: ""
  toolkit_fingerprint:
    description:
      - The fingerprint of that repository's key. Empty for NVIDIA's.
    type: str
    default: ""
  record:
    description:
      - The file with the record of the driver on the host.
    type: path
    default: /var/lib/gpufleet/cuda_driver.json
  kept:
    description:
      - The directory with the files of the packages that the last change replaced, see
        M(gpufleet.models.cuda_driver_keep).
    type: path
    default: /var/lib/gpufleet/cuda_driver_packages
  root:
    description:
      - Where C(sys), C(proc) and C(lib/modules) are, as far as they describe the hardware and the kernel.
    type: path
    default: /
  timeout:
    description:
      - Seconds that any request to a repository may take.
    type: float
    default: 60.0
requirements:
  - Python 3.9 or later on the host; nothing else.
notes:
  - Proxies and certificates are taken from the environment as usual (E(https_proxy), E(no_proxy), E(SSL_CERT_FILE)).
  - The index is read to plan with. What is installed is verified by the package manager, against the pinned key.
"""

EXAMPLES = r"""
- name: Tell what the newest driver of the branch 580 would need
  gpufleet.models.cuda_driver_plan:
    version: "580"
  register: plan

- name: Show it
  ansible.builtin.debug:
    msg: "{{ plan.msg }}: {{ plan.install | join(', ') }}"
"""

RETURN = r"""
msg:
  description: The plan in one sentence.
  returned: success
  type: str
  sample: "upgrade driver 580.82.07 to 580.95.05: 9 packages to install, 0 to remove"
pending:
  description: Whether there is anything to do.
  returned: success
  type: bool
driver:
  description: The version of the driver afterwards; V(null) for none.
  returned: success
  type: str
  sample: 580.95.05
packages:
  description: Every package that belongs to it, with its exact version.
  returned: success
  type: dict
install:
  description: What to install, as the package manager is asked for it; files with O(state=previous), as far as they are
    in O(kept).
  returned: success
  type: list
  elements: str
  sample: [nvidia-driver-cuda=580.95.05-1]
apt:
  description: The command of apt that does both; empty where there is nothing to install or remove.
  returned: success
  type: list
  elements: str
replaced:
  description: The packages that a change replaces or removes, with their versions. A way back needs them.
  returned: success
  type: dict
remove:
  description: The packages to remove.
  returned: success
  type: list
  elements: str
hold:
  description: The packages to hold afterwards.
  returned: success
  type: list
  elements: str
unhold:
  description: The packages to release from being held before.
  returned: success
  type: list
  elements: str
automatic:
  description: The packages to mark as installed for others only.
  returned: success
  type: list
  elements: str
update_index:
  description: Whether the package manager has to read repositories' indexes anew.
  returned: success
  type: bool
files:
  description: The files to write.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    content:
      description: What it has to contain; V(null) when it has to go.
      type: str
initramfs:
  description: The command that rebuilds the initial RAM disk; empty when that is not needed or there is no such tool.
  returned: success
  type: list
  elements: str
services:
  description: The services that belong to the driver.
  returned: success
  type: list
  elements: str
record:
  description: What the file O(record) has to contain before anything is changed; V(null) when there is to be none.
  returned: success
  type: dict
record_changed:
  description: Whether that is something else than what the file contains.
  returned: success
  type: bool
record_after:
  description: The same, for afterwards, with O(state=absent) and O(state=previous).
  returned: success
  type: dict
reboot_required:
  description: Whether the wanted driver runs only after a reboot.
  returned: success
  type: bool
build:
  description: The command that builds the kernel modules for the running kernel; empty where packages do that.
  returned: success
  type: list
  elements: str
load:
  description: The kernel modules that can be loaded without a reboot.
  returned: success
  type: list
  elements: str
certificate:
  description: The certificate of the key that kernel modules are signed with; V(null) when it does not matter.
  returned: success
  type: str
manager:
  description: The package manager, V(apt) or V(dnf); V(null) when it does not matter.
  returned: success
  type: str
privileged:
  description: Whether the module ran as root, which changing anything needs.
  returned: success
  type: bool
hardware:
  description: What the host is.
  returned: success
  type: dict
  contains:
    gpus:
      description: The GPUs on the PCI bus, each with C(address), C(device) and C(generation).
      type: list
      elements: dict
    nvswitch:
      description: V(nvlink4) or V(nvlink5) where the host has NVSwitches, otherwise V(null).
      type: str
    loaded:
      description: The version of the kernel module that runs; V(null) for none.
      type: str
    nvml:
      description: The version that the driver's library tells; V(null) when the driver does not work.
      type: str
    reason:
      description: Why it tells none.
      type: str
    nouveau:
      description: Whether the module nouveau is loaded.
      type: bool
    secure_boot:
      description: Whether Secure Boot is on.
      type: bool
    users:
      description: The processes that use a GPU.
      type: list
      elements: str
"""

import glob
import os
import re
import shutil
from dataclasses import replace
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ansible_collections.gpufleet.models.plugins.module_utils._driver_apt import read_apt
from ansible_collections.gpufleet.models.plugins.module_utils._driver_dnf import read_dnf
from ansible_collections.gpufleet.models.plugins.module_utils._driver_files import Repository
from ansible_collections.gpufleet.models.plugins.module_utils._driver_generation import modules_for
from ansible_collections.gpufleet.models.plugins.module_utils._driver_hardware import (
    Hardware,
    read_gpu_users,
    read_hardware,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_kept import Kept
from ansible_collections.gpufleet.models.plugins.module_utils._driver_offers import Catalogue
from ansible_collections.gpufleet.models.plugins.module_utils._driver_packages import read_packages
from ansible_collections.gpufleet.models.plugins.module_utils._driver_plan import (
    plan_absent,
    plan_nothing,
    plan_nothing_to_remove,
    plan_present,
    plan_previous,
    plan_running,
)
from ansible_collections.gpufleet.models.plugins.module_utils._driver_platform import Platform, platform_of
from ansible_collections.gpufleet.models.plugins.module_utils._driver_record import Record, parse_record
from ansible_collections.gpufleet.models.plugins.module_utils._driver_types import (
    Host,
    Offered,
    Plan,
    Wanted,
    result_of,
)
from ansible_collections.gpufleet.models.plugins.module_utils._errors import (
    DriverError,
    HubError,
    InvalidInput,
)
from ansible_collections.gpufleet.models.plugins.module_utils._module import run_module
from ansible_collections.gpufleet.models.plugins.module_utils._nvml_probe import Nvml, probe
from ansible_collections.gpufleet.models.plugins.module_utils._openpgp import require_fingerprint

_WISHES = (
    "version",
    "modules",
    "hold",
    "persistenced",
    "container_toolkit",
    "dcgm",
    "cuda_toolkit",
    "kernel_headers",
    "secure_boot",
    "signing_key",
    "signing_certificate",
    "ignore_gpu_users",
    "reboot",
    "repository",
    "fingerprint",
    "toolkit_repository",
    "toolkit_fingerprint",
)


class Planner:
    """Looks at one host and plans for it."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.check_mode = module.check_mode
        self.state: str = params["state"]
        self.timeout: float = params["timeout"]
        self.record_path: str = params["record"]
        self.kept_path: str = params["kept"]
        self.machine = os.uname().machine
        self.wanted = Wanted(**{name: params[name] for name in _WISHES}, stop_services=tuple(params["stop_services"]))
        if bool(self.wanted.signing_key) != bool(self.wanted.signing_certificate):
            raise InvalidInput("signing_key and signing_certificate: expected both or none of them")
        self.hardware = read_hardware(params["root"], self.machine, os.uname().release)

    def run(self) -> dict[str, Any]:
        """Return the module's result."""
        nvml = probe()
        record, withheld = None, None
        try:
            record = parse_record(_read(self.record_path), self.record_path)
        except PermissionError as error:
            withheld = error  # it may not be needed
        plan = self._plan_without_packages(record, nvml, known=withheld is None)
        if plan is not None:
            return self._result(plan, record, None, nvml)
        if withheld is not None:
            raise withheld
        host = self._host(record, nvml)
        plan = {
            "present": lambda: plan_present(self.wanted, host, self._asker(host.platform)),
            "absent": lambda: plan_absent(self.wanted, host),
            "previous": lambda: plan_previous(self.wanted, host),
        }[self.state]()
        return self._result(plan, record, host, nvml)

    def _plan_without_packages(self, record: Record | None, nvml: Nvml, known: bool) -> Plan | None:
        """Return the plan where packages do not matter, which also works without privileges and on any platform.

        :param known: Whether the record could be read.
        """
        if self.state == "present":
            if not self.hardware.gpus:
                return plan_nothing(record)
            obstacle = self._obstacle()
            if record is None or obstacle:
                plan = plan_running(self.wanted, self.hardware, nvml, obstacle)
                return plan and replace(plan, record=record)
        elif self.state == "absent" and record is None and known:
            return plan_nothing_to_remove()
        return None

    def _obstacle(self) -> DriverError | None:
        """Return why no driver can be installed here, whatever the version."""
        try:
            self._platform()
            modules_for(self.hardware.generations, self.wanted.modules)
        except DriverError as error:
            return error
        return None

    def _platform(self) -> Platform:
        release = _os_release()
        return platform_of(
            release.get("ID", "linux"), release.get("VERSION_ID", ""), release.get("ID_LIKE", ""), self.machine
        )

    def _host(self, record: Record | None, nvml: Nvml) -> Host:
        platform = self._platform()
        sources = [path for pattern in _SOURCES[platform.manager] for path in glob.glob(pattern)]
        return Host(
            platform=platform,
            kernel=os.uname().release,
            hardware=self.hardware,
            nvml=nvml,
            users=read_gpu_users(),
            packages=read_packages(platform.manager),
            record=record,
            sources={path: _read(path) or "" for path in sources},
            kept=Kept(self.kept_path, platform.manager, self.machine),
            read=_read,
            has_tool=lambda name: shutil.which(name, path=_PATH) is not None,
        )

    def _certificate(self, host: Host) -> str:
        """Return what modules are signed with: as it is wanted, as DKMS is told to, or as DKMS does by itself."""
        configured = _CERTIFICATE.search(_read("/etc/dkms/framework.conf") or "")
        return self.wanted.signing_certificate or (configured.group(1) if configured else host.platform.certificate)

    def _asker(self, platform: Platform) -> Callable[[list[Repository]], Offered]:
        """Return what asks repositories for keys and offers."""

        def ask(repositories: list[Repository]) -> Offered:
            keys, offers, streams = {}, [], []
            for repository in repositories:
                keys[repository.key_path(platform.manager)] = self._key(repository)
                if platform.manager == "apt":
                    offers += read_apt(repository.url, self._fetch)
                else:
                    found, of_module = read_dnf(repository.url, self.machine, self._fetch)
                    offers += found
                    streams += of_module
            return Offered(Catalogue(offers, streams), keys)

        return ask

    def _key(self, repository: Repository) -> str:
        if not repository.fingerprint:
            raise DriverError(
                f"{repository.key_url}: this key's fingerprint is not known for sure; ask NVIDIA, and set "
                "cuda_driver_key_fingerprint"
            )
        text = self._fetch(repository.key_url).decode("utf-8", "replace")
        require_fingerprint(text, repository.fingerprint, repository.key_url)
        return text

    def _fetch(self, url: str) -> bytes:
        try:
            with open_url(url, timeout=self.timeout) as response:
                content: bytes = response.read()
                return content
        except Exception as error:  # whatever a URL can make urllib, ssl or http raise
            raise HubError(f"{url}: {error}; nothing was changed") from None

    def _result(self, plan: Plan, record: Record | None, host: Host | None, nvml: Nvml) -> dict[str, Any]:
        installed = host.packages.versions if host else {}
        specs = (spec.partition("=")[0] for spec in plan.install if not os.path.isabs(spec))
        names = {*plan.packages, *plan.remove, *specs}
        return {
            **result_of(plan),
            "changed": self.check_mode and plan.pending,
            "record_changed": plan.record != record,
            "manager": host and host.platform.manager,
            "certificate": host and self._certificate(host),
            "privileged": os.geteuid() == 0,
            "hardware": _describe(self.hardware, nvml, host),
            "diff": {
                "before": "".join(f"{name} {installed[name]}\n" for name in sorted(names) if name in installed),
                "after": "".join(
                    f"{name} {plan.packages.get(name) or installed.get(name, '')}\n"
                    for name in sorted(names - {*plan.remove})
                ),
            },
        }


# Where repositories are described.
_SOURCES = {
    "apt": ("/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"),
    "dnf": ("/etc/yum.repos.d/*.repo",),
}
_CERTIFICATE = re.compile(r"^mok_certificate=[\"']?([^\"'\s]+)", re.MULTILINE)
# A module's own need not have what belongs to the system.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _describe(hardware: Hardware, nvml: Nvml, host: Host | None) -> dict[str, Any]:
    return {
        "gpus": [
            {"address": gpu.address, "device": f"{gpu.device:04x}", "generation": gpu.generation}
            for gpu in hardware.gpus
        ],
        "nvswitch": hardware.nvswitch,
        "loaded": hardware.loaded,
        "nvml": nvml.version,
        "reason": nvml.reason,
        "nouveau": hardware.nouveau,
        "secure_boot": hardware.secure_boot,
        "users": [str(user) for user in host.users] if host else [],
    }


def _os_release() -> dict[str, str]:
    text = _read("/etc/os-release") or _read("/usr/lib/os-release") or ""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value.strip("\"'") for name, equals, value in pairs if equals}


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def plan(module: AnsibleModule) -> dict[str, Any]:
    """Look at this host and return the module's result."""
    try:
        return Planner(module).run()
    except PermissionError as error:
        raise DriverError(f"{error.filename}: {error.strerror}; nothing was changed, use become: true") from None
    except OSError as error:
        where = error.filename or module.params["record"]
        raise DriverError(f"{where}: {error.strerror or error}; nothing was changed") from None


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "previous"], "default": "present"},
            "version": {"type": "str", "default": ""},
            "modules": {"type": "str", "choices": ["auto", "open", "proprietary"], "default": "auto"},
            "hold": {"type": "bool", "default": True},
            "persistenced": {"type": "bool", "default": True},
            "container_toolkit": {"type": "bool", "default": False},
            "dcgm": {"type": "bool", "default": False},
            "cuda_toolkit": {"type": "str", "default": ""},
            "kernel_headers": {"type": "bool", "default": True},
            "secure_boot": {"type": "str", "choices": ["fail", "signed", "enroll"], "default": "fail"},
            "signing_key": {"type": "path", "default": "", "no_log": False},
            "signing_certificate": {"type": "path", "default": ""},
            "stop_services": {"type": "list", "elements": "str", "default": []},
            "ignore_gpu_users": {"type": "bool", "default": False},
            "reboot": {"type": "bool", "default": False},
            "repository": {"type": "str", "default": ""},
            "fingerprint": {"type": "str", "default": ""},
            "toolkit_repository": {"type": "str", "default": ""},
            "toolkit_fingerprint": {"type": "str", "default": ""},
            "record": {"type": "path", "default": "/var/lib/gpufleet/cuda_driver.json"},
            "kept": {"type": "path", "default": "/var/lib/gpufleet/cuda_driver_packages"},
            "root": {"type": "path", "default": "/"},
            "timeout": {"type": "float", "default": 60.0},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: plan(module))


if __name__ == "__main__":
    main()

#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_check
short_description: Prove that each GPU of this host computes right
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Gives all GPUs of a host work at once, each GPU and each MIG device by a process of its own, in the environment
    O(venv). A GPU that hangs, or that takes its process down, fails, and the others are checked all the same.
  - Products of whole numbers, in every type that a GPU has, are compared bit for bit with integer arithmetic on the
    processor. Patterns are written to a share of its free memory and read back. Large products of 16-bit numbers,
    repeated for some seconds, must all be the same, and as fast as its datasheet lets expect. Data is copied to the
    GPU and back, and from each GPU to each other one.
  - Meanwhile the driver is asked for memory errors, and for slowdowns because of heat or power supply.
  - Run it on GPUs that nothing else uses. It takes all of their time, and the share O(memory_share) of their free
    memory.
requirements:
  - torch with CUDA and nvidia-ml-py 13 or later, in the environment that O(venv) names
extends_documentation_fragment:
  - gpufleet.models.attributes
attributes:
  check_mode:
    support: partial
    details:
      - In check mode no GPU is given work; it tells which ones would be checked.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - It changes nothing.
options:
  venv:
    description: The environment that has torch and nvidia-ml-py.
    type: path
    default: /opt/models/env
  seconds:
    description: Seconds for which each GPU multiplies large matrices.
    type: float
    default: 5
  memory_share:
    description:
      - The share of each GPU's free memory that is tested, up to 0.95. At least 1.5 GiB are left free.
    type: float
    default: 0.5
  timeout:
    description:
      - Seconds after which a GPU that is not done counts as hanging. The copies between GPUs get the same time again.
    type: float
    default: 300
seealso:
  - module: gpufleet.models.gpu_info
  - module: gpufleet.models.model_smoke
  - plugin: gpufleet.models.gpu_outliers
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Prove that each GPU computes right
  gpufleet.models.gpu_check:
    venv: /opt/models/env

- name: Load the GPUs of a new host for ten minutes, and test nearly all of their memory
  gpufleet.models.gpu_check:
    seconds: 600
    memory_share: 0.95
    timeout: 1200
"""

RETURN = r"""
verdict:
  description:
    - V(pass) when every GPU computes right, V(fail) when one does not.
    - V(skip) on a host without a GPU, and in check mode; the message says why. Where a driver is loaded, or an NVIDIA
      GPU is on the PCI bus, a GPU must work.
  returned: success or when a GPU failed
  type: str
  sample: pass
failures:
  description: A sentence for each check that failed.
  returned: success or when a GPU failed
  type: list
  elements: str
  sample:
    - "GPU 3 (NVIDIA L4): product float32: expected the whole numbers of integer arithmetic, found 1 elements that
      differ; at row 12, column 4095 17 instead of -15"
gpus:
  description: The outcome for each GPU, or for each of its MIG devices.
  returned: success or when a GPU failed
  type: list
  elements: dict
  contains:
    index:
      description: NVML's index of the GPU.
      type: int
    uuid:
      description: The identifier of the GPU or MIG device.
      type: str
    name:
      description: Its name.
      type: str
      sample: NVIDIA H100 80GB HBM3
    ok:
      description: Whether it computes right.
      type: bool
    checks:
      description: What was looked at.
      type: list
      elements: dict
      contains:
        check:
          description: Its name.
          type: str
        ok:
          description: Whether it is as it must be.
          type: bool
        expected:
          description: What was expected.
          type: str
        found:
          description: What was found.
          type: str
    dtype:
      description: The type of the large products, C(bfloat16), or C(float16) on GPUs without it.
      type: str
    tflops:
      description: 10^12 operations a second in large products, in the C(first) and in the C(last) second.
      type: dict
      sample: {first: 701.4, last: 688.2}
    datasheet_tflops:
      description: The same by the datasheet, in dense products; V(null) for a GPU that is not in the table.
      type: float
    products:
      description:
        - A checksum of the exact product in each type that it has. It is the same on every GPU that computes right.
      type: dict
    memory_mib:
      description: The memory that patterns were written to, in MiB.
      type: int
    gb_per_second:
      description:
        - How fast data is copied, in 10^9 bytes a second, C(host_to_device) and C(device_to_host) with pinned memory,
          and C(device_to_device) within the GPU, where each byte is read and written.
      type: dict
      sample: {host_to_device: 55.1, device_to_host: 52.8, device_to_device: 1290.7}
    added_errors:
      description:
        - Memory errors that came meanwhile, C(corrected) and C(uncorrected); V(null) where they are not counted.
      type: dict
    throttle_reasons:
      description: Why clocks were lowered meanwhile, with the words of M(gpufleet.models.gpu_info).
      type: list
      elements: str
    temperature_celsius:
      description: The highest temperature meanwhile, in degrees Celsius.
      type: int
    power_watts:
      description: The most power that it drew meanwhile, in watts.
      type: float
    processes:
      description: What used the GPU before, as M(gpufleet.models.gpu_info) has it.
      type: list
      elements: dict
peers:
  description: The copies from one GPU to another; MIG devices have none.
  returned: success or when a GPU failed
  type: list
  elements: dict
  contains:
    from:
      description: The index of the GPU that was read.
      type: int
    to:
      description: The index of the GPU that was written.
      type: int
    direct:
      description: Whether one reaches the other's memory itself, not by way of the host's.
      type: bool
    gb_per_second:
      description: How fast that was, in 10^9 bytes a second.
      type: float
    ok:
      description: Whether all of it arrived as it was sent.
      type: bool
    expected:
      description: What was expected.
      type: str
    found:
      description: What was found.
      type: str
"""

import os
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._driver_hardware import read_hardware
from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_check import (
    Driver,
    Report,
    check_gpus,
    find_parts,
    reason_to_skip,
)
from ansible_collections.gpufleet.models.plugins.module_utils._gpu_load import Load
from ansible_collections.gpufleet.models.plugins.module_utils._module import run_module

_RANGES = {"seconds": (1, 86400), "memory_share": (0.01, 0.95), "timeout": (1, 172800)}


def check(module: AnsibleModule, cancelled: threading.Event) -> dict[str, Any]:
    """Check the host's GPUs, and return the module's result."""
    params = module.params
    for name, (least, most) in _RANGES.items():
        if not least <= params[name] <= most:
            raise InvalidInput(f"{name}: expected {least} to {most}, found {params[name]:g}")
    if params["timeout"] <= params["seconds"]:
        raise InvalidInput(f"timeout: expected more than the {params['seconds']:g} seconds of work; allow more time")
    venv: str = params["venv"].rstrip("/")
    driver = Driver(venv, cancelled)
    before = driver.ask()
    if before is None:
        raise InvalidInput("expected an answer of the driver, found none: it hangs; reboot the host")
    nothing = {"changed": False, "verdict": "skip", "failures": [], "gpus": [], "peers": []}
    host = os.uname()
    reason = reason_to_skip(before, len(read_hardware("/", host.machine, host.release).gpus))
    if reason is not None:
        return {**nothing, "msg": f"nothing was checked: {reason}"}
    if module.check_mode:
        return {**nothing, "msg": f"would check {', '.join(map(str, find_parts(before)))}"}
    load = Load(params["seconds"], params["memory_share"], params["timeout"])
    return _result(check_gpus(before, driver, load, venv, cancelled))


def _result(report: Report) -> dict[str, Any]:
    failures = report.failures()
    result = {
        "changed": False,
        "verdict": "fail" if failures else "pass",
        "failures": failures,
        "gpus": [outcome.to_json() for outcome in report.outcomes],
        "peers": report.pairs(),
        "msg": f"{len(report.outcomes)} GPUs or parts of them compute right",
    }
    if failures:
        result["failed"] = True
        result["msg"] = f"GPUs do not compute right: {'; '.join(failures)}"
    return result


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "venv": {"type": "path", "default": "/opt/models/env"},
            "seconds": {"type": "float", "default": 5.0},
            "memory_share": {"type": "float", "default": 0.5},
            "timeout": {"type": "float", "default": 300.0},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: check(module, cancelled))


if __name__ == "__main__":
    main()

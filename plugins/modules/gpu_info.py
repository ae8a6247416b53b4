#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell what NVIDIA GPUs a host has, and whether they work
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Asks the NVIDIA driver through its management library NVML, by way of nvidia-ml-py. C(nvidia-smi) is not needed.
  - Whatever is missing or broken is an entry of RV(problems), never a failure of the module, so that a play can decide.
    What a GPU or its driver does not support is V(null).
requirements:
  - nvidia-ml-py 13 or later, in the environment that O(venv) names
extends_documentation_fragment:
  - gpufleet.models.attributes
attributes:
  check_mode:
    support: full
    details: It changes nothing anyway.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  venv:
    description:
      - The virtual environment that has nvidia-ml-py, whichever Python it was made with.
      - By default the module's own Python must have it.
    type: path
  expected_gpus:
    description:
      - How many GPUs there should be; another number is an entry of RV(problems). A GPU that has failed is often not
        listed at all.
    type: int
seealso:
  - module: gpufleet.models.model_preflight
"""

EXAMPLES = r"""
- name: See the GPUs
  gpufleet.models.gpu_info:
    venv: /opt/models/env
    expected_gpus: 8
  register: gpus

- name: Go on only where all of them work
  ansible.builtin.assert:
    that: not gpus.problems
    fail_msg: "{{ gpus.msg }}"
"""

RETURN = r"""
available:
  description: Whether the driver answers.
  returned: always
  type: bool
driver_version:
  description: The driver's version; V(null) when it does not answer.
  returned: always
  type: str
  sample: 580.95.05
cuda_driver_version:
  description: The newest CUDA version that the driver supports; V(null) when it does not answer.
  returned: always
  type: str
  sample: "13.0"
nvml_version:
  description: The version of the management library; V(null) when it does not answer.
  returned: always
  type: str
  sample: 13.580.95.05
kernel_module_version:
  description: The version of the kernel module that is loaded; V(null) when none is.
  returned: always
  type: str
  sample: 580.95.05
problems:
  description: What is wrong; an empty list when nothing is.
  returned: always
  type: list
  elements: dict
  contains:
    reason:
      description:
        - V(binding_missing), nvidia-ml-py is not installed.
        - V(binding_untrusted), another account could have written nvidia-ml-py, so it was not run.
        - V(library_missing), there is no C(libnvidia-ml.so.1), so no driver is installed.
        - V(driver_not_loaded), the kernel module is not loaded.
        - V(version_mismatch), kernel module and library differ, as after an upgrade without a reboot.
        - V(no_permission), the account may not use the GPUs.
        - V(gpu_lost), a GPU has fallen off the bus.
        - V(reset_required), a GPU needs a reset.
        - V(gpu_count), there are more or fewer GPUs than O(expected_gpus).
        - V(nvml_error), any other error; the message has its code.
      type: str
    gpu:
      description: The index of the GPU; V(null) when it is not one GPU's problem.
      type: int
    message:
      description: What is wrong and what to do, in one sentence.
      type: str
gpus:
  description: The GPUs, in NVML's order.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: NVML's index, in order of PCI addresses.
      type: int
    state:
      description: V(ok), V(lost), V(reset_required), or V(error); only with V(ok) the rest can be relied on.
      type: str
    uuid:
      description: The identifier that C(CUDA_VISIBLE_DEVICES) takes.
      type: str
      sample: GPU-5a1b6d0e-9c8f-4c58-b7a3-2f4f5f0c1d2e
    name:
      description: The product's name.
      type: str
      sample: NVIDIA H100 80GB HBM3
    pci_address:
      description: The PCI address as Linux writes it.
      type: str
      sample: "0000:17:00.0"
    compute_capability:
      description: The compute capability.
      type: str
      sample: "9.0"
    memory:
      description: The device memory; V(null) for a GPU without memory of its own.
      type: dict
      contains:
        total_mib:
          description: Its size in MiB.
          type: int
        free_mib:
          description: What is free of it in MiB.
          type: int
    temperature_celsius:
      description: The GPU's temperature in degrees Celsius.
      type: int
    power:
      description: Electrical power.
      type: dict
      contains:
        used_watts:
          description: What it draws now in watts.
          type: float
        limit_watts:
          description: The limit that is enforced in watts.
          type: float
    utilization:
      description: Shares of the last sample period.
      type: dict
      contains:
        gpu_percent:
          description: Per cent of the time in which a kernel was running.
          type: int
        memory_percent:
          description: Per cent of the time in which memory was read or written.
          type: int
    ecc:
      description: Memory errors; counts are V(null) where they are not kept.
      type: dict
      contains:
        enabled:
          description: Whether ECC is on.
          type: bool
        pending:
          description: Whether it will be on after the next reboot.
          type: bool
        volatile_corrected:
          description: Corrected errors since the driver was loaded.
          type: int
        volatile_uncorrected:
          description: Uncorrected errors since the driver was loaded.
          type: int
        aggregate_corrected:
          description: Corrected errors in the GPU's life.
          type: int
        aggregate_uncorrected:
          description: Uncorrected errors in the GPU's life.
          type: int
    mig:
      description: Multi-instance mode.
      type: dict
      contains:
        enabled:
          description: Whether it is on.
          type: bool
        pending:
          description: Whether it will be on after the next reset.
          type: bool
        devices:
          description: The MIG devices, each with C(index), C(uuid), C(name) and C(memory) as above.
          type: list
          elements: dict
    throttle_reasons:
      description:
        - Why the clocks are lower than they could be, of V(gpu_idle), V(applications_clocks_setting), V(sw_power_cap),
          V(hw_slowdown), V(sync_boost), V(sw_thermal_slowdown), V(hw_thermal_slowdown), V(hw_power_brake_slowdown),
          V(display_clock_setting), V(board_limit), V(reliability).
      type: list
      elements: str
    remapped_rows:
      description: Rows of memory that were replaced, from Ampere on.
      type: dict
      contains:
        corrected:
          description: Rows replaced after corrected errors.
          type: int
        uncorrected:
          description: Rows replaced after uncorrected errors.
          type: int
        pending:
          description: Whether a replacement waits for a reset.
          type: bool
        failed:
          description: Whether a replacement has failed; the GPU should be exchanged.
          type: bool
    retired_pages:
      description: Pages of memory that are used no more, before Ampere.
      type: dict
      contains:
        single_bit:
          description: Pages retired after several single-bit errors.
          type: int
        double_bit:
          description: Pages retired after a double-bit error.
          type: int
        pending:
          description: Whether a page waits for a reboot to be retired.
          type: bool
    nvlinks:
      description: Links to other GPUs or to switches.
      type: dict
      contains:
        total:
          description: Links that the GPU has.
          type: int
        active:
          description: Links that work.
          type: int
    fabric:
      description: The GPU's part in a fabric of NVSwitches, as the Fabric Manager has set it up.
      type: dict
      contains:
        state:
          description: V(not_supported), V(not_started), V(in_progress) or V(completed).
          type: str
        status:
          description: NVML's error code of the set-up, 0 for success; it counts once the state is V(completed).
          type: int
        clique_id:
          description: GPUs with the same number reach each other.
          type: int
        health_mask:
          description: NVML's bit mask of health.
          type: int
    processes:
      description: Processes that use the GPU.
      type: list
      elements: dict
      contains:
        pid:
          description: The process.
          type: int
        name:
          description: Its program; V(null) when it has ended, or belongs to a container.
          type: str
        type:
          description: V(compute), V(graphics) or V(mps).
          type: str
        memory_mib:
          description: Device memory that it uses in MiB.
          type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._gpu_facts import describe, gather_facts


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={"venv": {"type": "path"}, "expected_gpus": {"type": "int"}},
        supports_check_mode=True,
    )
    facts = gather_facts(module.params["venv"], module.params["expected_gpus"])
    module.exit_json(changed=False, msg=describe(facts), **facts)


if __name__ == "__main__":
    main()

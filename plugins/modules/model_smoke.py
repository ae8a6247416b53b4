#!/usr/bin/python

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_smoke
short_description: Prove that AI models on this host load and compute
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Loads each model of a generation from its files in the store, runs it, and compares what comes out with what is
    expected of it. The generation may be served or only staged.
  - All models are tested by one process for each GPU, in the environment O(venv). A model that hangs, crashes that
    process or takes more memory than there is fails, and the others are tested all the same. The network is not used,
    and code that a repository brings is not run.
  - What is looked at for every model is that no weight was missing in its files, that its outputs are finite numbers,
    that they depend on the input, and that a second run gives the same. The catalog adds expectations and limits, and a
    golden file the outputs themselves.
  - The outcome is kept in the generation's manifest.
extends_documentation_fragment:
  - gpufleet.models.attributes
  - gpufleet.models.store
attributes:
  check_mode:
    support: partial
    details:
      - In check mode nothing is loaded; it tells which models would be tested, and how.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - It changes nothing that is served. With O(rerun=false) a test that was passed is not repeated.
options:
  generation:
    description: The number of the generation; by default the one that is served.
    type: int
  models:
    description:
      - The models as a lock that M(gpufleet.models.model_lock) made has them now. Their C(smoke) and C(requires) go
        before those of the time when the generation was staged.
    type: list
    elements: dict
  venv:
    description: The environment that has torch and transformers, or xllamacpp, and nvidia-ml-py.
    type: path
    default: /opt/models/env
  golden:
    description:
      - The contents of golden files, which hold the outputs of models where they are known to compute right. One that
        was made of another commit than the model has is an error.
    type: list
    elements: dict
    default: []
  cpu:
    description:
      - What to do on a host without a GPU.
      - With V(refuse) that is a failure, with V(allow) the models compute on the CPU, with V(skip) nothing is tested,
        and the result says so.
      - Where a driver is loaded, a GPU must work whatever this says.
    type: str
    choices: [refuse, allow, skip]
    default: refuse
  rerun:
    description:
      - Test again what was passed before with the same models, expectations, environment, GPUs and driver.
    type: bool
    default: true
  outputs:
    description: Return the outputs as well, to make a golden file of them or to compare those of several hosts.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait while another process writes to the store.
    type: float
    default: 60
seealso:
  - module: gpufleet.models.model_generation
  - module: gpufleet.models.gpu_info
"""

EXAMPLES = r"""
- name: Prove that what is served computes
  gpufleet.models.model_smoke:
    root: /opt/models

- name: Prove it of a staged generation, with the lock's own expectations
  gpufleet.models.model_smoke:
    root: /opt/models
    generation: 8
    models: "{{ (lookup('ansible.builtin.file', 'models.lock.json') | from_json).models }}"
    rerun: false
"""

RETURN = r"""
generation:
  description: The generation that was tested.
  returned: success or when a model failed
  type: int
  sample: 8
tested:
  description: Whether models were run; not so in check mode, on a host without a GPU that is skipped, and where the
    outcome was taken from the manifest because O(rerun=false).
  returned: success or when a model failed
  type: bool
failures:
  description: A sentence for each model that failed.
  returned: success or when a model failed
  type: list
  elements: str
  sample: ["all-MiniLM-L6-v2: golden: expected a cosine of at least 0.99999, found 0.867000"]
models:
  description: The outcome for each model.
  returned: success or when a model failed
  type: list
  elements: dict
  contains:
    name:
      description: The model's name.
      type: str
    ok:
      description: Whether it may be served.
      type: bool
    skipped:
      description: Why it is not tested, by the word of the catalog; V(null) when it is.
      type: str
    commit:
      description: The commit that its files are of.
      type: str
    task:
      description: What it does, C(embedding), C(rerank), C(text2text), C(generation) or C(image_text).
      type: str
    engine:
      description: What runs it, C(transformers), C(llama_cpp), or C(openvino) for what was converted, which has an
        entry of its own after the model's.
      type: str
    device:
      description: What it computed on.
      type: str
    dtype:
      description: The type it computed in; C(gguf) for the types that a GGUF file has itself.
      type: str
    attempts:
      description: The types that were tried, in that order. The last one counts.
      type: list
      elements: dict
      contains:
        dtype:
          description: The type.
          type: str
        predicted_mib:
          description: The memory for the weights alone, in MiB, predicted from the headers of the model's files.
          type: int
        available_mib:
          description: What there was for it, in MiB; V(null) on a CPU.
          type: int
        reason:
          description: V(null) for the type that could be measured, else one of C(too_large), C(out_of_memory),
            C(timeout), C(crash), C(missing_package), C(error).
          type: str
        failure:
          description: What happened, in words.
          type: str
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
    load_seconds:
      description: Seconds to load it, C(cold) with its files read from the disk, and C(warm) right after that.
      type: dict
    latency_ms:
      description: Milliseconds for an answer to the first input, C(median) and C(p95) of 3 to 20 answers, or of those
        of a second on a GPU.
      type: dict
    tokens_per_second:
      description: Tokens made in a second; V(null) for a task that makes none.
      type: float
    gpu_memory_mib:
      description: The most memory that was reserved on the GPU, in MiB; V(null) on a CPU.
      type: int
    gpu_utilization_percent:
      description: The highest utilization of the GPU meanwhile; V(null) where nobody tells.
      type: int
    host_memory_mib:
      description: The most memory that the testing process had so far, in MiB.
      type: int
    golden:
      description:
        - With O(outputs), the content of a golden file, with the C(inputs) and a list of numbers for each of the
          C(outputs), which are normalized embeddings, scores, or logits.
      type: dict
"""

import datetime
import threading
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput, StoreError
from ansible_collections.gpufleet.models.plugins.module_utils._generation import Generations
from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import Model, parse_models, with_wishes
from ansible_collections.gpufleet.models.plugins.module_utils._manifest import Manifest
from ansible_collections.gpufleet.models.plugins.module_utils._module import ROOT_ARGUMENT, root_of, run_module
from ansible_collections.gpufleet.models.plugins.module_utils._smoke import (
    Outcome,
    digest_of,
    find_devices,
    has_driver,
    make_tests,
    of_generation,
    run_tests,
)
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_judge import Golden
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_pool import Device
from ansible_collections.gpufleet.models.plugins.module_utils._store import Store


class SmokeManager:
    """Tests one generation of one host's store."""

    def __init__(self, module: AnsibleModule) -> None:
        params = module.params
        self.module = module
        self.root = root_of(params)
        self.venv: str = params["venv"].rstrip("/")
        self.cpu: str = params["cpu"]
        self.golden = [Golden.parse(f"golden[{index}]", value) for index, value in enumerate(params["golden"])]
        self.locked = parse_models(params["models"] or [])

    def run(self, cancelled: threading.Event) -> dict[str, Any]:
        """Test, keep the outcome, and return the module's result."""
        store = Store.open(self.root)
        if store is None:
            if self.module.check_mode:
                return {"changed": False, "tested": False, "msg": f"{self.root} does not exist yet"}
            raise InvalidInput(f"{self.root} does not exist; stage something first")
        with store:
            generations = Generations(store)
            manifest = self._manifest(generations)
            result = {"changed": False, "generation": manifest.generation, "tested": False}
            try:
                devices, about = self._devices()
            except InvalidInput as error:
                # The environment, or the driver, may be what this run would bring.
                if self.module.check_mode:
                    return {**result, "failures": [], "models": [], "msg": f"cannot tell yet: {error}"}
                raise
            if not devices:
                return {**result, "failures": [], "models": [], "msg": f"nothing was tested: {about}"}
            models = with_wishes(manifest.models, self.locked)
            golden = self._golden(models)
            tests = make_tests(models, generations.path(manifest.generation), golden, manifest.derived)
            digest = digest_of(tests, devices, self.venv)
            known = manifest.smoke
            if known and known["passed"] and known["digest"] == digest and not self.module.params["rerun"]:
                msg = f"generation {manifest.generation} has passed this test at {known['at']}"
                return {**result, "failures": [], "models": self._shown(known["models"]), "msg": msg}
            if self.module.check_mode:
                names = ", ".join(test.label for test in tests if test.job)
                return {**result, "failures": [], "models": [], "msg": f"would test {names or 'nothing'} on {about}"}
            outcomes = run_tests(tests, devices, self.venv, cancelled)
            self._record(store, manifest, digest, outcomes, cancelled)
            return {**result, "tested": True, **self._result(manifest, outcomes)}

    def _manifest(self, generations: Generations) -> Manifest:
        number = self.module.params["generation"]
        if number is None:
            number = generations.current()
        if number is None:
            raise InvalidInput(f"{self.root} serves no generation; name one to test, or serve one first")
        return generations.manifest(number)

    def _golden(self, models: list[Model]) -> list[Golden]:
        """Return what to compare with. What is served may be older than the golden files, after a rollback for one."""
        if self.module.params["generation"] is not None:
            return self.golden
        known = of_generation(self.golden, models)
        for golden in self.golden:
            if golden not in known:
                self.module.warn(
                    f"{golden.name} is not compared: its golden file is of another commit, {golden.commit}"
                )
        return known

    def _shown(self, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return outcomes as the result has them: the outputs are large."""
        return models if self.module.params["outputs"] else [{**model, "golden": None} for model in models]

    def _devices(self) -> tuple[list[Device], str]:
        """Return what to compute on, and a sentence about it."""
        devices, about = find_devices(self.venv)
        if devices:
            return devices, about
        if has_driver() or self.cpu == "refuse":
            raise InvalidInput(f"expected a GPU that works, found none: {about}")
        return ([Device()], "the CPU") if self.cpu == "allow" else ([], about)

    def _record(
        self, store: Store, manifest: Manifest, digest: str, outcomes: list[Outcome], cancelled: threading.Event
    ) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        smoke = {
            "at": now,
            "digest": digest,
            "passed": all(outcome.ok for outcome in outcomes),
            # With the outputs: a host that is tested later is compared with this one.
            "models": [outcome.to_json() for outcome in outcomes],
        }
        try:
            with store.writer("model_smoke", self.module.params["lock_timeout"], cancelled):
                Generations(store).record_smoke(manifest.generation, smoke)
        except (OSError, StoreError) as error:
            self.module.warn(f"the outcome could not be kept in the manifest of {manifest.generation}: {error}")

    def _result(self, manifest: Manifest, outcomes: list[Outcome]) -> dict[str, Any]:
        failures = [failure for failure in map(Outcome.failure, outcomes) if failure is not None]
        number = manifest.generation
        result: dict[str, Any] = {
            "failures": failures,
            "models": self._shown([outcome.to_json() for outcome in outcomes]),
            "msg": f"generation {number} computes as it must",
        }
        if failures:
            result["failed"] = True
            result["msg"] = f"generation {number} does not compute as it must: {'; '.join(failures)}"
        return result


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ROOT_ARGUMENT,
            "generation": {"type": "int"},
            "models": {"type": "list", "elements": "dict"},
            "venv": {"type": "path", "default": "/opt/models/env"},
            "golden": {"type": "list", "elements": "dict", "default": []},
            "cpu": {"type": "str", "choices": ["refuse", "allow", "skip"], "default": "refuse"},
            "rerun": {"type": "bool", "default": True},
            "outputs": {"type": "bool", "default": False},
            "lock_timeout": {"type": "float", "default": 60.0},
        },
        supports_check_mode=True,
    )
    run_module(module, lambda cancelled: SmokeManager(module).run(cancelled))


if __name__ == "__main__":
    main()

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The smoke test of a generation: what is tested on which device, and what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ._cuda import loaded_driver
from ._derived import Derived
from ._environments import installed_packages
from ._errors import InvalidInput
from ._gpu_facts import describe, gather_facts, working_parts
from ._gpu_requirements import parse_requirements
from ._lockfile import Model
from ._smoke_judge import Check, Golden, judge
from ._smoke_model import examine_model
from ._smoke_pool import Attempt, Device, Job, run_jobs
from ._smoke_spec import Smoke, parse_smoke

# Counts up when a test looks at more, or otherwise: what was passed before is tested again.
_RECIPE = 1

_LONGEST_NAME = 80  # characters of a process's name in a message


@dataclass(frozen=True)
class Test:
    """A model with everything that its test depends on.

    :ivar job: None where the catalog wants no test.
    :ivar derived: What is tested, where it is not the model's own files.
    """

    model: Model
    smoke: Smoke
    job: Job | None
    golden: Golden | None
    derived: Derived | None = None

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.model.name if self.derived is None else f"{self.model.name} (openvino)"


@dataclass(frozen=True)
class Outcome:
    """What came of a model's test.

    :ivar attempts: The last of them counts.
    :ivar checks: What was looked at; empty when nothing could be measured.
    """

    test: Test
    attempts: tuple[Attempt, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the model may be served."""
        return self.test.job is None or (self.attempts[-1].measured is not None and all(c.ok for c in self.checks))

    def failure(self) -> str | None:
        """Return what failed in one sentence, or None."""
        if self.ok:
            return None
        broken = next((check for check in self.checks if not check.ok), None)
        name = self.test.label
        if broken is not None:
            return f"{name}: {broken.check}: expected {broken.expected}, found {broken.found}"
        return f"{name}: {'; '.join(f'{a.choice.dtype} on {a.device}: {a.failure}' for a in self.attempts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as a module's result has it, with the outputs as a golden file has them."""
        if self.test.job is None:
            return {"name": self.test.model.name, "ok": True, "skipped": self.test.smoke.skip}
        subject, last = self.test.job.subject, self.attempts[-1]
        measured = last.measured or {}
        return {
            "name": subject.name,
            "ok": self.ok,
            "skipped": None,
            "commit": self.test.model.commit,
            "task": subject.task,
            "engine": subject.engine,
            "device": last.device,
            "dtype": measured.get("dtype", last.choice.dtype),
            "attempts": [
                {
                    "dtype": attempt.choice.dtype,
                    "predicted_mib": attempt.choice.predicted_mib,
                    "available_mib": attempt.choice.available_mib,
                    "reason": attempt.reason,
                    "failure": attempt.failure,
                }
                for attempt in self.attempts
            ],
            "checks": [asdict(check) for check in self.checks],
            **{name: measured.get(name) for name in _FIGURES},
            "golden": found.to_json() if (found := self.golden()) else None,
        }

    def golden(self) -> Golden | None:
        """Return what was put out, as a golden file has it; None when nothing was."""
        job = self.test.job
        measured = self.attempts[-1].measured if self.attempts else None
        if job is None or measured is None:
            return None
        subject, model = job.subject, self.test.model
        inputs = job.smoke.inputs_for(subject.task)
        outputs = tuple(map(tuple, measured["outputs"]))
        return Golden(model.name, model.commit, subject.task, measured["dtype"], inputs, outputs)


_FIGURES = (
    "load_seconds",
    "latency_ms",
    "tokens_per_second",
    "gpu_memory_mib",
    "gpu_utilization_percent",
    "host_memory_mib",
)


def make_tests(
    models: Iterable[Model], directory: str, goldens: Sequence[Golden], derived: Iterable[Derived] = ()
) -> list[Test]:
    """Return the tests of a generation's models.

    A converted model is tested after the one that it was made of, and compared with it. With ``engine: openvino`` in
    the catalog it is tested alone.

    :param directory: The generation's directory.
    :param derived: What was made of the models.
    :raises InvalidInput: When one cannot be tested as it is: its files do not tell how, or its golden file is of
        another commit.
    """
    by_name = {golden.name: golden for golden in goldens}
    converted = {made.model: made for made in derived}
    tests = []
    for model in models:
        smoke = parse_smoke(f"{model.name}.smoke", model.smoke)
        if smoke.skip is not None:
            tests.append(Test(model, smoke, None, None))
            continue
        golden, made = by_name.get(model.name), converted.get(model.name)
        if smoke.engine != "openvino":
            tests.append(Test(model, smoke, _job(model, directory, smoke, golden), golden))
            # Limits are meant for the engine that the catalog names; that of the conversion is another.
            smoke = replace(smoke, engine="openvino", limits={})
        elif made is None:
            raise InvalidInput(
                f"{model.name}: engine openvino tests what convert makes, and nothing was made; "
                "add convert to its entry, or name another engine"
            )
        if made is not None:
            job = _job(model, directory, smoke, golden)
            subject = replace(job.subject, weights=tuple(file.path for file in made.files))
            tests.append(Test(model, smoke, replace(job, subject=subject), golden, made))
    return tests


def _job(model: Model, directory: str, smoke: Smoke, golden: Golden | None) -> Job:
    paths = [file.path for file in model.files]
    subject = examine_model(model.name, os.path.join(directory, model.name), paths, smoke)
    required = parse_requirements(f"{model.name}.requires", model.requires)
    job = Job(subject, smoke, required.gpus if required else 1)
    return job if golden is None else _with_inputs(job, golden, model)


def _with_inputs(job: Job, golden: Golden, model: Model) -> Job:
    """Return the job with the inputs of the golden outputs."""
    again = "make it again with the playbook golden, or remove it"
    if golden.commit != model.commit:
        raise InvalidInput(
            f"{model.name}: its golden file is of commit {golden.commit}, the generation has {model.commit}; {again}"
        )
    if golden.task != job.subject.task or job.smoke.inputs not in ((), golden.inputs):
        raise InvalidInput(f"{model.name}: its golden file was made for another task or other inputs; {again}")
    return replace(job, smoke=replace(job.smoke, inputs=golden.inputs))


def of_generation(goldens: Iterable[Golden], models: Iterable[Model]) -> list[Golden]:
    """Return the golden files that were made of these models' own commits."""
    commits = {model.name: model.commit for model in models}
    return [golden for golden in goldens if golden.commit == commits.get(golden.name)]


def find_devices(venv: str) -> tuple[list[Device], str]:
    """Return the GPUs that a host can compute on, and a sentence about them.

    :param venv: The environment with nvidia-ml-py.
    :raises InvalidInput: When one of them does not answer any more: it would be missed by nobody.
    """
    facts = gather_facts(venv)
    if any(gpu["state"] != "ok" for gpu in facts["gpus"]):
        raise InvalidInput(f"expected GPUs that all work, found others: {describe(facts)}")
    devices = []
    for gpu, part in working_parts(facts):
        free = part["memory"] and part["memory"]["free_mib"]
        name = f"GPU {gpu['index']} ({part['name']})"
        devices.append(Device((part["uuid"],), name, free, tuple(map(_user, gpu["processes"] or ()))))
    return devices, describe(facts)


def _user(process: Mapping[str, Any]) -> str:
    """Return what to call a process that uses a GPU; its name is whatever it gave itself."""
    name = " ".join((process["name"] or "").split())[:_LONGEST_NAME]
    memory = "" if process["memory_mib"] is None else f" with {process['memory_mib']} MiB"
    return f"{name or 'a process'} (pid {process['pid']}){memory}"


def has_driver() -> bool:
    """Whether a driver is loaded: then there is a GPU, and a test without it would prove nothing."""
    return loaded_driver() is not None


def run_tests(tests: Sequence[Test], devices: Sequence[Device], venv: str, cancelled: threading.Event) -> list[Outcome]:
    """Run the tests and judge them.

    :param devices: What to compute on; at least one.
    :raises Cancelled: When a signal came.
    """
    jobs = [test.job for test in tests if test.job is not None]
    attempts = iter(run_jobs(jobs, devices, venv, cancelled) if jobs else [])
    outcomes: list[Outcome] = []
    for test in tests:
        tried = tuple(next(attempts)) if test.job is not None else ()
        checks: tuple[Check, ...] = ()
        if test.job is not None and tried[-1].measured is not None:
            task = test.job.subject.task
            golden = test.golden or _source_of(test, outcomes)
            checks = tuple(judge(tried[-1].measured, test.job.smoke, task, golden))
        outcomes.append(Outcome(test, tried, checks))
    return outcomes


def _source_of(test: Test, outcomes: Sequence[Outcome]) -> Golden | None:
    """Return what a converted model's source put out just now."""
    last = outcomes[-1] if outcomes and test.derived is not None else None
    if last is None or last.test.model.name != test.model.name or last.attempts[-1].measured is None:
        return None
    return last.golden()


def digest_of(tests: Sequence[Test], devices: Sequence[Device], venv: str) -> str:
    """Return the SHA-256 over everything that a test's outcome depends on: to know whether it was passed already."""
    described = [
        [
            test.model.to_json(),
            asdict(test.job.smoke) if test.job else None,
            test.golden and asdict(test.golden),
            test.derived and test.derived.to_json(),
        ]
        for test in tests
    ]
    driver = loaded_driver()
    where = [os.path.realpath(venv), installed_packages(venv), driver and driver.version]
    content = [_RECIPE, described, [device.uuids for device in devices], where]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

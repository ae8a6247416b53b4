# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The check of a host's GPUs: what there is to check, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ._deadline import within
from ._errors import InvalidInput
from ._gpu_datasheet import datasheet_of
from ._gpu_facts import describe, gather_facts, working_parts
from ._gpu_judge import added_errors, judge_device, judge_pair, judge_steps
from ._gpu_load import Exchange, Load, Part, Work, exchange, load_parts
from ._smoke_judge import Check
from ._worker_process import interpreter_of

_NOTHING_THERE = {"library_missing", "driver_not_loaded", "binding_missing"}

Facts = Mapping[str, Any]


class Driver:
    """The driver of a host, asked for the facts of its GPUs until it hangs."""

    def __init__(self, venv: str, cancelled: threading.Event, patience: float = 30.0) -> None:
        """Prepare to ask.

        :param venv: The environment with nvidia-ml-py.
        :param patience: Seconds until it counts as hanging. The first answer may take many, where the driver has to
            wake all GPUs for it.
        """
        self._venv = venv
        self._cancelled = cancelled
        self._patience = patience
        self._hangs = False

    def ask(self) -> Facts | None:
        """Return the facts; None when it gives no answer, now or before.

        :raises Cancelled: When a signal came.
        """
        if self._hangs:
            return None
        try:
            return within(self._patience, lambda: gather_facts(self._venv), self._cancelled)
        except TimeoutError:
            self._hangs = True
            return None


@dataclass(frozen=True)
class Outcome:
    """What came of a GPU's check, or of a MIG device's.

    :ivar steps: What was measured, by step.
    :ivar seen: The GPU's facts before the work, from time to time meanwhile, and after it.
    """

    part: Part
    checks: Sequence[Check]
    steps: Mapping[str, Any] = field(default_factory=dict)
    seen: Sequence[Facts] = ()

    @property
    def ok(self) -> bool:
        """Whether it computes right."""
        return all(check.ok for check in self.checks)

    def failures(self) -> list[str]:
        """Return a sentence for each check that failed."""
        return [_sentence(str(self.part), check) for check in self.checks if not check.ok]

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as the module's result has it."""
        speed = self.steps.get("sustained product")
        datasheet = datasheet_of(self.part.name)
        first, last = (self.seen[0], self.seen[-1]) if self.seen else (None, None)
        return {
            "index": self.part.index,
            "uuid": self.part.uuid,
            "name": self.part.name,
            "ok": self.ok,
            "checks": [asdict(check) for check in self.checks],
            "dtype": speed and speed["dtype"],
            "tflops": speed and {key: round(speed[key], 2) for key in ("first", "last")},
            "datasheet_tflops": datasheet and datasheet.tflops,
            "products": {dtype: product["checksum"] for dtype, product in self.steps.get("products", {}).items()},
            "memory_mib": self.steps["memory"]["mib"] if "memory" in self.steps else None,
            "gb_per_second": {way: round(rate, 2) for way, rate in self.steps["copies"]["gb_per_second"].items()}
            if "copies" in self.steps
            else None,
            "added_errors": {kind: added_errors(first, last, kind) for kind in ("corrected", "uncorrected")}
            if first and last
            else None,
            "throttle_reasons": sorted({reason for facts in self.seen for reason in facts["throttle_reasons"] or ()}),
            "temperature_celsius": max(_told(facts["temperature_celsius"] for facts in self.seen), default=None),
            "power_watts": max(_told(facts["power"]["used_watts"] for facts in self.seen), default=None),
            "processes": (first or {}).get("processes"),
        }


def _told(values: Iterator[Any]) -> Iterator[Any]:
    return (value for value in values if value is not None)


@dataclass(frozen=True)
class Report:
    """What came of the check of a host's GPUs."""

    outcomes: Sequence[Outcome]
    exchange: Exchange

    def failures(self) -> list[str]:
        """Return a sentence for everything that is not as it must be."""
        sentences = [sentence for outcome in self.outcomes for sentence in outcome.failures()]
        if self.exchange.broken is not None:
            sentences.append(_sentence("all GPUs", self.exchange.broken))
        wrong = [pair for pair in self.pairs() if not pair["ok"]]
        if wrong:
            way = f"GPU {wrong[0]['from']} to GPU {wrong[0]['to']}"
            others = f", and the like between {len(wrong) - 1} other pairs" if len(wrong) > 1 else ""
            sentences.append(f"{way}: peer copy: expected {wrong[0]['expected']}, found {wrong[0]['found']}{others}")
        return sentences

    def pairs(self) -> list[dict[str, Any]]:
        """Return the copies between GPUs, as the module's result has them."""
        parts = self.exchange.parts
        return [
            {
                "from": parts[pair["from"]].index,
                "to": parts[pair["to"]].index,
                "direct": pair["direct"],
                "gb_per_second": round(pair["gb_per_second"], 2),
                "ok": check.ok,
                "expected": check.expected,
                "found": check.found,
            }
            for pair in self.exchange.pairs
            for check in [judge_pair(pair)]
        ]


def _sentence(where: str, check: Check) -> str:
    return f"{where}: {check.check}: expected {check.expected}, found {check.found}"


def reason_to_skip(facts: Facts, hardware: int) -> str | None:
    """Return why there is nothing to check on a host, or None where there must be a GPU that works.

    :param hardware: How many GPUs are on the PCI bus.
    :raises InvalidInput: When none of its GPUs can be asked.
    """
    if facts["gpus"]:
        return None
    about = describe(facts)
    if facts["kernel_module_version"] is None and {told["reason"] for told in facts["problems"]} <= _NOTHING_THERE:
        if not hardware:
            return "no driver is loaded, and no NVIDIA GPU is on the PCI bus"
        about = f"{hardware} on the PCI bus, without a driver that is loaded"
    raise InvalidInput(f"expected a GPU that works, found none: {about}")


def find_parts(facts: Facts) -> list[Part]:
    """Return what can be checked by itself."""
    return [
        Part(gpu["index"], part["uuid"], part["name"] or "unnamed", part["memory"] and part["memory"]["free_mib"])
        for gpu, part in working_parts(facts)
    ]


def check_gpus(before: Facts, driver: Driver, load: Load, venv: str, cancelled: threading.Event) -> Report:
    """Check all GPUs of a host.

    :param before: The facts of the host.
    :param venv: The inference environment.
    :raises InvalidInput: When there is no such environment.
    :raises Cancelled: When a signal came; no process is left by then.
    """
    python = interpreter_of(venv)
    parts = find_parts(before)
    looks: list[Facts] = []

    def look() -> None:
        facts = driver.ask()
        if facts is not None:
            looks.append(facts)

    works = load_parts(parts, load, python, cancelled, look)
    able = [part for part, work in zip(parts, works) if part.whole and work.broken is None]
    exchanged = exchange(able, load, python, cancelled)
    after = driver.ask()
    outcomes = [_outcome(part, work, before, looks, after) for part, work in zip(parts, works)]
    return Report([*_idle(before), *outcomes], exchanged)


def _outcome(part: Part, work: Work, before: Facts, looks: Sequence[Facts], after: Facts | None) -> Outcome:
    first = next(gpu for gpu in before["gpus"] if gpu["index"] == part.index)
    last = after and _gpu(after, part.index)
    meanwhile = [
        gpu for gpu in (_gpu(facts, part.index) for facts in looks) if gpu is not None and gpu["state"] == "ok"
    ]
    checks = [*judge_steps(part.name, work.steps, first), *([work.broken] if work.broken else [])]
    checks += judge_device(first, meanwhile, last)
    seen = [first, *meanwhile, *([last] if last and last["state"] == "ok" else [])]
    return Outcome(part, checks, work.steps, seen)


def _gpu(facts: Facts, index: int) -> Facts | None:
    return next((gpu for gpu in facts["gpus"] if gpu["index"] == index), None)


def _idle(facts: Facts) -> Iterator[Outcome]:
    """Yield the outcomes of what can not be given work."""
    working = {gpu["index"] for gpu, _part in working_parts(facts)}
    for gpu in facts["gpus"]:
        if gpu["index"] in working:
            continue
        part = Part(gpu["index"], gpu["uuid"] or "", gpu["name"] or "unnamed", None)
        if gpu["state"] == "ok":
            yield Outcome(part, [Check("MIG", False, "a MIG device, as the mode is on", "none")])
        else:
            told = [problem["message"] for problem in facts["problems"] if problem["gpu"] == gpu["index"]]
            yield Outcome(part, [Check("state", False, "ok", "; ".join([gpu["state"], *told]))])

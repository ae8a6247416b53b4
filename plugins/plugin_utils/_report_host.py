# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules said of one host, in the order in which they said it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._plain import mapping, mappings, name_of, number, plain, whole


@dataclass(frozen=True)
class SmokeRun:
    """A smoke test of one model by one engine."""

    engine: str | None
    device: str | None
    dtype: str | None
    ok: bool
    skipped: str | None
    checks: dict[str, bool]
    load_seconds_cold: float | None
    load_seconds_warm: float | None
    latency_ms_median: float | None
    latency_ms_p95: float | None
    tokens_per_second: float | None
    gpu_memory_mib: float | None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> SmokeRun:
        """Make one of an entry of what ``model_smoke`` returns."""
        load, latency = mapping(value.get("load_seconds")), mapping(value.get("latency_ms"))
        return cls(
            engine=plain(value.get("engine")),
            device=plain(value.get("device")),
            dtype=plain(value.get("dtype")),
            ok=value.get("ok") is True,
            skipped=plain(value.get("skipped")),
            checks={name_of(check.get("check")): check.get("ok") is True for check in mappings(value.get("checks"))},
            load_seconds_cold=number(load.get("cold")),
            load_seconds_warm=number(load.get("warm")),
            latency_ms_median=number(latency.get("median")),
            latency_ms_p95=number(latency.get("p95")),
            tokens_per_second=number(value.get("tokens_per_second")),
            gpu_memory_mib=number(value.get("gpu_memory_mib")),
        )


@dataclass(frozen=True)
class Held:
    """A model that a host holds.

    ``told`` says whether anybody told when it was verified; ``last_verified`` is None while it never was.
    """

    name: str
    commit: str | None = None
    repo_id: str | None = None
    told: bool = False
    last_verified: str | None = None


@dataclass
class Generation:
    """What is known of a generation. ``smoke_told`` says whether anybody told of its smoke test."""

    models: dict[str, Held] = field(default_factory=dict)
    smoke: dict[str, list[SmokeRun]] = field(default_factory=dict)
    smoke_at: str | None = None
    smoke_told: bool = False

    def tested(self, models: object, at: str | None) -> None:
        """Take over what a smoke test returned."""
        self.smoke, self.smoke_at, self.smoke_told = {}, at, True
        for entry in mappings(models):
            name = name_of(entry.get("name"))
            self.smoke.setdefault(name, []).append(SmokeRun.parse(entry))
            held = self.models.setdefault(name, Held(name))
            if held.commit is None:
                self.models[name] = dataclasses.replace(held, commit=plain(entry.get("commit")))


@dataclass(frozen=True)
class Action:
    """What a task did, or in check mode would do, with a model."""

    action: str
    commit: str | None


class Host:
    """One host. ``looked_at`` says whether any module looked at it at all, ``listed`` whether its store was listed.

    ``current`` is the generation that is served, ``latest`` the last one that any module told of. ``actions`` are what
    tasks did, ``plans`` what those in check mode would have done.
    """

    def __init__(self) -> None:
        self.looked_at = False
        self.generations: dict[int, Generation] = {}
        self.current: int | None = None
        self.listed = False
        self.latest: int | None = None
        self.actions: dict[str, Action] = {}
        self.plans: dict[str, Action] = {}
        # The number of files by generation and model, by the last word of model_verify.
        self.damaged: dict[tuple[int, str], int] = {}
        self.repaired: dict[tuple[int, str], int] = {}
        self.gpus: dict[str, Any] | None = None
        self.python: dict[str, Any] | None = None

    @property
    def shown(self) -> int | None:
        """The generation that a report is about: the one that is served, as far as anybody told."""
        return self.current if self.current is not None else self.latest

    def observe(self, module: str, result: Mapping[str, Any], at: str, check_mode: bool) -> None:
        """Take in what a module returned.

        :param module: The module's name without its collection, one of :data:`OBSERVED`.
        :param at: When it did (UTC, ISO 8601).
        :param check_mode: Whether its task was in check mode.
        """
        self.looked_at = True
        observers = {
            "gpu_check": self._gpu_check,
            "model_convert": self._model_convert,
            "model_generation": self._model_generation,
            "model_preflight": self._model_preflight,
            "model_smoke": self._model_smoke,
            "model_store_info": self._model_store_info,
            "model_verify": self._model_verify,
            "python_env": self._python_env,
        }
        if module in observers:
            observers[module](result, at, check_mode)

    def _generation(self, number: int) -> Generation:
        self.latest = number
        return self.generations.setdefault(number, Generation())

    def _model_preflight(self, result: Mapping[str, Any], at: str, check_mode: bool) -> None:
        self._model_store_info(mapping(result.get("store")), at, check_mode)
        # What is still to be done is told by what does it.
        changes = mappings(result.get("models"))
        self._act([change for change in changes if change.get("action") == "unchanged"], check_mode)

    def _model_store_info(self, result: Mapping[str, Any], _at: str, _check_mode: bool) -> None:
        if not isinstance(result.get("generations"), list):
            return
        self.generations, self.latest = {}, None
        self.current, self.listed = whole(result.get("current")), True
        for found in mappings(result["generations"]):
            number = whole(found.get("generation"))
            if number is None:
                continue
            generation = self._generation(number)
            generation.models = _models(found.get("models"))
            generation.smoke_told = True
            smoke = mapping(found.get("smoke"))
            if smoke:
                generation.tested(smoke.get("models"), plain(smoke.get("at")))

    def _model_generation(self, result: Mapping[str, Any], at: str, check_mode: bool) -> None:
        number = whole(result.get("generation"))
        changes = mappings(result.get("models"))
        self._act(changes, check_mode)
        if check_mode or number is None:
            return
        if not changes:  # it was removed
            self.generations.pop(number, None)
            return
        # One that was not there before was made now, and every file of it hashed.
        fresh = self.listed and number not in self.generations and result.get("changed") is True
        generation = self._generation(number)
        if not generation.models:
            generation.models = {
                held.name: dataclasses.replace(held, told=fresh, last_verified=at if fresh else None)
                for held in _models([change for change in changes if change.get("action") != "removed"]).values()
            }
        if result.get("served") is True:
            self.current = number

    def _act(self, changes: Iterable[Mapping[str, Any]], check_mode: bool) -> None:
        actions = self.plans if check_mode else self.actions
        for change in changes:
            action = plain(change.get("action"))
            if action:
                name = name_of(change.get("name"))
                # Serving what was staged a moment ago says no more than staging did.
                if action != "unchanged" or name not in actions:
                    actions[name] = Action(action, plain(change.get("commit")))

    def _model_convert(self, result: Mapping[str, Any], _at: str, check_mode: bool) -> None:
        number, source = whole(result.get("generation")), whole(result.get("source_generation"))
        if check_mode or number is None or source is None or number in self.generations:
            return
        self._generation(number).models = dict(self._generation(source).models)
        self.latest = number

    def _model_smoke(self, result: Mapping[str, Any], at: str, _check_mode: bool) -> None:
        number = whole(result.get("generation"))
        if number is None or not mappings(result.get("models")):
            return
        generation = self._generation(number)
        # What was not tested now is what was found when it was.
        generation.tested(result.get("models"), at if result.get("tested") is True else generation.smoke_at)

    def _model_verify(self, result: Mapping[str, Any], _at: str, _check_mode: bool) -> None:
        number = whole(result.get("generation"))
        if number is None:
            return
        generation = self._generation(number)
        generation.models.update(_models(result.get("models")))
        for name in generation.models:
            self.damaged.pop((number, name), None)
            self.repaired.pop((number, name), None)
        for counts, kinds in ((self.damaged, ("corrupt", "missing")), (self.repaired, ("repaired",))):
            for defect in (defect for kind in kinds for defect in mappings(result.get(kind))):
                key = number, name_of(defect.get("model"))
                counts[key] = counts.get(key, 0) + 1

    def _gpu_check(self, result: Mapping[str, Any], _at: str, _check_mode: bool) -> None:
        verdict = plain(result.get("verdict"))
        if verdict is None:
            return
        self.gpus = {
            "verdict": verdict,
            "msg": plain(result.get("msg")),
            "gpus": [
                {
                    "index": whole(gpu.get("index")),
                    "uuid": plain(gpu.get("uuid")),
                    "name": plain(gpu.get("name")),
                    "ok": gpu.get("ok") is True,
                }
                for gpu in mappings(result.get("gpus"))
            ],
        }

    def _python_env(self, result: Mapping[str, Any], _at: str, check_mode: bool) -> None:
        if not check_mode and "environment" in result:
            names = ("environment", "python_version", "torch_cuda")
            self.python = {name: plain(result.get(name)) for name in names}


# What a report is made of. Modules that only lock, keep packages or remove what is not needed say nothing of a host.
OBSERVED = frozenset(
    {
        "gpu_check",
        "model_convert",
        "model_generation",
        "model_preflight",
        "model_smoke",
        "model_store_info",
        "model_verify",
        "python_env",
    }
)


def _models(value: object) -> dict[str, Held]:
    models = (
        Held(
            name=name_of(model.get("name")),
            commit=plain(model.get("commit")),
            repo_id=plain(model.get("repo_id")),
            told="last_verified" in model,
            last_verified=plain(model.get("last_verified")),
        )
        for model in mappings(value)
    )
    return {model.name: model for model in models}

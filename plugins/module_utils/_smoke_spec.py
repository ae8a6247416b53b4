# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a model is to be smoke-tested: what an entry of the catalog says under ``smoke``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._errors import InvalidInput
from ._lockfile import check_mapping, is_count, require_keys, unexpected

TASKS = ("embedding", "rerank", "text2text", "generation", "image_text")
ENGINES = ("transformers", "llama_cpp", "openvino")
QUANTIZED = ("int8", "nf4")  # what bitsandbytes makes while loading
DTYPES = ("float32", "float16", "bfloat16", *QUANTIZED)

# Languages, lengths, figures and program text: one text alone hides a broken layer. For rerank, the first is the query.
DEFAULT_INPUTS = (
    "Hello world",
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "In 2024, 37.5 % of all parcels were delivered within 2 days; the rest took 3 to 9.",
    "def add(a, b):\n    return a + b",
    "Der Schlüssel liegt unter der Fußmatte, aber bitte niemandem verraten.",
)
_QUESTION, _ANSWER = "What is the capital of France?", "Paris is the capital and the largest city of France."
_RERANK_INPUTS = (_QUESTION, _ANSWER, *(text for text in DEFAULT_INPUTS if text != _QUESTION))

_LIMITS = ("load_seconds", "latency_p95_ms", "gpu_memory_mib", "min_tokens_per_second", "min_cosine")
_KEYS = {"task", "engine", "inputs", "dtype", "expect", "limits", "timeout", "skip"}


@dataclass(frozen=True)
class Smoke:
    """A model's smoke test. What is None or empty is derived from the model's own files.

    :ivar dtypes: In order of preference.
    :ivar limits: The most seconds to load, milliseconds for an answer and MiB of a GPU's memory; the fewest tokens a
        second; the smallest cosine to the golden outputs.
    :ivar timeout: Seconds for the whole test of the model.
    :ivar skip: Why it is not tested at all.
    """

    task: str | None = None
    engine: str | None = None
    inputs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    dimension: int | None = None
    order: tuple[int, ...] = ()
    contains: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    timeout: float = 900.0
    skip: str | None = None

    def inputs_for(self, task: str) -> tuple[str, ...]:
        """Return the texts that a model of this task is given."""
        return self.inputs or (_RERANK_INPUTS if task == "rerank" else DEFAULT_INPUTS)


def parse_smoke(where: str, value: object) -> Smoke:
    """Check what an entry of the catalog says about its smoke test; None is a test with every default.

    :raises InvalidInput: With the place, what was expected and what was found.
    """
    if check_mapping(where, value) is None:
        return Smoke()
    document = require_keys(where, value, set(), _KEYS)
    skip = document.get("skip")
    if skip is not None:
        if not isinstance(skip, str) or not skip.strip() or len(document) > 1:
            raise unexpected(f"{where}.skip", "the reason as a text, and no other key", skip)
        return Smoke(skip=skip)
    expect = require_keys(f"{where}.expect", document.get("expect", {}), set(), {"dimension", "order", "contains"})
    inputs = _texts(f"{where}.inputs", document.get("inputs", []))
    return Smoke(
        task=_choice(f"{where}.task", document.get("task"), TASKS),
        engine=_choice(f"{where}.engine", document.get("engine"), ENGINES),
        inputs=inputs,
        dtypes=_dtypes(f"{where}.dtype", document.get("dtype", [])),
        dimension=_dimension(f"{where}.expect.dimension", expect.get("dimension")),
        order=_order(f"{where}.expect.order", expect.get("order", []), inputs),
        contains=_text(f"{where}.expect.contains", expect.get("contains")),
        limits=_limits(f"{where}.limits", document.get("limits", {})),
        timeout=_positive(f"{where}.timeout", document.get("timeout", Smoke.timeout)),
    )


def _choice(where: str, value: object, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise unexpected(where, f"one of {', '.join(allowed)}", value)
    return None if value is None else str(value)


def _text(where: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise unexpected(where, "a text", value)
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise unexpected(where, "a list of texts", value)
    return tuple(value)


def _dtypes(where: str, value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not set(map(str, values)) <= set(DTYPES):
        raise unexpected(where, f"one or more of {', '.join(DTYPES)}, the preferred one first", value)
    if len(set(values)) != len(values):
        raise InvalidInput(f"{where}: a dtype occurs twice")
    return tuple(map(str, values))


def _dimension(where: str, value: object) -> int | None:
    if value is not None and not (is_count(value) and value):
        raise unexpected(where, "a whole number from 1 on", value)
    return value  # type: ignore[return-value]


def _order(where: str, value: object, inputs: tuple[str, ...]) -> tuple[int, ...]:
    """Return the passages by their numbers, the best first; the query is input 0."""
    if value and not inputs:
        raise InvalidInput(f"{where}: it counts the passages of 'inputs', which is missing")
    known = isinstance(value, (list, tuple)) and all(map(is_count, value))
    if not known or (value and sorted(value) != list(range(1, len(inputs)))):  # type: ignore[call-overload]
        raise unexpected(where, f"each number from 1 to {len(inputs) - 1} once, the best passage first", value)
    return tuple(value)  # type: ignore[arg-type]


def _positive(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise unexpected(where, "a number above 0", value)
    return float(value)


def _limits(where: str, value: object) -> dict[str, float]:
    document: Mapping[str, Any] = require_keys(where, value, set(), set(_LIMITS))
    return {name: _positive(f"{where}.{name}", document[name]) for name in _LIMITS if name in document}

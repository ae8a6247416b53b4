# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was measured of a model against what is expected of it. Nothing is run here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._errors import InvalidInput
from ._lockfile import unexpected
from ._smoke_spec import Smoke

# The smallest cosine to the outputs of a whole model, measured with all-MiniLM-L6-v2 against float64.
_MIN_COSINE = {"float32": 0.99999, "float16": 0.9999, "bfloat16": 0.9995, "int8": 0.99, "int8_asym": 0.99, "nf4": 0.93}
_MIN_COSINE_GGUF = 0.93
_NEAR_SCORES = 0.1  # of the distance from the worst to the best: 8 bits and fewer may swap what is nearer
_UNKNOWN = 0.5  # largest share of unknown tokens
_REPEATED = 1e-4  # largest difference of two runs


@dataclass(frozen=True)
class Golden:
    """The outputs that a model has where it is known to compute right."""

    name: str
    commit: str
    task: str
    dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of a golden file."""
        return {"golden_version": 1, **asdict(self)}

    @classmethod
    def parse(cls, where: str, value: object) -> Golden:
        """Check a golden file's content.

        :raises InvalidInput: When it is damaged.
        """
        try:
            document: Mapping[str, Any] = value  # type: ignore[assignment]
            if document["golden_version"] != 1:
                raise unexpected(f"{where}: golden_version", "1", document["golden_version"])
            outputs = tuple(tuple(float(number) for number in output) for output in document["outputs"])
            name, commit, task, dtype = (document[key] for key in ("name", "commit", "task", "dtype"))
            inputs = tuple(document["inputs"])
            texts = (name, commit, task, dtype, *inputs)
            if not all(outputs) or not outputs or not all(isinstance(text, str) for text in texts):
                raise TypeError
            return cls(name, commit, task, dtype, inputs, outputs)
        except (KeyError, TypeError, ValueError):
            raise InvalidInput(f"{where}: not a golden file; make it again with the playbook golden") from None


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    check: str
    ok: bool
    expected: str
    found: str


def judge(measured: Mapping[str, Any], smoke: Smoke, task: str, golden: Golden | None) -> list[Check]:
    """Return everything that was looked at, in the order in which it matters."""
    checks = [_whole(measured["loading"]), _known(measured["unknown_tokens"]), _finite(measured["outputs"])]
    if checks[-1].ok:
        checks += _computed(measured, smoke, task, golden)
    checks += _limits(measured, smoke.limits)
    return checks


def _whole(loading: Mapping[str, Sequence[str]]) -> Check:
    found = [f"{kind.replace('_', ' ')} {_few(names)}" for kind, names in loading.items()]
    return Check("weights", not found, "every weight of the model in its files", "; ".join(found) or "all of them")


def _known(unknown: float) -> Check:
    return Check("tokens", unknown <= _UNKNOWN, "a tokenizer that knows the inputs", f"{unknown:.0%} unknown tokens")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _finite(outputs: Sequence[Sequence[float]]) -> Check:
    broken = sum(1 for output in outputs if not all(map(math.isfinite, output)))
    found = f"{broken} of {len(outputs)} outputs with others" if broken else f"{len(outputs)} outputs"
    return Check("finite", not broken, "finite numbers alone", found)


def _computed(measured: Mapping[str, Any], smoke: Smoke, task: str, golden: Golden | None) -> Iterator[Check]:
    outputs = measured["outputs"]
    difference = measured["largest_difference"]
    same = difference is not None and difference <= _REPEATED
    yield Check("deterministic", same, f"two runs that differ by at most {_REPEATED:g}", f"{difference}")
    distinct = len({tuple(output) for output in outputs})
    yield Check(
        "distinct", distinct > 1 or len(outputs) == 1, "outputs that depend on the input", f"{distinct} of them"
    )
    if smoke.dimension is not None:
        dimension = len(outputs[0])
        yield Check("dimension", dimension == smoke.dimension, str(smoke.dimension), str(dimension))
    if task == "rerank" and smoke.order:
        order = ranking(outputs)
        yield Check("order", order == list(smoke.order), f"passages {list(smoke.order)}", str(order))
    if smoke.contains is not None:
        text = " ".join(measured["texts"][:1])
        yield Check("contains", smoke.contains in text, repr(smoke.contains), repr(text[:200]))
    if golden is not None:
        yield from _golden(measured, smoke, task, golden)


def _golden(measured: Mapping[str, Any], smoke: Smoke, task: str, golden: Golden) -> Iterator[Check]:
    outputs = measured["outputs"]
    if [len(output) for output in outputs] != [len(output) for output in golden.outputs]:
        shape = f"{len(golden.outputs)} outputs of {len(golden.outputs[0])}"
        yield Check("golden", False, shape, f"{len(outputs)} outputs of {len(outputs[0])}")
        return
    rounded = min(min_cosine(measured["dtype"]), min_cosine(golden.dtype))
    least = smoke.limits.get("min_cosine", rounded)
    cosine = smallest_cosine(outputs, golden.outputs)
    yield Check("golden", cosine >= least, f"a cosine of at least {least:g}", f"{cosine:.6f}")
    if task == "rerank":
        expected, found = ranking(golden.outputs), ranking(outputs)
        near = 0.0 if rounded == _MIN_COSINE["float32"] else _NEAR_SCORES
        yield Check("golden order", _same_order(golden.outputs, outputs, near), f"passages {expected}", str(found))


def _same_order(golden: Sequence[Sequence[float]], outputs: Sequence[Sequence[float]], near: float) -> bool:
    """Whether passages are ranked alike, but for those whose scores are near to each other, as a share of all."""
    pairs = list(zip([output[-1] for output in golden], [output[-1] for output in outputs]))
    span = near * (max(pairs)[0] - min(pairs)[0])
    return not any(first[0] - second[0] > span and first[1] < second[1] for first in pairs for second in pairs)


def min_cosine(dtype: str) -> float:
    """Return the smallest cosine that outputs computed in a type may have to those of a whole model."""
    return _MIN_COSINE.get(dtype, _MIN_COSINE_GGUF)


def ranking(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return the passages' numbers, from 1 on, the best one first. The last score is the one of relevance."""
    return sorted(range(1, len(scores) + 1), key=lambda number: -scores[number - 1][-1])


def smallest_cosine(outputs: Sequence[Sequence[float]], golden: Sequence[Sequence[float]]) -> float:
    """Return the smallest cosine of pairs of outputs; of outputs of one or two values, that of all of them together.

    These are scores, which count by how they differ: both are taken from the mean of the golden ones.
    """
    if any(len(output) > 2 for output in outputs):
        return min(_cosine(first, second) for first, second in zip(outputs, golden))
    right = [value for output in golden for value in output]
    mean = math.fsum(right) / len(right)
    found = [value - mean for output in outputs for value in output]
    return _cosine(found, [value - mean for value in right])


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    norm = math.sqrt(sum(value * value for value in first) * sum(value * value for value in second))
    return sum(one * other for one, other in zip(first, second)) / norm if norm else 0.0


def _limits(measured: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Check]:
    values = {
        "load_seconds": measured["load_seconds"]["cold"],
        "latency_p95_ms": measured["latency_ms"]["p95"],
        "gpu_memory_mib": measured["gpu_memory_mib"],
    }
    for name, value in values.items():
        if name in limits and value is not None:
            yield Check(name, value <= limits[name], f"at most {limits[name]:g}", f"{value:g}")
    rate = measured["tokens_per_second"]
    if "min_tokens_per_second" in limits and rate is not None:
        least = limits["min_tokens_per_second"]
        yield Check("tokens_per_second", rate >= least, f"at least {least:g}", f"{rate:g}")

# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What failed on a host: which of its tasks count, and what exactly each of them found wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._plain import SENTENCE, mappings, name_of, plain, texts

_MOST = 20  # failures of one task: where a whole model is damaged, its first files tell enough


@dataclass(frozen=True)
class Failure:
    """One thing that is not as it must be."""

    check: str
    msg: str
    model: str | None = None
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True)
class FailedTask:
    """A task that failed on a host, or could not reach it.

    :ivar blocks: The blocks that the task is in, innermost first.
    :ivar rescued_by: The one among them whose ``rescue`` ran because of this; None where the host's play ended.
    """

    task: str
    msg: str
    failures: tuple[Failure, ...]
    unreachable: bool = False
    blocks: tuple[str, ...] = ()
    rescued_by: str | None = None


def failed_task(
    module: str | None, task: str, results: Sequence[Mapping[str, Any]], blocks: Sequence[str], rescued_by: str | None
) -> FailedTask:
    """Make one of a task that failed.

    :param module: The name of the collection's module without the collection; None for any other.
    :param results: What it returned; in a loop, for each item that failed.
    """
    found = [failure for result in results for failure in _of_result(module, result)]
    if len(found) > _MOST:
        found[_MOST:] = [Failure(found[-1].check, f"and {len(found) - _MOST} more failures of this task")]
    return FailedTask(name_of(task), message(results[0]), tuple(found), False, tuple(blocks), rescued_by)


def unreachable_task(task: str, result: Mapping[str, Any]) -> FailedTask:
    """Make one of the result of a task that could not reach its host."""
    msg = message(result)
    return FailedTask(name_of(task), msg, (Failure("unreachable", msg),), True)


def message(result: Mapping[str, Any]) -> str:
    """Return the sentence of a result that failed."""
    if "censored" in result or result.get("_ansible_no_log"):
        return "what failed is hidden, as the task has no_log"
    return plain(result.get("msg")) or "the task failed, and did not say why"


def counting(tasks: Sequence[FailedTask]) -> tuple[list[FailedTask], list[FailedTask]]:
    """Return the tasks that ended a host's play, and those that these were the consequence of.

    A failure that was rescued counts only where the rescue, or what is in its block otherwise, failed as well.

    :param tasks: The failed tasks of a host whose play did not end well, in their order.
    """
    # Where nobody can tell what was rescued, the last one ended it.
    ended = [task for task in tasks if task.rescued_by is None] or list(tasks[-1:])
    blocks = {block for task in ended for block in task.blocks}
    causes: list[FailedTask] = []
    for task in reversed(tasks):
        if task not in ended and task.rescued_by in blocks:
            causes.insert(0, task)
            blocks.update(task.blocks)
    return ended, causes


def failures_of(tasks: Sequence[FailedTask]) -> list[tuple[FailedTask, Failure]]:
    """Return what failed on a host whose play did not end well, the causes first.

    A task that ended it only by repeating the message of a cause, as a ``rescue`` does, adds none.
    """
    ended, causes = counting(tasks)
    # The ends of long messages are cut off.
    told = [cause.msg[: SENTENCE // 2] for cause in causes]
    counted = [*causes, *(task for task in ended if not any(msg in task.msg for msg in told))]
    return [(task, failure) for task in counted for failure in task.failures]


def _of_result(module: str | None, result: Mapping[str, Any]) -> list[Failure]:
    sources = {
        "gpu_check": _of_gpus,
        "model_preflight": _of_preflight,
        "model_smoke": _of_smoke,
        "model_verify": _of_verify,
    }
    found = list(sources[module](result)) if module in sources else []
    return found or [Failure(_CHECKS.get(module or "", "task"), message(result))]


# What a module checks as a whole.
_CHECKS = {
    "gpu_check": "gpu",
    "model_convert": "convert",
    "model_generation": "generation",
    "model_preflight": "preflight",
    "model_smoke": "smoke",
    "model_verify": "content",
    "python_env": "python",
}


def _of_preflight(result: Mapping[str, Any]) -> Iterator[Failure]:
    for problem in texts(result.get("problems")):
        yield Failure("preflight", problem)


def _of_smoke(result: Mapping[str, Any]) -> Iterator[Failure]:
    for model in mappings(result.get("models")):
        if model.get("ok") is not False:
            continue
        name = name_of(model.get("name"))
        checks = list(_failed_checks(model, name, ""))
        yield from checks
        if not checks:
            attempts = mappings(model.get("attempts"))
            failure = plain(attempts[-1].get("failure")) if attempts else None
            yield Failure("smoke", failure or "it could not be run", name)


def _failed_checks(subject: Mapping[str, Any], model: str | None, prefix: str) -> Iterator[Failure]:
    for check in mappings(subject.get("checks")):
        if check.get("ok") is False:
            expected, found = plain(check.get("expected")), plain(check.get("found"))
            msg = f"expected {expected or 'something else'}, found {found or 'nothing'}"
            yield Failure(prefix + name_of(check.get("check")), msg, model, expected, found)


def _of_verify(result: Mapping[str, Any]) -> Iterator[Failure]:
    for defect in (*mappings(result.get("corrupt")), *mappings(result.get("missing"))):
        path, reason = plain(defect.get("path")) or "a file", plain(defect.get("reason")) or "it is damaged"
        digest = plain(defect.get("sha256"))
        yield Failure(
            "content", f"{path}: {reason}", name_of(defect.get("model")), digest and f"SHA-256 {digest}", reason
        )


def _of_gpus(result: Mapping[str, Any]) -> Iterator[Failure]:
    for gpu in mappings(result.get("gpus")):
        yield from _failed_checks(gpu, None, f"GPU {gpu.get('index') if isinstance(gpu.get('index'), int) else '?'} ")
    for peer in mappings(result.get("peers")):
        ends = [peer.get("from"), peer.get("to")]
        if peer.get("ok") is False and all(isinstance(end, int) for end in ends):
            expected, found = plain(peer.get("expected")), plain(peer.get("found"))
            msg = f"expected {expected or 'something else'}, found {found or 'nothing'}"
            yield Failure(f"GPU {ends[0]} to GPU {ends[1]}", msg, None, expected, found)

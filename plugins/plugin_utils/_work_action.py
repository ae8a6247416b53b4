# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running a module's work detached on the host: watched, found again after a lost connection, stopped when asked to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ._progress_text import Row, row_of
from ._screen import Screen

_WORK = "gpufleet.models.model_work"
_KEY = "gpufleet_work"  # under it stands how far the work is; in an answer of _WORK, null is for a result

_SHORTEST, _LONGEST_ON_TERMINAL, _LONGEST = 3.0, 5.0, 30.0  # seconds in which a host is asked once
_SILENCE = 60.0  # seconds longer than asked for, after which a connection that tells nothing is taken for lost
_RETRY = 5.0  # seconds between two attempts to reach a host again
_LOST = 3600.0  # seconds after which a host that cannot be reached any more is given up
_HOLD = 3.0  # seconds that a call has to end which shall not be interrupted
_SENSELESS = 5  # answers in a row that are none, after which it is no use
_STOP = 10.0  # seconds in which a host must answer that the work was stopped


class Interrupted(BaseException):
    """The run is being ended."""


class _Silent(BaseException):
    """The host has not answered in time.

    After any Exception Ansible's ssh would try again, as often as it is told to, and with no limit any more.
    """


class Interrupts:
    """Turns the signals with which Ansible ends the processes of its hosts into an exception, once.

    By default they end at once, and would leave the work on the host to itself.
    """

    def __enter__(self) -> Interrupts:
        self._came = self._raised = self._held = False
        self._former = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if not self._held:
            self._raise()
        elif not self._raised:
            signal.signal(signal.SIGALRM, self._raise)
            signal.setitimer(signal.ITIMER_REAL, _HOLD)

    def _raise(self, *_arguments: object) -> None:
        if self._came and not self._raised:
            self._raised = True
            raise Interrupted

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Give something short the time to end first, of which it must be known whether it happened."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._raise()

    def end(self) -> None:
        """End this process as Ansible does."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.kill(os.getpid(), signal.SIGTERM)


class WorkAction(ActionBase):  # type: ignore[misc]  # ansible-core has no types
    """Runs the module of its own name, detached while there is long work to do.

    The module decides what is long: it answers with its result, or with how far the work is that it has begun, and
    then ``model_work`` is asked until there is a result. In check mode and with ``async`` it is run as any module.
    """

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.async_val or self._task.check_mode:
            detached = self._task.async_val and not self._connection.has_native_async
            result.update(self._execute_module(task_vars=task_vars, wrap_async=detached))
            if not detached:
                self._remove_tmp_path(self._connection._shell.tmpdir)
            return _as_the_module_says(result)
        self._task_vars = task_vars or {}
        self._name = secrets.token_hex(16)
        self._screen = Screen(self._display, str(self._task_vars.get("inventory_hostname", "localhost")))
        with Interrupts() as interrupts:
            try:
                result.update(self._work(interrupts))
            except Interrupted:
                interrupts.end()
            finally:
                with contextlib.suppress(OSError):
                    self._screen.close()
        return _as_the_module_says(result)

    def _work(self, interrupts: Interrupts) -> dict[str, Any]:
        started = time.monotonic()
        answer: dict[str, Any] = {}
        try:
            with interrupts.held():
                answer = self._call(self._task.action, {**self._task.args, "_work": self._name})
            if not _goes_on(answer):
                return answer
            self._show(row_of(answer[_KEY]))
            return self._watch(started)
        except AnsibleConnectionFailure:
            raise
        except BaseException as error:
            # Where the run is ended before there is an answer, nobody knows whether anything has begun.
            if _goes_on(answer) or not (answer or isinstance(error, Exception)):
                self._stop()
            raise

    def _watch(self, started: float) -> dict[str, Any]:
        """Ask how far the work is, until there is a result."""
        reached, senseless = time.monotonic(), 0
        longest = _LONGEST_ON_TERMINAL if self._screen.is_table else _LONGEST
        while True:
            wait = min(longest, max(_SHORTEST, (time.monotonic() - started) / 20))
            _end_with_parent()
            answer = self._ask(wait, _wait=wait)
            # Before anything is shown: nobody empties the pipe for that any more.
            _end_with_parent()
            now = time.monotonic()
            if answer is None:
                if now - reached > _LOST:
                    raise AnsibleConnectionFailure(
                        f"could not be reached for {_LOST / 60:.0f} minutes; the work goes on there, "
                        "and the next run waits for it"
                    )
                self._show(Row(f"not reached for {now - reached:.0f} s, the work goes on there"))
                time.sleep(_RETRY)
                continue
            reached = now
            if _KEY not in answer:
                # Its Python does not start any more, or somebody else's words come through the connection.
                senseless += 1
                if senseless == _SENSELESS:
                    self._stop()
                    return answer
                time.sleep(_RETRY)
                continue
            senseless = 0
            if not _goes_on(answer):
                self._ask(0, _forget=True)
                return answer
            self._show(row_of(answer[_KEY]))

    def _ask(self, seconds: float, **arguments: Any) -> dict[str, Any] | None:
        """Return what the host tells, which takes it that long, or None when it does not."""
        answer: dict[str, Any] | None = None
        try:
            # The task's own timeout, where there is one, uses the same alarm.
            with contextlib.nullcontext() if self._task.timeout else _limit(seconds + _SILENCE):
                answer = self._call(_WORK, self._of_work(**arguments))
        except (AnsibleConnectionFailure, _Silent):
            _end_helpers()
            with contextlib.suppress(AttributeError, AnsibleConnectionFailure):
                self._connection.reset()
        return answer

    def _stop(self) -> None:
        """Stop the work on the host, as far as it can be reached. Whoever asks for it meanwhile ends with it."""
        try:
            with _limit(_STOP):
                answer = self._call(_WORK, self._of_work(stop=True, _forget=True))
        except (AnsibleConnectionFailure, _Silent):
            _end_helpers()
            answer = {"failed": True}
        if answer.get("failed"):
            self._screen.last_word(
                f"could not be told to stop; run the playbook gpufleet.models.cancel ({answer.get('msg', 'no answer')})"
            )
        else:
            self._screen.last_word("stopped; what was received is kept")

    def _call(self, module: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name=module, module_args=arguments, task_vars=self._task_vars
        )
        # Without pipelining the module lies there, with the token.
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer

    def _of_work(self, **arguments: Any) -> dict[str, Any]:
        root = {"root": self._task.args["root"]} if "root" in self._task.args else {}
        return {**root, "_work": self._name, **arguments}

    def _show(self, row: Row) -> None:
        if not self._task.no_log:
            with contextlib.suppress(OSError):  # such as a full disk here: the work goes on all the same
                self._screen.show(row)


def _as_the_module_says(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what concerns the action plugin alone."""
    result.pop(_KEY, None)
    result.get("invocation", {}).get("module_args", {}).pop("_work", None)
    return result


def _goes_on(answer: dict[str, Any]) -> bool:
    """Whether it is no result yet."""
    return isinstance(answer.get(_KEY), dict)


def _end_with_parent() -> None:
    """End this process, and leave the work to itself, when the run that it belongs to has died.

    A signal that kills the run, such as that of a terminal which is closed, does not reach this process. If it went on
    asking, the next run would take the work for that of a run which is still there.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)


def _end_helpers() -> None:
    """End what this process has started to reach the host, such as an ssh that waits for an answer for ever."""
    if os.getpgrp() != os.getpid():
        return
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgrp(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, former)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise _Silent after that time."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise _Silent

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

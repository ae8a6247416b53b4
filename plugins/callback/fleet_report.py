# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Report what each host of a fleet holds, and whether everything is as it must be."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
type: aggregate
short_description: Report what each host of a fleet holds, and whether everything is as it must be
version_added: 0.1.0
author:
  - gpufleet.models contributors (@gpufleet)
description:
  - Prints a table of hosts and models after a playbook with modules of this collection which look at hosts, with the
    commit, how long ago the content was verified, the last smoke test, latency and load time, then what failed and
    which hosts are slower than most. After any other playbook it prints nothing.
  - Writes the same as JSON, as JUnit XML and as a page of HTML where a path is given. Each file is replaced as a whole.
    At the start of a run it is replaced by one that says that the run did not come to its end, so that an earlier
    report is never taken for that of a run that was interrupted.
  - A run where any host failed or was unreachable is not C(ok), and neither is one in which no host was looked at.
requirements:
  - enable in configuration, with C(callbacks_enabled = gpufleet.models.fleet_report)
options:
  json:
    description:
      - Where to write the report as JSON, on the control node.
      - The report that is there is kept beside it, with C(.previous) after its name, and compared with the new one.
    type: path
    env:
      - name: FLEET_REPORT_JSON
    ini:
      - section: fleet_report
        key: json
  junit:
    description: Where to write it as JUnit XML.
    type: path
    env:
      - name: FLEET_REPORT_JUNIT
    ini:
      - section: fleet_report
        key: junit
  html:
    description:
      - Where to write it as a page of HTML. It needs no other file, no network and no script.
      - It tells what changed since the previous report where O(json) is given too.
    type: path
    env:
      - name: FLEET_REPORT_HTML
    ini:
      - section: fleet_report
        key: html
"""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible import constants, context
from ansible.plugins.callback import CallbackBase

from ansible_collections.gpufleet.models.plugins.plugin_utils._report import Run, make_report, utc_now
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_failures import failed_task, unreachable_task
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_files import read_report, to_json, write_file
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_host import OBSERVED, Host
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_html import make_page
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_junit import make_junit
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_text import make_table

_PREFIX = "gpufleet.models."
_WRITERS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {
    "json": to_json,
    "junit": make_junit,
    "html": make_page,
}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Collects what Ansible tells of a run, and hands it to what makes a report of it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpufleet.models.fleet_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._run = Run("", utc_now(), False)
        self._play: Any = None
        self._begun = False
        self._previous: dict[str, Any] | None = None
        self._refused: set[str] = set()
        self._items: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        self._process = os.getpid()

    # What Ansible calls.

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Note which playbook runs. What an earlier one of the same command did stays in the report."""
        self._run.playbook = os.path.basename(str(playbook._file_name))
        self._run.check_mode = bool(context.CLIARGS.get("check"))
        self._begun = False
        # A play before those that name the modules may end the run, and so may an error of Ansible before any play.
        if self._run.finished is not None or any(_names_modules(play) for play in playbook.get_plays()):
            self._begin()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Expect the hosts where the play names any of the modules; it may fail before it comes to them."""
        self._play = play
        if _names_modules(play):
            self._expect_hosts()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Begin a report where such a module comes from a file that was included on the way."""
        if _module(task) in OBSERVED:
            self._begin()
            self._expect_hosts()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take in a result."""
        self._observe(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note the host."""
        self._host(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Take in the result of an item; with that of its whole loop it is not told which were in check mode."""
        self._observe(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Take it in, and keep it; the result of the whole loop does not say which of them failed."""
        self._observe(result)
        self._items.setdefault((result.host.get_name(), result.task._uuid), []).append(result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Take in a result, and that it is a failure."""
        self._observe(result)
        results = self._items.pop((result.host.get_name(), result.task._uuid), [result.result])
        if not ignore_errors:
            blocks = list(_blocks(result.task))
            rescued_by = next((block._uuid for block, rescues in blocks if rescues), None)
            module = _module(result.task)
            name = result.task.get_name()
            task = failed_task(module, name, results, [block._uuid for block, _rescues in blocks], rescued_by)
            self._tasks_of(result).append(task)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Take in that a host could not be reached."""
        self._host(result)
        self._tasks_of(result).append(unreachable_task(result.task.get_name(), result.result))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the report, and write its files."""
        if not self._begun:
            return
        self._begun = False
        run = self._run
        run.finished = utc_now()
        run.failed = frozenset(host for host in stats.processed if stats.failures.get(host))
        run.unreachable = frozenset(host for host in stats.processed if stats.dark.get(host))
        for host in (*run.failed, *run.unreachable):
            run.hosts.setdefault(host, Host())
        report = make_report(run, self._previous)
        color = constants.COLOR_OK if report["ok"] else constants.COLOR_ERROR
        verdict, _newline, table = make_table(report, self._display.columns).partition("\n")
        self._display.display("")
        self._display.display(verdict, color=color)
        self._display.display(f"{table}\n")
        self._write(report)

    # How it gets there.

    def _expect_hosts(self) -> None:
        known = len(self._run.hosts)
        for host in self._play.get_variable_manager()._inventory.get_hosts(self._play.hosts, ignore_restrictions=True):
            self._run.hosts.setdefault(host.name, Host())
        # A run that is killed leaves their names.
        if len(self._run.hosts) > known:
            self._write(make_report(self._run, self._previous))

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._run.finished is None:
            self._keep_previous()
            atexit.register(self._interrupted)
        self._run.finished = None
        self._write(make_report(self._run, self._previous))

    def _keep_previous(self) -> None:
        path = self.get_option("json")
        if not path:
            return
        kept = f"{path}.previous"
        try:
            self._previous = read_report(path)
            if self._previous is not None:
                os.replace(path, kept)
            else:
                self._previous = read_report(kept)
        except (OSError, ValueError) as error:
            # Whatever lies there, it is not this plugin's to replace.
            self._refused.add("json")
            self._warn(path, f"expected a report or nothing, found something else: {_reason(error)}; name another file")

    def _interrupted(self) -> None:
        """Write down what was seen of a run that ends without its recap: on Ctrl-C, or after an error of Ansible."""
        if self._begun and os.getpid() == self._process:
            ended = {host: tasks[-1] for host, tasks in self._run.tasks.items() if tasks[-1].rescued_by is None}
            self._run.failed = frozenset(host for host, task in ended.items() if not task.unreachable)
            self._run.unreachable = frozenset(host for host, task in ended.items() if task.unreachable)
            self._write(make_report(self._run, self._previous))

    def _write(self, report: Mapping[str, Any]) -> None:
        for option, writer in _WRITERS.items():
            path = self.get_option(option)
            if path and option not in self._refused:
                try:
                    write_file(path, writer(report))
                except OSError as error:
                    self._warn(path, f"it was not written: {_reason(error)}; what is there is not of this run")

    def _warn(self, path: str, sentence: str) -> None:
        self._display.warning(f"fleet_report: {path}: {sentence}")

    def _host(self, result: Any) -> Host:
        return self._run.hosts.setdefault(result.host.get_name(), Host())

    def _tasks_of(self, result: Any) -> list[Any]:
        return self._run.tasks.setdefault(result.host.get_name(), [])

    def _observe(self, result: Any) -> None:
        module = _module(result.task)
        # In a loop, each item had a result of its own.
        if module in OBSERVED and not isinstance(result.result.get("results"), list):
            # A task may be in check mode where the run is not, and the other way round.
            self._host(result).observe(module, result.result, utc_now(), bool(result.task.check_mode))


def _reason(error: OSError | ValueError) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error)


def _module(task: Any) -> str | None:
    """Return the name of the collection's module that a task runs, without the collection; None for any other."""
    action = str(getattr(task, "resolved_action", None) or task.action)
    return action.removeprefix(_PREFIX) if action.startswith(_PREFIX) else None


def _names_modules(play: Any) -> bool:
    """Return whether a play has a task that looks at hosts, by itself or by what it imports."""
    return any(_module(task) in OBSERVED for block in play.compile() for task in _tasks(block))


def _tasks(block: Any) -> Iterator[Any]:
    for entry in (*block.block, *block.rescue, *block.always):
        if hasattr(entry, "block"):
            yield from _tasks(entry)
        else:
            yield entry


def _blocks(task: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the blocks that a task is in, innermost first, and whether each rescues what fails at this place of it."""
    within, parent = {task._uuid}, task._parent
    while parent is not None:
        if hasattr(parent, "rescue"):
            yield parent, bool(parent.rescue) and any(entry._uuid in within for entry in parent.block)
        within.add(parent._uuid)
        parent = parent._parent

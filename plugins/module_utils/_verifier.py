# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of the verifier: what a host's own timer starts at night, with no Ansible there.

It says one line in the end, and its status says the rest: 0 when nothing is left damaged, 1 when something is or could
not be looked at, 143 when a signal stopped it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from ._directory import Directory
from ._errors import Cancelled, InvalidInput, ModelsError, StoreError, describe_os_error
from ._generation import Generations
from ._http import origin_of
from ._inspect import TIME, inspect
from ._integrity import Finding
from ._ledger import Ledger
from ._manifest import Manifest
from ._metrics import Run, health_of, last_run, render
from ._signals import cancel_on_signals
from ._source import Hub
from ._store import Store
from ._transfer import Limits
from ._verify import Examination, describe_defects, examine, record, record_findings, repair, repaired
from ._work import Work

STOPPED = 128 + signal.SIGTERM  # what a shell says of a process that SIGTERM ended

_LIMITS = Limits(connections=8, stall_timeout=30.0, timeout=None, retries=5)
_LOCK_TIMEOUT = 60.0  # seconds


class Verifier:
    """Verifies what one store serves, as far as the time allows, and mends it if it may.

    :param budget_seconds: Begin to hash no further file after that time; None for all files.
    :param hub: Where to fetch what is damaged, or None to mend nothing.
    """

    def __init__(self, root: str, budget_seconds: float | None, hub: Hub | None, cancelled: threading.Event) -> None:
        self._root = root
        self._budget_seconds = budget_seconds
        self._hub = hub
        self._cancelled = cancelled
        self._unwritten: OSError | None = None
        self.hashed_bytes = 0
        self.damaged: set[str] = set()  # the models of which something was found damaged and not mended

    def run(self) -> str:
        """Verify, and return what there is to say.

        :raises ModelsError: When something is left damaged, or could not be looked at.
        """
        with _open(self._root) as store:
            manifest = _served(store)
            started = time.monotonic()
            found = self._examine(store, manifest)
            seconds = time.monotonic() - started
            now = Generations(store).current()
            if now != manifest.generation:
                return f"generation {manifest.generation} was verified in part, as another one came to be served"
            self.damaged = {defect.model.name for defect in found.defects()}
            after = self._repair(store, found)
            left = after.defects()
            self.damaged = {defect.model.name for defect in left}
            if left:
                advice = "mend it with the playbook verify and model_store_verify_repair=true"
                if after.obstacle is not None:
                    advice = f"it could not be repaired: {after.obstacle}"
                raise StoreError(describe_defects(manifest, left, advice))
        if self._unwritten is not None:
            raise StoreError(
                f"the ledger of {self._root} could not be written: {self._unwritten.strerror}; what was hashed in this "
                "run will be hashed again"
            )
        mended = f"{len(found.defects())} files were mended" if found.defects() else "nothing is damaged"
        total = len({file.sha256 for _model, file in manifest.files()})
        return (
            f"generation {manifest.generation}: {mended}; hashed {len(found.findings)} of {total} different files, "
            f"{self.hashed_bytes / 1e9:.1f} GB, in {seconds:.0f} s"
        )

    def _examine(self, store: Store, manifest: Manifest) -> Examination:
        def note(finding: Finding) -> None:
            self.hashed_bytes += finding.hashed_bytes
            self._note(store, finding)

        with Work(store, "verify", False, None, self._cancelled) as work:
            found = examine(store, manifest, True, self._budget_seconds, self._cancelled, work.begin("hash"), note)
        # Like the metrics: a changed time alone says nothing, the file is hashed when its turn comes.
        problems = tuple(problem for problem in found.inspection.problems if problem.kind != TIME)
        return replace(found, inspection=replace(found.inspection, problems=problems))

    def _repair(self, store: Store, found: Examination) -> Examination:
        """Mend what is damaged, if that is wanted; the store is free for others until then."""
        if not found.defects() or self._hub is None:
            return found
        try:
            writer = store.writer("the nightly verification", _LOCK_TIMEOUT, self._cancelled)
            with writer, Work(store, "repair", True, None, self._cancelled) as work:
                after, _downloaded = repair(store, found, self._hub, _LIMITS, self._cancelled, work)
                record(store, after, repaired(found, after))
        except Cancelled:
            raise
        except ModelsError as error:
            return replace(found, obstacle=str(error))
        return after

    def _note(self, store: Store, finding: Finding) -> None:
        """Write a finding down at once, as a kill shall not cost what was hashed before it."""
        try:
            record_findings(store, [finding])
        except OSError as error:  # what is damaged shall be found all the same
            self._unwritten = error


def _open(root: str) -> Store:
    store = Store.open(root)
    if store is None:
        raise InvalidInput(f"{root} does not exist; hold models there with the playbook site, or remove the timer")
    return store


def _served(store: Store) -> Manifest:
    generations = Generations(store)
    current = generations.current()
    if current is None:
        raise InvalidInput(f"{store.path} serves no generation; serve one with the playbook site")
    return generations.manifest(current)


def write_metrics(root: str, path: str, run: Run | None, damaged: Collection[str] = ()) -> None:
    """Put the metrics of a store in place, as a whole.

    :param path: Of the file, in a directory that exists.
    :param run: The run that just ended; None for the last one of the ledger.
    :param damaged: The models that it found damaged, which the ledger does not say where it cannot be written.
    :raises OSError: When the file cannot be written; the former one is left as it was.
    """
    try:
        with _open(root) as store:
            ledger = Ledger(store.root)
            run = run or last_run(ledger)
            manifest = _served(store)
            models = health_of(manifest, inspect(store, manifest), ledger)
            models = [replace(model, verified=model.verified and model.name not in damaged) for model in models]
            text = render(manifest, models, run)
    except (ModelsError, OSError):
        text = render(None, [], run)
    directory, name = os.path.split(path)
    with Directory.open_root(directory) as target:
        target.write(name, text.encode())


def verify(verifier: Verifier, root: str) -> tuple[str, Run]:
    """Run the verifier, and note in the ledger that it ran; return what to say, and the run.

    :raises Cancelled: When it was stopped.
    """
    started = time.monotonic()
    try:
        said, well = verifier.run(), True
    except Cancelled:
        raise
    except ModelsError as error:
        said, well = str(error), False
    except OSError as error:
        said, well = describe_os_error(error, root), False
    run = Run(round(time.time()), well, round(time.monotonic() - started, 3), verifier.hashed_bytes)
    try:
        with _open(root) as store:
            Ledger(store.root).append([run.event()])
    except (ModelsError, OSError):
        pass  # it was said already: there is no store, or its ledger cannot be written
    return said, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line says, and return the exit status."""
    options = _parse(arguments)
    cancelled = threading.Event()
    cancel_on_signals(cancelled)
    verifier = Verifier(options.root, options.budget, options.repair_from, cancelled)
    said, run = "the metrics were written again", None
    try:
        if not options.refresh:
            said, run = verify(verifier, options.root)
    except Cancelled:
        sys.stderr.write("stopped by a signal; what was hashed so far is in the ledger\n")
        return STOPPED
    well = run is None or run.success
    if options.metrics is not None:
        try:
            write_metrics(options.root, options.metrics, run, verifier.damaged)
        except (ModelsError, OSError) as error:
            reason = describe_os_error(error, options.metrics) if isinstance(error, OSError) else error
            said, well = f"{said}; the metrics could not be written: {reason}", False
    (sys.stdout if well else sys.stderr).write(f"{said}\n")
    return 0 if well else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpufleet-verify", description="Verify the AI models that this host serves.")
    parser.add_argument("--root", type=_absolute, required=True, help="the store")
    parser.add_argument(
        "--budget", type=_seconds, metavar="SECONDS", help="how long to hash, the longest unverified first"
    )
    parser.add_argument("--metrics", type=_absolute, metavar="FILE", help="where to write metrics for Prometheus")
    parser.add_argument("--repair-from", type=_hub, metavar="URL", help="mend what is damaged, from this endpoint")
    parser.add_argument("--refresh", action="store_true", help="hash nothing, only write the metrics again")
    return parser.parse_args(arguments)


def _absolute(text: str) -> str:
    if not os.path.isabs(text):
        raise argparse.ArgumentTypeError(f"expected an absolute path, found {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, found {text!r}")
    return seconds


def _hub(text: str) -> Hub:
    try:
        origin_of(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Hub(text)

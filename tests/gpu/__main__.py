"""Run the cases and write the report; docs/gpu-evidence.md has its fields."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.gpu.cases import CASES
from tests.gpu.environment import Environment, make_environment
from tests.gpu.trial import Failed, NotRun, Trial
from tests.hub import Hub

_STATUS = {"pass": 0, "fail": 1, "no gpu": 2, "incomplete": 3, "rehearsal": 3}


def main() -> int:
    """Run the cases, and return the exit status: 0 when every one of them was run and passed."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run", description="Prove this machine's GPUs and what uses them.")
    parser.add_argument("--python", required=True, help="the Python that has torch; by default one is made")
    out = Path(os.environ.get("OUT", ".cache")) / "gpu-report.json"
    parser.add_argument("--report", type=Path, default=out, help="where the report is written: %(default)s")
    parser.add_argument("--rehearse", action="store_true", help="compute on the processor, which proves nothing")
    names = [case.__name__ for case in CASES]
    about = "these alone, of which most need stage: %(choices)s"
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=names, default=[], help=about)
    parser.add_argument("--seconds", type=float, default=570.0, help="after which no further case is begun")
    parser.add_argument("--large", default="phi3_1b", help="the large model: %(default)s, or phi3_7m")
    arguments = parser.parse_args()
    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="gpufleet-gpu-"))
    try:
        environment = make_environment(arguments.python, directory)
        cases: list[dict[str, Any]] = []
        if environment.problem is None or arguments.rehearse:
            with Hub() as hub:
                cuda = not arguments.rehearse
                trial = Trial(environment, directory, hub, cuda, arguments.large, begun + arguments.seconds)
                cases = run(trial, arguments.only)
        verdict = _verdict(environment, cases, arguments.rehearse)
        report = {
            "report_version": 1,
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "ok": verdict == "pass",
            "verdict": verdict,
            "gpus": environment.gpus,
            "problem": environment.problem,
            "seconds": round(time.monotonic() - begun, 1),
            "python": {"path": environment.base, "version": environment.python, "cuda": environment.cuda},
            "versions": environment.versions,
            "cases": cases,
        }
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if verdict == "no gpu":
        print(f"Nothing was run, which proves nothing: {environment.problem}", file=sys.stderr)
    print(f"{verdict}: {arguments.report}")
    return _STATUS[verdict]


def run(trial: Trial, only: list[str]) -> list[dict[str, Any]]:
    """Run the cases, and return what came of each."""
    told = []
    for case in CASES:
        if only and case.__name__ not in only:
            continue
        begun = time.monotonic()
        outcome: dict[str, Any] = {"name": case.__name__, "about": (case.__doc__ or "").strip()}
        try:
            if trial.left <= 0:
                raise NotRun("no time left")
            outcome |= {"verdict": "passed", "reason": None, "figures": case(trial)}
        except NotRun as error:
            outcome |= {"verdict": "not run", "reason": str(error), "lacking": error.lacking, "figures": {}}
        except Failed as error:
            outcome |= {"verdict": "failed", "reason": str(error), "figures": {}}
        except Exception as error:  # the other cases are run all the same
            outcome |= {"verdict": "failed", "reason": f"{type(error).__name__}: {error}"[:2000], "figures": {}}
        outcome["seconds"] = round(time.monotonic() - begun, 1)
        shown = outcome["reason"] or json.dumps(outcome["figures"])
        print(f"{outcome['verdict']:8} {outcome['name']:28} {outcome['seconds']:6.1f} s  {shown}", flush=True)
        told.append(outcome)
    return told


def _verdict(environment: Environment, cases: list[dict[str, Any]], rehearsed: bool) -> str:
    """Return ``pass`` only when every case that this machine can run was run on its GPU, and passed."""
    if any(case["verdict"] == "failed" for case in cases):
        return "fail"
    if rehearsed:
        return "rehearsal"
    if environment.problem is not None:
        return "no gpu"
    complete = len(cases) == len(CASES) and not any(case.get("lacking") for case in cases)
    return "pass" if complete else "incomplete"


if __name__ == "__main__":
    sys.exit(main())

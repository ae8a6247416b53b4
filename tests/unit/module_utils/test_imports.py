# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tests that an environment must pass, with this Python as the environment's."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from ansible_collections.gpufleet.models.plugins.module_utils._cuda import Driver
from ansible_collections.gpufleet.models.plugins.module_utils._errors import Cancelled, PythonError
from ansible_collections.gpufleet.models.plugins.module_utils._imports import try_environment
from ansible_collections.gpufleet.models.plugins.module_utils._process import Limit

GOOD = Driver("580.65.06", 2)


class Environment:
    """A directory that looks like an environment; its Python imports modules from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        python = directory / "bin" / "python"
        # It is started with -I: what comes after that is put after a path of its own.
        python.write_text(
            f"#!/bin/sh\nshift 2\nexec {sys.executable} -I -c \"import sys; sys.path.insert(0, '{directory}'); "
            f'script = sys.argv.pop(1); exec(script)" "$@"\n',
            encoding="utf-8",
        )
        python.chmod(0o755)

    def module(self, name: str, text: str) -> None:
        path = self.directory / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def torch(self, cuda: str | None, available: str) -> None:
        self.module("torch/__init__", "from . import cuda, version\n")
        self.module("torch/version", f"cuda = {cuda!r}\n")
        self.module("torch/cuda", f"def is_available():\n    {available}\n")

    def try_it(self, *imports: str, cuda: str | None = None, driver: Driver | None = None, seconds: float = 20) -> None:
        try_environment(str(self.directory), imports, cuda, driver, Limit.of(seconds, threading.Event()))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_nothing_to_try(tmp_path: Path) -> None:
    try_environment(str(tmp_path), (), None, GOOD, Limit.of(1, threading.Event()))


def test_imports(environment: Environment) -> None:
    environment.module("noisy", 'import os\nprint(\'{"failed": "x", "error": "y"}\')\nos.system("echo noise")\n')
    environment.try_it("json", "noisy", "xml.dom")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_there", "import bad failed with ModuleNotFoundError: No module named 'nothing_there'"),
        ("raise SystemExit(0)", "import bad failed with SystemExit: 0"),
        ("raise ValueError('one\\ntwo')", "import bad failed with ValueError: one two"),
        ("import os; os.kill(os.getpid(), 9)", "import bad ended with SIGKILL: it said nothing"),
        (
            "import os; os.write(2, b'oh'); os._exit(3)",
            "import bad ended with status 3: oh",
        ),
        ("a = (", "import bad failed with SyntaxError"),
    ],
)
def test_import_that_fails(environment: Environment, text: str, message: str) -> None:
    environment.module("bad", text)
    with pytest.raises(PythonError) as caught:
        environment.try_it("json", "bad")
    assert str(caught.value).startswith(message)


def test_import_that_takes_for_ever(environment: Environment) -> None:
    environment.module("slow", "import time\ntime.sleep(60)\n")
    with pytest.raises(Cancelled, match=r"timeout of 0\.5 s"):
        environment.try_it("slow", seconds=0.5)


@pytest.mark.parametrize(
    ("cuda", "available", "driver", "message"),
    [
        (None, "return False", GOOD, None),
        ("12.8", "return True", GOOD, None),
        ("12.8", "return False", None, None),
        ("12.8", "return False", Driver("580.65.06", 0), None),
        ("12.8", "return False", GOOD, "torch for CUDA 12.8 found no usable GPU, expected 2 with driver 580.65.06"),
        ("12.8", "import warnings; warnings.warn('error 803')", GOOD, "error 803"),
        ("13.0", "return True", Driver("570.1", 1), "built for CUDA 13.0: expected NVIDIA driver 580 or later"),
        ("12.8", "raise RuntimeError('no')", GOOD, "import torch.cuda failed with RuntimeError: no"),
    ],
)
def test_torch(
    environment: Environment, cuda: str | None, available: str, driver: Driver | None, message: str | None
) -> None:
    environment.torch(cuda, available)
    if message is None:
        environment.try_it("torch", cuda=cuda, driver=driver)
        environment.try_it(cuda=cuda, driver=driver)
    else:
        with pytest.raises(PythonError, match=message):
            environment.try_it(cuda=cuda, driver=driver)


def test_hidden_gpus_are_seen(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment.torch("12.8", "import os; return 'CUDA_VISIBLE_DEVICES' not in os.environ")
    environment.try_it(cuda="12.8", driver=GOOD)

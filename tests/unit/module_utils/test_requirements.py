# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of an environment: what is read, what is refused, and when two are the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ansible_collections.gpufleet.models.plugins.module_utils._errors import InvalidInput
from ansible_collections.gpufleet.models.plugins.module_utils._requirements import (
    Pythons,
    compare,
    environment_digest,
    locked_cuda,
    parse_requirements,
    project_file,
)
from tests.unit.values import result_or_refusal, texts

A, B = "a" * 64, "b" * 64
LOCK = f"""\
# Made by somebody.
torch==2.13.0+cu128 ; platform_machine == 'x86_64' \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via
    #   -r requirements.in
Strawberry_GraphQL==0.3 --hash=sha256:{A}  # via nothing
"""


def test_parse() -> None:
    first, second = parse_requirements(LOCK)
    assert (first.name, first.version, first.marker, first.hashes) == ("strawberry-graphql", "0.3", "", (A,))
    assert (second.name, second.version, second.hashes) == ("torch", "2.13.0+cu128", (A, B))
    assert str(second) == "torch==2.13.0+cu128 ; platform_machine == 'x86_64'"
    assert parse_requirements(f"psycopg[binary,pool]==3.3 --hash=sha256:{A}")[0].name == "psycopg"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("torch", "line 1"),
        ("torch==1.0", "without one"),
        (f"torch>=1.0 --hash=sha256:{A}", "'torch>=1.0'"),
        (f"torch==1.* --hash=sha256:{A}", "'torch==1.*'"),
        (f"torch==1.0,<2 --hash=sha256:{A}", "'torch==1.0,<2'"),
        (f"torch==1.0 --hash=md5:{A[:32]}", "without one"),
        (f"torch==1.0 --hash=sha256:{A}0", "without one"),
        ("--index-url https://user:password@host/simple", "line 1"),
        ("-r other.txt", "'-r other.txt'"),
        ("-e .", "'-e .'"),
        (f"torch @ https://host/torch.whl --hash=sha256:{A}", "'torch @"),
        (f"\n# x\ntorch==1.0 --hash=sha256:{A}\nnumpy\n", "line 4"),
        (f"torch==1.0 \\\n--hash=sha256:{A} \\\nnumpy==1", "line 1"),
        ("", "found none"),
        ("# nothing\n", "found none"),
    ],
)
def test_refused(text: str, found: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_requirements(text)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@given(texts)
def test_any_text_is_read_or_refused(text: str) -> None:
    result_or_refusal(parse_requirements, text)
    result_or_refusal(parse_requirements, f"{text}--hash=sha256:{A}")


def digest(text: str = LOCK, python: str = "3.12", managed: bool = False, machine: str = "x86_64") -> str:
    return environment_digest(parse_requirements(text), python, managed, machine)


def test_digest() -> None:
    lines = LOCK.splitlines(keepends=True)
    assert digest() == digest("".join([lines[-1], "\n", *lines[:-1]])) == digest(LOCK.replace(" # via nothing", ""))
    others = [
        digest(LOCK.replace(A, "c" * 64)),
        digest(LOCK.replace("0.3", "0.4")),
        digest(LOCK.replace("x86_64", "aarch64")),
        digest(lines[-1]),
        digest(python="3.13"),
        digest(managed=True),
        digest(machine="aarch64"),
    ]
    assert len({digest(), *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("version", "cuda"),
    [("2.13.0", None), ("2.13.0+cpu", None), ("2.13.0+cu128", "12.8"), ("2.13.0+cu132", "13.2"), ("2+rocm6", None)],
)
def test_locked_cuda(version: str, cuda: str | None) -> None:
    assert locked_cuda(parse_requirements(f"torch=={version} --hash=sha256:{A}")) == cuda


def test_compare() -> None:
    def pins(*names: str) -> Any:
        return parse_requirements("".join(f"{name} --hash=sha256:{A}\n" for name in names))

    changes = compare(pins("a==1", "b==1", "c==1"), pins("b==1", "c==2", "d==1", "d==2 ; os_name == 'x'"))
    assert [(change["name"], change["before"], change["after"], change["action"]) for change in changes] == [
        ("a", "1", None, "removed"),
        ("b", "1", "1", "unchanged"),
        ("c", "1", "2", "updated"),
        ("d", None, "1, 2", "added"),
    ]


def test_project_file() -> None:
    text = project_file(
        ['psycopg[binary] ; python_version > "3"'],
        Pythons.parse("3.12"),
        [{"url": "https://x/cpu", "packages": ["A_b"]}],
    )
    assert 'dependencies = ["psycopg[binary] ; python_version > \\"3\\""]' in text
    assert '"a-b" = {index = "source-0"}' in text


@pytest.mark.parametrize(
    ("requirements", "sources"),
    [
        ([], []),
        (["-r x"], []),
        (["a\nb"], []),
        ([""], []),
        (["a =="], []),
        (["a >"], []),
        (["a @ https://x/a.whl"], []),
        (["a"], [{"url": "https://u:p@x/", "packages": []}]),
        (["a"], [{"url": "x", "packages": []}]),
    ],
)
def test_project_file_refuses(requirements: list[str], sources: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput):
        project_file(requirements, Pythons.parse("3.12"), sources)


@pytest.mark.parametrize(
    ("text", "oldest", "conditions", "said"),
    [
        ("3.10", "3.10", ["sys_platform == 'linux'", "python_full_version < '3.11'"], "3.10"),
        ("3.12.4", "3.12.4", ["sys_platform == 'linux'", "python_full_version < '3.13'"], "3.12.4"),
        ("3.10+", "3.10", ["sys_platform == 'linux'"], "3.10 or later"),
    ],
)
def test_pythons(text: str, oldest: str, conditions: list[str], said: str) -> None:
    pythons = Pythons.parse(text)
    assert (pythons.oldest, list(pythons.conditions), str(pythons)) == (oldest, conditions, said)


def test_what_holds_on_all_hosts_is_not_said() -> None:
    lock = """\
a==1 ; python_full_version < '3.12' and sys_platform == 'linux' \\
    --hash=sha256:x
b==1 ; python_full_version < '3.12' and implementation_name != 'pypy' and sys_platform == 'linux' \\
    --hash=sha256:x
c==1 ; (python_full_version < '3.12' and sys_platform == 'linux') or (sys_platform == 'linux') \\
    --hash=sha256:x
d==1 ; python_full_version < '3.11.3' and sys_platform == 'linux' \\
    --hash=sha256:x
"""
    simple = Pythons.parse("3.11").simplified(lock)
    assert [line for line in simple.splitlines() if "hash" not in line] == [
        "a==1 \\",
        "b==1 ; implementation_name != 'pypy' \\",
        "c==1 ; (python_full_version < '3.12' and sys_platform == 'linux') or (sys_platform == 'linux') \\",
        "d==1 ; python_full_version < '3.11.3' \\",
    ]
    assert simple.count("hash") == 4


@pytest.mark.parametrize(
    "text", ["", "3", "3.9", "3.9+", "2.7", "3.12-", ">=3.12", "3.12++", "/usr/bin/python3", "3.12\n"]
)
def test_pythons_refuses(text: str) -> None:
    with pytest.raises(InvalidInput, match="python: expected a version"):
        Pythons.parse(text)

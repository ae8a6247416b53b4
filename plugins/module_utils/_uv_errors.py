# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What uv's failures mean, each in one sentence: what failed, why, and what to do."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
_HOST = re.compile(r"https?://([^/\s`)]+)")
_CAUSE = re.compile(r"^\s*cause: (.+)$", re.MULTILINE)
_DOWNLOAD = r"Failed to download `(?P<name>[^`\n]+)`[\s\S]*"

# What uv says, and what to tell; the first that matches counts. Filled in are the groups, the host that is named first,
# the last cause, and the last line of what a build printed.
_MEANINGS = (
    (r"No space left on device", "the disk is full; free space, or choose another path"),
    (
        r"Hash mismatch for `(?P<name>cpython-[^`\n]+)`",
        "{name} is not the Python that uv expects: its SHA-256 differs; look at where UV_PYTHON_INSTALL_MIRROR points",
    ),
    (
        r"Hash mismatch for `(?P<name>[^`\n]+)`",
        "{name} is not the file that was locked: its SHA-256 differs; find out who replaced it, or lock again",
    ),
    (
        rf"{_DOWNLOAD}HTTP status (?:client|server) error \((?P<status>[^)]+)\)",
        "{name} was refused by {host}: {status}; lock again if it is gone, or try again later",
    ),
    (
        rf"{_DOWNLOAD}network timeout",
        "{name} was not received as a whole: nothing came any more; try again, or set UV_HTTP_TIMEOUT to more seconds",
    ),
    (
        rf"{_DOWNLOAD}(?:extract|[Zz]ip|CRC|end of file)",
        "{name} is a broken wheel, or was cut off: {cause}; try again, and look at the index if that does not help",
    ),
    (rf"{_DOWNLOAD}", "{name} was not received as a whole: {cause}; try again"),
    (
        r"Failed to fetch: \S+",
        "{host} cannot be reached, or does not answer as an index does: {cause}; look at the address, the network "
        "and the proxy",
    ),
    (
        r"Failed to build `(?P<name>[^`\n]+)`",
        "{name} could not be built: {built}; install what its build needs, or lock a version that has a wheel",
    ),
    (
        r"(?P<name>\S+==\S+) has no wheels with a (?P<tag>matching [^()]+?) \(e\.g\., `(?P<like>[^`\n]+)`\)",
        "{name} has no wheel for this host, none with a {tag} such as {like}; lock a version that has one",
    ),
    (
        r"(?P<name>\S+==\S+) has no usable wheels",
        "{name} has no wheel for this host and would have to be built there; lock a version that has one, or allow "
        "source_builds",
    ),
    (
        r"(?P<name>\S+) was not found in the cache",
        "{name} is not in find_links, and offline forbids to ask for it; add its file",
    ),
    (
        r"(?P<name>[^\s{]+)(?:\{[^}\n]+\})? was not found in the (?:package registry|provided package locations)",
        "{name} was not found; look at its name, at the index, and at the index's user and password",
    ),
    (
        r"there (?:is no version|are no versions) of (?P<name>\S+)",
        "{name} was not found; look at its name and version, or lock again if it is gone",
    ),
    (
        r"The package `(?P<name>[^`\n]+)` requires `(?P<what>[^`\n]+)`, but (?P<found>[^\n]+)",
        "{name} requires {what}, but {found}; lock again, so that the lock is complete",
    ),
    (
        r"No interpreter found for (?P<name>[^\n]+) in managed installations\n",
        "uv has no {name} to download; name another version",
    ),
    (
        r"No interpreter found (?P<where>[^\n]+)",
        "no interpreter found {where}; install that Python, name the path of another one, or use managed_python",
    ),
    (
        r"Failed to inspect Python interpreter from [^\n`]*`(?P<path>[^`\n]+)`",
        "{path} is no Python that works; name another one",
    ),
    (
        r"No solution found[^\n]* for split \(markers: (?P<where>[^\n]+)\)",
        "no versions fit together where {where}: {cause}; change the requirements, or lock for fewer Pythons",
    ),
    (r"No solution found", "no versions fit together: {cause}; change the requirements"),
)


def explain(text: str, status: int) -> str:
    """Put what uv said when it failed into one sentence, without passwords.

    :param status: The exit status.
    """
    text = _PASSWORD.sub("", text)
    host = _HOST.search(text)
    causes = _CAUSE.findall(text)
    known = {
        "host": host[1] if host else "the index",
        "cause": _one_line(causes[-1]) if causes else "uv does not say why",
        "built": _last_line(text.partition("[stderr]")[2].partition("\n\n")[0]) or "its build said nothing",
    }
    for pattern, meaning in _MEANINGS:
        match = re.search(pattern, text)
        if match:
            return meaning.format_map({**known, **match.groupdict()})
    said = text[text.find("error:") :] if "error:" in text else text
    return f"uv ended with status {status}: {_one_line(said) or 'it said nothing'}"


def _one_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= 400 else f"{line[:400]}…"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _one_line(lines[-1]) if lines else ""

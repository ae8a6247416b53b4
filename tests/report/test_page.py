# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's page in a real browser: small and large fleets, wide and narrow windows, light and dark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpufleet.models.plugins.plugin_utils._report import find_changes
from ansible_collections.gpufleet.models.plugins.plugin_utils._report_html import make_page
from tests.report.browser import Browser
from tests.report.results import MODELS, fleet

# Where to leave pictures to look at; by default they go with the test's directory.
_PICTURES = os.environ.get("REPORT_PICTURES")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def compared(hosts: int, models: int, failing: bool = True) -> dict[str, Any]:
    """Return the report of a fleet, compared with one where nothing had failed yet."""
    report = fleet(hosts, models, failing)
    before = fleet(hosts, models, False, seed=2)
    for row in before["hosts"]:
        row["models"][0]["commit"] = "f" * 40
    report["previous"] = {name: before[name] for name in ("ok", "started", "finished")}
    report["changes"] = list(find_changes(before, report))
    return report


def show(browser: Browser, report: dict[str, Any], directory: Path, width: int, scheme: str = "light") -> None:
    """Open a report's page, require that it is sound, and leave a picture of it."""
    path = directory / "report.html"
    path.write_bytes(make_page(report))
    browser.open(path, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    # Nobody has to scroll sideways.
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("document.querySelectorAll('script').length") == 0
    pictures = Path(_PICTURES) if _PICTURES else directory
    browser.screenshot(pictures / f"{len(report['hosts'])}-{width}-{scheme}.png")


def visible(browser: Browser, selector: str) -> list[str]:
    """Return the text of all elements that can be seen."""
    found: list[str] = browser.evaluate(
        f"[...document.querySelectorAll({selector!r})]"
        ".filter(element => { const box = element.getBoundingClientRect(); return box.width > 1 && box.height > 1; })"
        ".map(element => element.innerText)"
    )
    return found


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("hosts", "models"), [(2, 2), (100, 6)])
def test_the_page(browser: Browser, tmp_path: Path, hosts: int, models: int, scheme: str, width: int) -> None:
    report = compared(hosts, models, hosts > 2)
    show(browser, report, tmp_path, width, scheme)
    assert [name.split()[0] for name in visible(browser, ".matrix tbody th")] == [
        row["host"] for row in report["hosts"]
    ]
    cells = visible(browser, ".matrix tbody td:not(.empty)")
    assert len(cells) == sum(len(row["models"]) for row in report["hosts"])
    assert all("pass" in cell or "FAIL" in cell for cell in cells)
    assert len(visible(browser, "figure svg")) == 2 * models
    if width > 1000:
        assert [name.split("\n")[0] for name in visible(browser, ".matrix thead th")] == ["host", *MODELS[:models]]
    else:
        # The models' names stand in the fields, as there is no head.
        labels = browser.evaluate(
            "[...document.querySelectorAll('.matrix tr:first-child td')]"
            ".map(cell => getComputedStyle(cell, '::before').content)"
        )
        assert labels == [f'"{model}"' for model in MODELS[:models]]


def test_what_failed_what_is_slow_and_what_changed(browser: Browser, tmp_path: Path) -> None:
    show(browser, compared(12, 4), tmp_path, 1280)
    assert visible(browser, "h1") == ["✕NOT OK: 3 failures on 3 of 12 hosts"]
    failed = visible(browser, "#failures ~ table tbody tr")
    assert len(failed) == 3
    assert "gpu-02" in failed[0]
    assert "expected a cosine of at least 0.99999, found 0.867000" in failed[0]
    assert len(visible(browser, "path.out")) == 8
    assert all("slower than most: gpu-04" in caption for caption in visible(browser, "figcaption"))
    changes = visible(browser, "#changes ~ table tbody tr")
    assert any("all-MiniLM-L6-v2" in change and "11 hosts" in change for change in changes)
    assert any("content verified → damaged" in change and "gpu-05" in change for change in changes)


def test_text_can_be_told_from_its_ground(browser: Browser, tmp_path: Path) -> None:
    """Every text has the contrast that WCAG 2 asks for, 4.5 to 1, in both schemes."""
    for scheme in ("light", "dark"):
        show(browser, compared(12, 4), tmp_path, 1280, scheme)
        faint = browser.evaluate(_CONTRAST)
        assert faint == [], scheme


_CONTRAST = """(() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = color => {
    const [r, g, b] = parts(color).map(value => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((parts(color)[3] ?? 1) > 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('title')) continue;
    const style = getComputedStyle(element);
    const text = light(element.closest('svg') ? style.fill : style.color), behind = light(ground(element));
    const [most, least] = [Math.max(text, behind), Math.min(text, behind)];
    if ((most + 0.05) / (least + 0.05) < 4.5) faint.add(node.data.trim());
  }
  return [...faint];
})()"""


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    report = compared(3, 2, False)
    names = [
        "<script>alert(1)</script>",
        '"><img src=http://127.0.0.1:9/x onerror=alert(1)>',
        "{{ 7 * 7 }}" + "x" * 200,
    ]
    for row, name in zip(report["hosts"], names, strict=True):
        row["host"] = name
        row["models"][0]["model"] = "</title><svg onload=alert(1)>"
    report["changes"] = [{"host": names[0], "model": names[1], "what": "commit", "before": "<b>", "after": "<i>"}]
    for width in (1280, 400):
        show(browser, report, tmp_path, width)
        assert [name.partition("\n")[0] for name in visible(browser, ".matrix tbody th")] == names
        assert browser.evaluate("document.querySelectorAll('img').length") == 0


def test_no_host_at_all(browser: Browser, tmp_path: Path) -> None:
    show(browser, fleet(0), tmp_path, 400)
    assert visible(browser, "h1") == ["✕NOT OK: 1 failure on 0 of 0 hosts"]

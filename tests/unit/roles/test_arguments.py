# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A role's defaults and its argument specification say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROLES = sorted((Path(__file__).parents[3] / "roles").iterdir())

# Described where it is used, and named by no role: it is what people write.
CATALOG = "model_catalog"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_described_with_its_default(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    specification = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    described = {}
    for entry_point in specification.values():
        described.update(entry_point["options"])
    described.pop(CATALOG, None)
    assert set(described) == set(defaults)
    for name, option in described.items():
        assert name.startswith(f"{role.name}_")
        # A default that is a template cannot be told in a specification.
        if "{{" not in str(defaults[name]):
            assert option["default"] == defaults[name], name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_exists(role: Path) -> None:
    specification = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    for name in specification:
        assert (role / "tasks" / f"{name}.yml").is_file()

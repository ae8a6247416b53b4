# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  uv:
    description:
      - The program C(uv), by its path, or by its name in E(PATH) or beside the Python that runs the module.
    type: str
    default: uv
  index_url:
    description:
      - The index of packages, by default PyPI. It may hold a user and a password; they reach C(uv) through its
        environment alone, and no message shows them.
    type: str
  extra_index_urls:
    description:
      - Further indexes, asked before O(index_url).
    type: list
    elements: str
    default: []
  find_links:
    description:
      - Directories with wheels where the module runs, as absolute paths, or URLs of pages that link to wheels.
    type: list
    elements: str
    default: []
  offline:
    description:
      - Send no request at all; everything comes from O(find_links) and from what earlier runs left in the cache.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that all of the work may take.
    type: float
    default: 3600.0
requirements:
  - C(uv) 0.9 or later where the module runs.
notes:
  - Proxies and certificates are taken from the environment as usual (E(https_proxy), E(no_proxy), E(SSL_CERT_FILE)),
    and so are the settings of C(uv) itself, such as E(UV_HTTP_TIMEOUT). Its configuration files are not read.
"""

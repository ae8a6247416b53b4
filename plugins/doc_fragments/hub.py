# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  endpoint:
    description:
      - The Hub, or a mirror that speaks its protocol.
      - If not set, the environment variable E(HF_ENDPOINT) is used where the module runs, and then the default.
    type: str
    default: https://huggingface.co
  token:
    description:
      - The token for gated and private repositories. It is sent to O(endpoint) alone, never to where that redirects to.
      - If not set, the environment variable E(HF_TOKEN) is used where the module runs.
    type: str
notes:
  - Proxies and certificates are taken from the environment as usual (E(https_proxy), E(no_proxy), E(SSL_CERT_FILE)).
"""

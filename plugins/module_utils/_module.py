# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules share: their common arguments, and turning the engine's errors into one sentence for the user."""

from __future__ import annotations

import grp
import os
import pwd
import re
import threading
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import urlsplit

from ansible.module_utils.basic import env_fallback

from ._errors import InvalidInput, ModelsError, describe_os_error
from ._http import origin_of
from ._signals import cancel_on_signals
from ._source import Hub
from ._transfer import Limits
from ._work_record import require_name

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ROOT_ARGUMENT: dict[str, Any] = {"root": {"type": "path", "default": "/opt/models"}}

HUB_ARGUMENTS: dict[str, Any] = {
    "endpoint": {
        "type": "str",
        "default": "https://huggingface.co",
        "fallback": (env_fallback, ["HF_ENDPOINT"]),
    },
    "token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HF_TOKEN"])},
}

TRANSFER_ARGUMENTS: dict[str, Any] = {
    **HUB_ARGUMENTS,
    "connections": {"type": "int", "default": 8},
    "stall_timeout": {"type": "float", "default": 30.0},
    "timeout": {"type": "float"},
    "retries": {"type": "int", "default": 5},
}

# The name of the work, where the module is run detached; for the action plugins alone.
WORK_ARGUMENT: dict[str, Any] = {"_work": {"type": "str"}}

WRITER_ARGUMENTS: dict[str, Any] = {
    "lock_timeout": {"type": "float", "default": 60.0},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}


def hub_of(params: dict[str, Any]) -> Hub:
    """Return the Hub that a module's arguments name.

    :raises InvalidInput: When the endpoint is no URL, or the token cannot be sent.
    """
    endpoint, token = params["endpoint"], params["token"] or None
    try:
        origin_of(endpoint)
    except InvalidInput as error:
        raise InvalidInput(f"endpoint: {error}") from None
    if "@" in urlsplit(endpoint).netloc:  # it is not repeated: it may hold a password
        raise InvalidInput("endpoint: expected a URL without user and password; give a token")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InvalidInput("token: expected printable ASCII characters without blanks; was it pasted as a whole?")
    return Hub(endpoint, token)


def limits_of(params: dict[str, Any]) -> Limits:
    """Return a transfer's limits from a module's arguments.

    :raises InvalidInput: When one is out of its range.
    """
    for name, least, most in (("connections", 1, 64), ("stall_timeout", 1, 3600), ("retries", 0, 100)):
        if not least <= params[name] <= most:
            raise InvalidInput(f"{name}: expected {least} to {most}, found {params[name]}")
    if params["timeout"] is not None and params["timeout"] <= 0:
        raise InvalidInput(f"timeout: expected more than 0 seconds, found {params['timeout']}")
    return Limits(params["connections"], params["stall_timeout"], params["timeout"], params["retries"])


def owner_of(params: dict[str, Any]) -> tuple[int, int] | None:
    """Return the ids of the account that files shall belong to, or None for the one that runs the module.

    :raises InvalidInput: When this host knows no such user or group.
    """
    owner, group = params["owner"], params["group"]
    if owner is None and group is None:
        return None
    try:
        uid = os.geteuid() if owner is None else pwd.getpwnam(owner).pw_uid
        gid = -1 if group is None else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidInput(f"{error.args[0]}; make the account first, or name another one") from None
    return uid, gid


def root_of(params: dict[str, Any]) -> str:
    """Return the store's path.

    :raises InvalidInput: When it is not absolute.
    """
    root: str = params["root"]
    if not os.path.isabs(root) or "\0" in root:
        raise InvalidInput(f"root: expected an absolute path, found {root!r}")
    return root


def work_name_of(params: dict[str, Any]) -> str | None:
    """Return the name of the work that shall go on detached, or None.

    :raises StoreError: When it is none.
    """
    name: str | None = params["_work"]
    return None if name is None else require_name(name)


def run_module(module: AnsibleModule, work: Callable[[threading.Event], dict[str, Any]]) -> None:
    """Run a module's work and end the module with its result.

    ``work`` is given an event that a signal sets, and stops soon after. Its result may hold ``failed`` and ``msg``.
    """
    cancelled = threading.Event()
    cancel_on_signals(cancelled)
    try:
        result = work(cancelled)
    except ModelsError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = next(module.params[name] for name in ("root", "path", "dest") if module.params.get(name))
        module.fail_json(msg=describe_os_error(error, where))
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)

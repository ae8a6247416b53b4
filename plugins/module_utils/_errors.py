# Copyright (c) 2026, gpufleet.models contributors
# GNU General Public License v3.0-or-later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one family of errors of the engine.

Every error carries one sentence for the user: what failed, where, what was expected and found, and what to do.
"""

from __future__ import annotations


class ModelsError(Exception):
    """Base of all errors that the engine raises on purpose; ``str(error)`` is the sentence for the user."""


class InvalidInput(ModelsError):
    """A catalog, a lock or an argument that cannot be used as it is."""


class HubError(ModelsError):
    """The Hub refused or failed to answer a question about a repository or a file."""


class TransferError(ModelsError):
    """A file could not be received; what was received is kept for the next run."""


class ContentError(ModelsError):
    """Bytes are not the ones that the lock names, or do not form a valid file of their format."""


class StoreError(ModelsError):
    """The store on disk cannot be used: no space, no permission, planted links, another writer."""


class PythonError(ModelsError):
    """A Python environment could not be locked or made, or it does not work."""


class DriverError(ModelsError):
    """The GPU driver cannot be what is wanted on this host, or a repository does not offer it; nothing was changed."""


class Cancelled(ModelsError):
    """The work was stopped by a signal or by its deadline; what was received is kept for the next run."""


def describe_os_error(error: OSError, where: str) -> str:
    """Put an error of the operating system into one sentence.

    :param where: The store or the file that was worked on; the error itself may name an entry below it.
    """
    entry = f" ({error.filename})" if error.filename else ""
    return f"{where}: {error.strerror or error}{entry}; what is served was left as it was"

"""Serve a directory over HTTP and log requests: `python -m tests.hosts.serve ADDRESS PORT DIRECTORY LOG`."""

from __future__ import annotations

import functools
import http.server
import sys
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Writes one line for each request."""

    log_file: Path

    def log_message(self, template: str, *arguments: object) -> None:
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(f"{self.client_address[0]} {template % arguments}\n")


class Server(http.server.ThreadingHTTPServer):
    """Lets installers open as many connections at once as they like."""

    request_queue_size = 1024


def main() -> None:
    """Serve until killed."""
    address, port, directory, log = sys.argv[1:]
    Handler.log_file = Path(log)
    handler = functools.partial(Handler, directory=directory)
    Server((address, int(port)), handler).serve_forever()


if __name__ == "__main__":
    main()

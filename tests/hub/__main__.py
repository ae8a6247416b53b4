"""Run the Hub by itself: ``python3 -m tests.hub --repo ORG/NAME=DIRECTORY --port-file hub.json``."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

from .faults import Delay, Slow
from .hub import LOOPBACK, Hub


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.hub", description="A Hugging Face Hub on this machine.")
    parser.add_argument("--repo", action="append", default=[], metavar="ORG/NAME=DIRECTORY", type=_repository)
    parser.add_argument("--address", default=LOOPBACK, help="where to listen, default %(default)s")
    parser.add_argument("--port", type=int, default=0, help="port of the Hub, default any that is free")
    parser.add_argument("--cdn-port", type=int, default=0, help="port of the CDN, default any that is free")
    parser.add_argument("--port-file", type=Path, help="where to write endpoint, cdn and pid as JSON once ready")
    parser.add_argument("--rate", type=float, help="bytes a second for each connection")
    parser.add_argument("--delay", type=float, help="seconds by which every answer is late")
    parser.add_argument("--token", action="append", default=[], help="a token that is valid")
    parser.add_argument("--digest-cache", type=Path, help="file that keeps digests for the next start")
    arguments = parser.parse_args()

    # Blocked before any thread starts, as threads inherit it: the signal waits for sigwait.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Hub(
        tokens=arguments.token,
        port=arguments.port,
        cdn_port=arguments.cdn_port,
        digest_cache=arguments.digest_cache,
        address=arguments.address,
    ) as hub:
        for repo_id, directory in arguments.repo:
            hub.add_repo(repo_id, directory)
        if arguments.rate:
            hub.faults.add(Slow(arguments.rate))
        if arguments.delay:
            hub.faults.add(Delay(arguments.delay))
        if arguments.port_file:
            _write_port_file(arguments.port_file, hub)
        print(hub.endpoint, flush=True)
        signal.sigwait(signals)


def _repository(argument: str) -> tuple[str, Path]:
    repo_id, _separator, directory = argument.partition("=")
    if not Path(directory).is_dir() or not directory:
        raise argparse.ArgumentTypeError(f"{argument!r} names no directory, expected ORG/NAME=DIRECTORY")
    return repo_id, Path(directory)


def _write_port_file(path: Path, hub: Hub) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    content = {"endpoint": hub.endpoint, "cdn": hub.cdn_endpoint, "pid": os.getpid()}
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()

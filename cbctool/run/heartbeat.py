"""Signs of life of a watch: ``heartbeat.json`` for people and scripts, and the same as Prometheus text."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cbctool import __version__
from cbctool.errors import OutputError, UsageError
from cbctool.run import manifest

logger = logging.getLogger(__name__)

HEARTBEAT = "heartbeat.json"


class Heartbeat:
    """What a watch last said of itself.

    Parameters
    ----------
    out : Path
        The output folder.
    inbox : Path
        As it is named there.
    """

    def __init__(self, out: Path, inbox: Path) -> None:
        self.path = out / HEARTBEAT
        self.inbox = inbox
        self.counts: Mapping[str, int] = {}
        self.paused = False
        self._at = 0.0  # time.monotonic
        self._written = True

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._at

    def beat(self, state: str, counts: Mapping[str, int] | None) -> None:
        """Write time, state and counts (None: as before). What cannot be written is only logged, once."""
        self._at = time.monotonic()
        self.counts = self.counts if counts is None else counts
        beat = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": state,
            "counts": dict(self.counts),
            "inbox": str(self.inbox),
            "version": __version__,
        }
        try:
            manifest.write_atomically(self.path, json.dumps(beat) + "\n")
        except OutputError as error:
            if self._written:
                logger.warning("%s", error)
            self._written = False
        else:
            self._written = True


@contextmanager
def served(port: int | None, heart: Heartbeat) -> Iterator[None]:
    """Serve a heartbeat as Prometheus text on the loopback interface, if a port is given.

    Raises
    ------
    UsageError
        If the port cannot be used.
    """
    if port is None:
        yield
        return
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a client that says nothing holds no thread for ever

        def do_GET(self) -> None:
            body = metrics_text(heart.counts, heart.age_s, heart.paused).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            logger.debug(format, *args)

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise UsageError(f"--metrics-port {port}: cannot be used ({error.strerror}).", "Choose another.") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def metrics_text(counts: Mapping[str, int], beat_age_s: float, paused: bool) -> str:
    """Prometheus' text format."""
    lines = ["# HELP cbctool_slides Slides of the journal by state.", "# TYPE cbctool_slides gauge"]
    lines += [f'cbctool_slides{{state="{state}"}} {number}' for state, number in counts.items()]
    lines += ["# HELP cbctool_heartbeat_age_seconds Time since the last heartbeat."]
    lines += ["# TYPE cbctool_heartbeat_age_seconds gauge", f"cbctool_heartbeat_age_seconds {beat_age_s:.1f}"]
    lines += ["# HELP cbctool_paused Whether the watch waits for space or rights.", "# TYPE cbctool_paused gauge"]
    lines += [f"cbctool_paused {int(paused)}"]
    return "\n".join(lines) + "\n"

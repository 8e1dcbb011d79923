"""Real sample fields come from a server on loopback here: whole, once, and only with the right hash."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cbctool import cli
from cbctool.errors import ExitCode, InputError, OutputError
from cbctool.run import fetch_samples as module
from cbctool.run.fetch_samples import REGISTRY, fetch_samples

FILES = {"one.jpg": b"first field", "two.jpg": b"second field"}
PINS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


class Server(ThreadingHTTPServer):
    """Serves ``FILES`` and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        body = FILES.get(name)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def test_files_arrive_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        paths = fetch_samples(tmp_path / "new folder", server.url, PINS)
        assert [path.name for path in paths] == ["one.jpg", "two.jpg"]
        assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert server.asked == ["one.jpg", "two.jpg"]


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(b"first fie")
    fetch_samples(tmp_path, server.url, PINS)
    assert (tmp_path / "one.jpg").read_bytes() == FILES["one.jpg"]
    assert server.asked.count("one.jpg") == 1


def test_a_wrong_hash_is_refused_and_nothing_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the file that was pinned"):
        fetch_samples(tmp_path, server.url, {"one.jpg": "0" * 64})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_answer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="answered 404"):
        fetch_samples(tmp_path, server.url, {"three.jpg": "0" * 64})


def test_without_a_network_one_sentence_says_so(tmp_path: Path) -> None:
    with socket.socket() as listener:  # a port that nobody serves
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match="no connection") as caught:
            fetch_samples(tmp_path, f"http://127.0.0.1:{port}/", PINS, timeout_s=2)
    assert "network" in caught.value.advice


def test_a_file_in_the_way_of_the_folder_is_an_output_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        fetch_samples(tmp_path / "taken", server.url, PINS)


def test_command_prints_the_files(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_loopback(folder: Path, timeout_s: float) -> list[Path]:
        return fetch_samples(folder, server.url, PINS, timeout_s)

    monkeypatch.setattr(module, "fetch_samples", from_loopback)
    outcome = CliRunner().invoke(cli.app, ["fetch-samples", str(tmp_path)])
    logging.getLogger("cbctool").handlers.clear()
    assert outcome.exit_code == ExitCode.OK
    assert outcome.stdout.split() == [str(tmp_path / "one.jpg"), str(tmp_path / "two.jpg")]


@pytest.mark.real
def test_pins_are_those_of_the_real_fields(data: Path) -> None:
    for name, pin in REGISTRY.items():
        assert hashlib.sha256((data / "bccd" / "images" / name).read_bytes()).hexdigest() == pin

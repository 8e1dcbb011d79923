"""Feed a watched inbox in bursts, with faults, and account for everything: python scripts/soak.py [--slides 2000].

Runs a real `cbctool watch` on this machine alone, in a temporary folder, and stops by itself. Faults, over the run:
truncated pictures, pictures that change after they were done, the inbox renamed away and back, workers killed, the
watcher killed and started again. At the end every slide must be done exactly once in its last version, every broken one
failed, and memory and open files of the watcher must be flat: their medians over the last and the second quarter of the
run are compared (the first quarter warms up).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from cbctool.run.journal import status_text
from cbctool.synthetic.cells import RED_CELL
from cbctool.synthetic.render import render_field

BURST = 50


def pictures(count: int) -> list[bytes]:
    """Distinct small fields as JPEG."""
    result = []
    for seed in range(count):
        rgb, _ = render_field({RED_CELL: 45, "neutrophil": 2, "lymphocyte": 1}, (300, 400), um_per_px=0.25, seed=seed)
        result.append(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return result


def numbered(data: bytes, number: int) -> bytes:
    """The same picture with another comment: a content of its own."""
    comment = str(number).encode()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


class Soak:
    """One run: the watcher, what was put in, what was measured."""

    def __init__(self, folder: Path, slides: int, seed: int) -> None:
        self.inbox, self.out = folder / "inbox", folder / "reports"
        self.inbox.mkdir()
        self.slides = slides
        self.rng = np.random.default_rng(seed)
        self.good: dict[str, int] = {}  # slide -> number of its last version
        self.broken: set[str] = set()
        self.memory: list[tuple[int, float, int]] = []  # slides done, MB, open files
        self.restarts = self.kills = self.dropouts = self.changes = 0
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cbctool", "watch", str(self.inbox), "--out", str(self.out)]
        command += ["--settle", "0.5", "--poll", "0.5", "--min-free-gb", "0.2", "--quiet"]
        return subprocess.Popen(command, start_new_session=True)

    def counts(self) -> dict[str, int]:
        try:
            return dict(json.loads(status_text(self.out, as_json=True))["counts"])
        except Exception:
            return {}

    def put(self, name: str, data: bytes) -> None:
        temporary = self.inbox / f".{name}.part"
        temporary.write_bytes(data)
        temporary.rename(self.inbox / name)

    def fault(self, data: list[bytes]) -> None:
        """One fault, by chance."""
        kind = self.rng.integers(5)
        watcher = psutil.Process(self.process.pid)
        if kind == 0:
            workers = watcher.children(recursive=True)
            if workers:
                workers[int(self.rng.integers(len(workers)))].kill()
                self.kills += 1
        elif kind == 1:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = self.start()
            self.restarts += 1
        elif kind == 2:
            away = self.inbox.with_name("away")
            self.inbox.rename(away)
            time.sleep(1.5)
            away.rename(self.inbox)
            self.dropouts += 1
        else:
            for name in self.rng.choice(sorted(self.good), min(3, len(self.good)), replace=False):
                number = self.good[name] + 1_000_000
                self.put(f"{name}.jpg", numbered(data[number % len(data)], number))
                self.good[str(name)] = number
                self.changes += 1

    def measure(self, done: int) -> None:
        try:
            tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            self.memory.append((done, sum(p.memory_info().rss for p in tree) / 1e6, tree[0].num_fds()))
        except psutil.Error:
            pass  # between two processes

    def run(self) -> bool:
        data = pictures(16)
        number = 0
        while number < self.slides:
            for _ in range(min(BURST, self.slides - number)):
                name = f"s{number:05d}"
                if self.rng.random() < 0.02:
                    self.put(f"{name}.jpg", data[number % len(data)][: int(self.rng.integers(200, 8000))])
                    self.broken.add(name)
                else:
                    self.put(f"{name}.jpg", numbered(data[number % len(data)], number))
                    self.good[name] = number
                number += 1
            self.fault(data)
            self.wait(number, patience_s=240)
            print(f"{number} slides in, {self.counts()}, {self.memory[-1][1:] if self.memory else ''}", flush=True)
        self.wait(number, patience_s=600)
        self.process.terminate()
        ended = self.process.wait(60)
        return self.account(ended)

    def wait(self, expected: int, patience_s: float) -> None:
        """Until everything put in has been tried."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            counts = self.counts()
            self.measure(counts.get("done", 0))
            if counts.get("done", 0) + counts.get("failed", 0) >= expected and not counts.get("queued", 1):
                return
            time.sleep(0.5)

    def account(self, ended: int) -> bool:
        status = json.loads(status_text(self.out, as_json=True))
        states = {one["slide"]: one["state"] for one in status["slides"]}
        lost = [s for s in self.good if states.get(s) != "done" or not (self.out / s / "report.pdf").is_file()]
        import hashlib

        stale = []
        for slide in self.good:
            manifest = json.loads((self.out / slide / "manifest.json").read_text())
            content = hashlib.sha256((self.inbox / f"{slide}.jpg").read_bytes()).hexdigest()
            stale += [slide] if content not in manifest["inputs"].values() else []
        unexplained = [s for s in self.broken if states.get(s) != "failed"]
        rows = (self.out / "summary.csv").read_text(encoding="utf-8").splitlines()[1:]
        names = [row.split(",", 1)[0] for row in rows]
        twice = len(names) - len(set(names))
        missing = set(self.good) - set(names)
        quarter = len(self.memory) // 4
        second, last = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        mb = [statistics.median(m for _, m, _ in part) for part in (second, last)]
        files = [statistics.median(f for _, _, f in part) for part in (second, last)]
        leftovers = [p.name for p in self.out.iterdir() if p.name.startswith((".partial", ".replaced"))]
        print(f"{self.slides} slides put in: {len(self.good)} good, {len(self.broken)} broken")
        print(
            f"faults: {self.kills} workers killed, {self.restarts} watchers killed, {self.dropouts} dropouts,", end=" "
        )
        print(f"{self.changes} pictures changed")
        print(f"lost {len(lost)}, stale {len(stale)}, twice {twice}, not in summary.csv {len(missing)},", end=" ")
        print(f"broken without a reason {len(unexplained)}, left over {leftovers}, ended with {ended}")
        print(f"memory {mb[0]:.0f} MB -> {mb[1]:.0f} MB, open files {files[0]:.0f} -> {files[1]:.0f}")
        flat = mb[1] < 1.15 * mb[0] and files[1] <= files[0] + 8
        clean = not (lost or stale or twice or missing or unexplained or leftovers or ended)
        return clean and flat


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cbctool-soak-") as scratch:
        good = Soak(Path(scratch), options.slides, options.seed).run()
    print(f"{'all accounted for' if good else 'NOT ALL RIGHT'} after {time.monotonic() - began:.0f} s")
    sys.exit(0 if good else 1)

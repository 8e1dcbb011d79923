"""Feed a watched inbox in bursts, with faults, and account for everything: python scripts/soak.py [--slides 2000].

Runs a real `cbctool watch` on this machine alone, in a temporary folder, and stops by itself. One slide in ten is a
folder of two fields, of which the second comes late. Faults, in turn, while a burst is being worked on: a worker
killed, the watcher killed and started again, the inbox renamed away and back, pictures that change after they were
done, the watcher stopped and started again, the journal locked; and one picture in fifty is cut short. In the second
half the watcher is neither killed nor stopped. At the end every slide must be done exactly once in its last version,
every broken one failed, and memory and open files of the watcher must be flat: their medians over the last and the
second quarter of the second half are compared, in which one process has done all the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

from cbctool.run.journal import NAME, status_text
from cbctool.synthetic.cells import RED_CELL
from cbctool.synthetic.render import render_field

BURST = 50
FAULTS = ("worker", "kill", "dropout", "change", "stop", "lock")
FAULTS_OF_ONE_PROCESS = ("worker", "dropout", "change", "lock")


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
        self.data = pictures(16)
        self.good: set[str] = set()
        self.broken: set[str] = set()
        self.memory: list[tuple[float, int]] = []  # MB of the whole tree, open files of the watcher
        self.faults = dict.fromkeys(FAULTS, 0)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cbctool", "watch", str(self.inbox), "--out", str(self.out)]
        command += ["--settle", "0.5", "--settle-folder", "2", "--poll", "0.5", "--min-free-gb", "0.2", "--quiet"]
        return subprocess.Popen(command, start_new_session=True)

    def counts(self) -> dict[str, int]:
        try:
            return dict(json.loads(status_text(self.out, as_json=True))["counts"])
        except Exception:
            return {}

    def put(self, name: str, data: bytes) -> None:
        place = self.inbox / name
        place.parent.mkdir(exist_ok=True)
        temporary = place.with_name(f".{place.name}.part")
        temporary.write_bytes(data)
        temporary.rename(place)

    def picture(self, number: int) -> bytes:
        return numbered(self.data[number % len(self.data)], number)

    def burst(self, numbers: range) -> list[int]:
        """Put slides in; the numbers of those that still lack a field come back."""
        late = []
        for number in numbers:
            name = f"s{number:05d}"
            if self.rng.random() < 0.02:
                self.put(f"{name}.jpg", self.picture(number)[: int(self.rng.integers(200, 8000))])
                self.broken.add(name)
                continue
            self.good.add(name)
            if number % 10:
                self.put(f"{name}.jpg", self.picture(number))
            else:
                self.put(f"{name}/1.jpg", self.picture(number))
                late.append(number)
        return late

    def fault(self, kind: str) -> None:
        self.faults[kind] += 1
        if kind == "worker":
            watcher = psutil.Process(self.process.pid)
            workers = [p for p in watcher.children() if "spawn_main" in " ".join(p.cmdline())]
            if workers:
                workers[int(self.rng.integers(len(workers)))].kill()
        elif kind == "kill":
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = self.start()
        elif kind == "stop":
            self.process.terminate()
            if self.process.wait(60) != 0:
                raise SystemExit("SIGTERM did not end the watcher with 0")
            self.process = self.start()
        elif kind == "dropout":
            away = self.inbox.with_name("away")
            self.inbox.rename(away)
            time.sleep(3)
            away.rename(self.inbox)
        elif kind == "lock":
            holder = sqlite3.connect(self.out / NAME, isolation_level=None, timeout=60)
            holder.execute("BEGIN EXCLUSIVE")
            time.sleep(3)
            holder.close()
        else:
            for name in self.rng.choice(sorted(self.good), min(3, len(self.good)), replace=False):
                number = int(self.rng.integers(1_000_000, 2_000_000))
                whole = (self.inbox / f"{name}.jpg").exists()
                self.put(f"{name}.jpg" if whole else f"{name}/1.jpg", self.picture(number))

    def measure(self) -> None:
        try:
            tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            self.memory.append((sum(p.memory_info().rss for p in tree) / 1e6, tree[0].num_fds()))
        except psutil.Error:
            pass  # between two processes

    def run(self) -> bool:
        half = self.slides // 2
        for burst, first in enumerate(range(0, self.slides, BURST)):
            last = min(first + BURST, self.slides)
            faults = FAULTS if first < half else FAULTS_OF_ONE_PROCESS
            fault = faults[burst % len(faults)]
            if first < half:
                self.memory.clear()
            late = self.burst(range(first, last))
            self.wait(first + (last - first) // 2, patience_s=120)  # in the middle of the work
            for number in late:
                self.put(f"s{number:05d}/2.jpg", self.picture(number + 500_000))
            self.fault(fault)
            self.wait(last, patience_s=240)
            at = "{:.0f} MB, {} files".format(*self.memory[-1]) if self.memory else ""
            print(f"{last} slides in, {fault}: {self.counts()}, {at}", flush=True)
        self.wait(self.slides, patience_s=600)
        settled = time.monotonic() + 60
        while self.stale() and time.monotonic() < settled:  # what was changed last
            time.sleep(1)
        self.process.terminate()
        return self.account(self.process.wait(60))

    def wait(self, expected: int, patience_s: float) -> None:
        """Until so many have been tried, and everything that was put in if that is expected."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            counts = self.counts()
            self.measure()
            tried = counts.get("done", 0) + counts.get("failed", 0)
            everything = expected >= len(self.good) + len(self.broken)
            if tried >= expected and not (everything and counts.get("queued", 1)):
                return
            time.sleep(0.5)

    def stale(self) -> list[str]:
        """Slides whose report is not of what lies in the inbox now."""
        found = []
        for slide in sorted(self.good):
            place = self.inbox / slide
            files = list(place.iterdir()) if place.is_dir() else [place.with_suffix(".jpg")]
            content = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
            try:
                done = json.loads((self.out / slide / "manifest.json").read_text())
            except OSError:
                done = {"inputs": {}}
            if set(done["inputs"].values()) != content:
                found.append(slide)
        return found

    def account(self, ended: int) -> bool:
        status = json.loads(status_text(self.out, as_json=True))
        states = {one["slide"]: one["state"] for one in status["slides"]}
        lost = [s for s in self.good if states.get(s) != "done" or not (self.out / s / "report.pdf").is_file()]
        stale = self.stale()
        unexplained = [s for s in self.broken if states.get(s) != "failed"]
        rows = (self.out / "summary.csv").read_text(encoding="utf-8").splitlines()[1:]
        names = [row.split(",", 1)[0] for row in rows]
        twice = len(names) - len(set(names)) + len(set(states) - self.good - self.broken)
        missing = (self.good | self.broken) - set(names)
        quarter = len(self.memory) // 4
        second, last = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        mb = [statistics.median(m for m, _ in part) for part in (second, last)]
        files = [statistics.median(f for _, f in part) for part in (second, last)]
        leftovers = [p.name for p in self.out.iterdir() if p.name.startswith((".partial", ".replaced"))]
        print(f"{self.slides} slides put in: {len(self.good)} good, {len(self.broken)} broken")
        print(f"faults: {', '.join(f'{number} {kind}' for kind, number in self.faults.items())}")
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

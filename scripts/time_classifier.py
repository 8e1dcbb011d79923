"""Cells a second of the default and the study's network, side by side: ``python scripts/time_classifier.py``.

Prints wall time and, for machines that are busy with other work, cells per second of processor time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from cbctool.classifier import Classifier


def main() -> None:
    """Time both networks on random crops."""
    import torch  # after cbctool.classifier, which tells its threads to sleep while they wait

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cells", type=int, default=6000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    crops = np.random.default_rng(0).integers(0, 256, (options.cells, 28, 28, 3), dtype=np.uint8)
    for name in ("default", "paper"):
        classifier = Classifier(Path(name), options.device)
        classifier.classify(crops[:500])
        wall, busy = time.perf_counter(), time.process_time()
        classifier.classify(crops)
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        print(f"{name}: {len(crops) / wall:,.0f} cells/s, {len(crops) / busy:,.0f} per second of processor time")


if __name__ == "__main__":
    main()

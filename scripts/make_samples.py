"""Draw the sample slides and their truth into samples/: python scripts/make_samples.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2

from cbctool.synthetic.samples import truth_csv, write_samples

if __name__ == "__main__":
    cv2.setNumThreads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "samples"
    pictures = write_samples(folder)
    (folder / "truth.csv").write_text(truth_csv(), encoding="utf-8")
    print(f"{len(pictures)} pictures, {sum(p.stat().st_size for p in pictures) / 1e6:.1f} MB in {folder}")

"""Make the README's pictures from samples/: python scripts/make_pictures.py (needs pdftoppm, of poppler-utils)."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import cv2

from cbctool.run.analyse import analyse
from cbctool.run.pipeline import Settings

CHECKOUT = Path(__file__).parents[1]
SLIDE = "immature-granulocytes-nrbc"

if __name__ == "__main__":
    docs = CHECKOUT / "docs"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "reports"
        analyse(CHECKOUT / "samples" / SLIDE, Settings(out=out), one_slide=SLIDE)
        page = Path(scratch) / "page"
        report = out / SLIDE / "report.pdf"
        subprocess.run(["pdftoppm", "-r", "110", "-l", "1", "-singlefile", "-png", report, page], check=True)

        picture = cv2.imread(str(page.with_suffix(".png")))
        cv2.imwrite(str(docs / "report.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        overlay = cv2.imread(str(next((out / SLIDE).glob("overlay_*.jpg"))))
        cv2.imwrite(str(docs / "overlay.jpg"), overlay, [cv2.IMWRITE_JPEG_QUALITY, 85])

"""What several tests need: the real data if it is there, and a small folder of drawn slides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared: a deadline would fail where a neighbour is busy, and say nothing about the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data beside the checkout; the test is skipped where it is absent."""
    folder = Path(os.environ.get("CBCTOOL_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real data at {folder}; set CBCTOOL_DATA")
    return folder


@pytest.fixture(scope="session")
def drawn_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one slide of two fields and one single picture, 512 x 384 at 0.25 um/px, drawn by the renderer."""
    import cv2

    from cbctool.synthetic.cells import RED_CELL
    from cbctool.synthetic.render import render_field

    folder = tmp_path_factory.mktemp("slides")
    (folder / "two-fields").mkdir()
    for seed, name in enumerate(("two-fields/1.png", "two-fields/2.png", "single.png")):
        cells = {RED_CELL: 60, "neutrophil": 4, "lymphocyte": 2, "platelet": 3}
        rgb, _ = render_field(cells, (384, 512), um_per_px=0.25, seed=seed)
        cv2.imwrite(str(folder / name), rgb[..., ::-1])
    return folder

"""Train the default weights: ``python scripts/train_default.py --data ../shared/data --out /tmp/default``.

The frames are prepared once (minutes) and kept in the output folder, so that a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cbctool.classifier.train import RECIPES, Pictures
from cbctool.run.prepare_pbc import prepare_pbc
from cbctool.run.train import TrainingData, TrainRequest, train_prepared


def main() -> None:
    """Prepare, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with pbc/ and bloodmnist/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, card and checkpoint")
    parser.add_argument("--cache", type=Path, help="prepared data (.npz), made where it is not there")
    parser.add_argument("--epochs", type=int, default=RECIPES["default"].epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data = load_data(options.data, options.cache or options.out.with_suffix(".npz"))
    recipe = replace(RECIPES["default"], epochs=options.epochs, seed=options.seed, device=options.device)
    report = train_prepared(data, recipe, TrainRequest(out=options.out, seed=options.seed))
    print(f"{report.weights}: test accuracy {report.test['accuracy']:.4f}")


def load_data(folder: Path, cache: Path) -> TrainingData:
    """The prepared data, from ``cache`` where it was made before."""
    if not cache.is_file():
        data = prepare_pbc(folder / "pbc", folder / "bloodmnist" / "bloodmnist.npz")
        arrays = {"outliers": data.outliers, "source": np.array(data.source), "licence": np.array(data.licence)}
        for name in ("train", "val", "test"):
            part: Pictures = getattr(data, name)
            arrays |= {f"{name}_pictures": part.pictures, f"{name}_labels": part.labels}
            arrays[f"{name}_window"] = np.array(part.window_px)
        np.savez(cache, **arrays)  # type: ignore[arg-type]
    with np.load(cache, allow_pickle=False) as file:
        parts = {
            name: Pictures(file[f"{name}_pictures"], file[f"{name}_labels"], float(file[f"{name}_window"]))
            for name in ("train", "val", "test")
        }
        return TrainingData(
            parts["train"],
            parts["val"],
            parts["test"],
            str(file["source"]),
            outliers=file["outliers"],
            licence=str(file["licence"]),
        )


if __name__ == "__main__":
    main()

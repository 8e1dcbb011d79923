"""Train the default weights: ``python scripts/train_default.py --data ../shared/data --out /tmp/default``.

Two stages: a whole schedule, then the mean of the weights along a walk at a constant, low rate (stochastic weight
averaging, Izmailov et al. 2018, arXiv 1803.05407), which costs nothing at home and knows better what is none of the
eight classes.

The frames are prepared once (minutes) and kept beside the output folder; a killed run goes on where it was. On a busy
machine two processes of one thread each, which divide the batches, are faster than two threads:
``python -m torch.distributed.run --nproc_per_node 2 scripts/train_default.py ... --threads 1``.
"""

from __future__ import annotations

import argparse
import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported; why: cbctool/classifier/__init__.py

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from cbctool.classifier.model import SmearNet
from cbctool.classifier.train import RECIPES, Epoch, Pictures, fit
from cbctool.records import CLASSES, CellClass
from cbctool.run.prepare_pbc import prepare_pbc
from cbctool.run.train import TrainingData, TrainRequest, finish

FIRST = replace(RECIPES["default"], epochs=160)
SECOND = replace(FIRST, epochs=24, learning_rate=0.03, schedule=False, warm_up=0.0, average=0.9995, forget=1.0)


USUAL = {
    CellClass.NEUTROPHIL: 0.55,
    CellClass.LYMPHOCYTE: 0.30,
    CellClass.MONOCYTE: 0.07,
    CellClass.EOSINOPHIL: 0.03,
    CellClass.BASOPHIL: 0.01,
    CellClass.IMMATURE_GRANULOCYTE: 0.04,
    CellClass.ERYTHROBLAST: 0.02,
    CellClass.PLATELET: 0.30,
}
"""About what a laboratory's windows show, in parts of its leukocytes: the middle of the reference intervals, a few
percent of what is rare in health, and platelets. PBC has one lymphocyte to 2.4 immature granulocytes. Their square root
is expected elsewhere: half-way to all classes alike, since those whose smear is made are often not healthy."""


def main() -> None:
    """Prepare, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with pbc/ and bloodmnist/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, card and checkpoints")
    parser.add_argument("--cache", type=Path, help="prepared data (.npz), made where it is not there")
    parser.add_argument("--epochs", type=int, default=FIRST.epochs, help="of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    first_member = not dist.is_initialized() or dist.get_rank() == 0
    data = load_data(options.data, options.cache or options.out.with_suffix(".npz"))
    history: tuple[Epoch, ...] = ()
    start = None
    stages = {"first": replace(FIRST, epochs=options.epochs), "second": SECOND}
    for number, (name, stage) in enumerate(stages.items()):
        recipe = replace(stage, seed=options.seed + 100 * number, device=options.device)
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        trained = fit(data.train, data.val, recipe, folder, data.outliers, start)
        start = trained.network.state_dict()
        history += tuple(replace(epoch, epoch=len(history) + epoch.epoch) for epoch in trained.history)
    assert isinstance(trained.network, SmearNet)
    frequencies = torch.bincount(torch.from_numpy(data.train.labels), minlength=len(CLASSES)).float()
    trained.network.expect_elsewhere(frequencies, torch.tensor([USUAL[name] for name in CLASSES]).sqrt())
    if first_member:
        request = TrainRequest(out=options.out, seed=options.seed)
        report = finish(data, replace(trained, history=history), replace(recipe, seed=options.seed), request)
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

"""What each part of the default recipe is worth: ``python scripts/ablate.py --data ../shared/data --cache x.npz``.

Short trainings (12 epochs, 3 to 4 minutes each on one core) that differ in one thing, each with its accuracy on val,
on 336 of val's frames in other laboratories' colours (``--insult restain``) and on BCCD's train leukocytes (another
laboratory's; both all eight classes and own segmentation) as a row of Markdown. They
compare parts; they say little about what a whole training reaches. Four cells of BCCD are 2 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import check_classifier
import numpy as np
import torch
from torch import Tensor, nn
from train_default import load_data

from cbctool.classifier import train
from cbctool.classifier.train import RECIPES, TrainOptions, fit, outputs
from cbctool.run.insult import parse_insult
from cbctool.run.score_crops import auroc

WHOLE = replace(RECIPES["default"], epochs=12)

VARIANTS: dict[str, Callable[[TrainOptions], TrainOptions]] = {
    "the recipe": lambda o: o,
    "SGD instead of Muon": lambda o: replace(o, muon=False),
    "one readout for all colours": lambda o: o,
    "one readout, no cell in its own colours": lambda o: _augment(o, plain=0.0),
    "no colours part of the way": lambda o: _augment(o, near=0.0),
    "no crop restained": lambda o: _augment(o, restained=0.0),
    "no camera's saturation": lambda o: _augment(o, vivid=0.0),
    "no cell dried or spread otherwise than its surroundings": lambda o: _augment(o, dried=0.0),
    "no red cells laid around": lambda o: _augment(o, crowded=0.0),
    "no swollen lymphocytes": lambda o: replace(o, swollen=0),
    "widths 32 and 96": lambda o: replace(o, arguments={"widths": (32, 96)}),
}


def main() -> None:
    """Print a row per variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="prepared data, as of train_default.py")
    parser.add_argument("--crops", type=Path, help="cut crops, as of check_classifier.py --cache (split train)")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--epochs", type=int, default=WHOLE.epochs)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data, options.cache)
    if options.crops is not None and options.crops.is_file():
        cut = dict(np.load(options.crops))
    else:
        cut = check_classifier.cut_all(options.data, "train")
    restained = check_classifier.cut_pbc(options.data / "pbc", parse_insult("restain"))
    print(f"| {options.epochs} epochs | val | val, restained | BCCD | blasts, AUROC |")
    print("|---|---|---|---|---|", flush=True)
    for name in options.only:
        recipe = VARIANTS[name](replace(WHOLE, epochs=options.epochs))
        with mock.patch.object(train, "_read", _one_readout if name.startswith("one readout") else train._read):
            network = fit(data.train, data.val, recipe, None, data.outliers).network
        if name.startswith("one readout"):
            always_own(network)
        val = accuracy(network, data.val.pictures, data.val.labels)
        stained, bccd = (accuracy(network, *_named(cells, name)) for name, cells in (("pbc", restained), ("bccd", cut)))
        healthy, blasts = (outputs(network, cut[f"idb_{kind}"])[1] for kind in ("healthy", "blast"))
        print(f"| {name} | {val:.1%} | {stained:.1%} | {bccd:.1%} | {auroc(healthy, blasts):.2f} |", flush=True)


def always_own(network: nn.Module) -> None:
    """Let the gate choose the own readout whatever it sees: the other one was not trained."""
    *_, weight, bias = network.gate.parameters()
    nn.init.zeros_(weight)
    nn.init.constant_(bias, 100.0)


def accuracy(network: nn.Module, crops: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Share of crops whose highest logit is their label's."""
    return float((outputs(network, crops)[0].argmax(axis=1) == labels).mean())


def _named(cut: dict[str, Any], source: str) -> tuple[Any, Any]:
    return cut[f"{source}_crops"], np.where(cut[f"{source}_found"], cut[f"{source}_labels"], -1)


def _augment(options: TrainOptions, **changes: float) -> TrainOptions:
    assert options.augment is not None
    return replace(options, augment=replace(options.augment, **changes))


_as_it_is = train._read


def _one_readout(network: nn.Module, crops: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return _as_it_is(network, crops, torch.ones_like(own))


if __name__ == "__main__":
    main()

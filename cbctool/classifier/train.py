"""Training: pictures and labels in, a network out. Reading and preparing the pictures is somebody else's work.

The schedule is warm-up and half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983); what is kept is an exponential
average of the weights along the way (Tarvainen & Valpola 2017, arXiv 1703.01780), which generalises better than the
last step. Each epoch draws from its own seed, so that a killed training resumes to the same result. Where a process
group of torch.distributed is running, its members divide each batch between them and share their gradients.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cbctool.classifier import augment
from cbctool.classifier.model import SmearNet
from cbctool.classifier.muon import Muon
from cbctool.classifier.predict import fast_bfloat16, find_device
from cbctool.classifier.unknown import unknown_score
from cbctool.classifier.weights import build, write_whole
from cbctool.records import CLASSES, CellClass

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"

_MUON_SHARE = 0.2
"""Muon's rate over SGD's: 0.02, Jordan et al.'s, beside 0.1."""


@dataclass(frozen=True)
class TrainOptions:
    """A recipe. ``augment`` None trains on the windows as they are.

    ``muon`` moves filters by Muon instead of SGD, at a fifth of the rate; ``average`` is the decay per step of the
    averaged weights (0: the last step's are kept), and ``forget`` how quickly they leave the start behind (1: they are
    the mean of all steps, until ``average`` is reached); ``warm_up`` the share of the steps with rising learning rate,
    after which it falls as half a cosine (``schedule`` False: constant); ``outliers`` the outliers per batch, and
    ``swollen`` the lymphocytes beside them that are swollen to the look of a blast; ``patience`` the epochs without a
    better validation loss before stopping (0: never); ``mixed`` computes in bfloat16 where the hardware does;
    ``least_steps`` the steps that pictures too few for them in ``epochs`` get all the same.
    """

    architecture: str = "smear"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 40
    batch: int = 128
    learning_rate: float = 0.1
    muon: bool = True
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.05
    schedule: bool = True
    average: float = 0.998
    forget: float = 9.0
    outliers: int = 16
    swollen: int = 6
    augment: augment.AugmentOptions | None = field(default_factory=augment.AugmentOptions)
    patience: int = 0
    mixed: bool = True
    least_steps: int = 0
    seed: int = 0
    device: str = "auto"


RECIPES: dict[str, TrainOptions] = {
    # what 40 epochs come to with 1,300 cells; 140 cells would get 40 steps, too few for another laboratory's stain
    "default": TrainOptions(least_steps=400),
    "paper": TrainOptions(
        architecture="paper",
        epochs=10,
        learning_rate=0.02,
        muon=False,
        weight_decay=0.0,
        warm_up=0.0,
        schedule=False,
        average=0.0,
        outliers=0,
        swollen=0,
        augment=None,
        mixed=False,
    ),
}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Training pictures (N, S, S, 3) uint8 with the cell in the middle, and their labels (N,).

    ``window_px`` is the side of the classifier's 19 um window in them; what lies outside it is there to be shifted and
    turned into view. Windows without such a margin have ``window_px`` equal to S.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    window_px: float


@dataclass(frozen=True)
class Epoch:
    """One line of the training curves."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Step:
    """What a progress bar shows: running loss and accuracy of the training batches."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The network at its best validation loss (the last epoch's, where nothing stops early) and the curves."""

    network: nn.Module
    history: tuple[Epoch, ...]


def fit(
    train: Pictures,
    val: Pictures,
    options: TrainOptions,
    folder: Path | None = None,
    outliers: NDArray[np.uint8] | None = None,
    start: Mapping[str, Tensor] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train a network.

    Parameters
    ----------
    train : Pictures
    val : Pictures
        Windows of 28 x 28 pixels.
    options : TrainOptions
    folder : Path, optional
        Where the checkpoint of each epoch is kept; one of the same options and data is gone on from.
    outliers : (M, S, S, 3) uint8 array, optional
        Pictures of no cell, at the scale of ``train``.
    start : mapping of tensors, optional
        Weights to begin from.
    on_step, on_epoch : callables, optional

    Returns
    -------
    Trained
    """
    device = find_device(options.device)
    torch.manual_seed(options.seed)
    network = build(options.architecture, options.arguments)
    if start is not None:
        network.load_state_dict(dict(start))
    elif options.augment is None and isinstance(network, SmearNet):
        network.expect_own()
    network.to(memory_format=torch.channels_last).to(device)
    mixed = options.mixed and (device.type == "cuda" or (device.type == "cpu" and fast_bfloat16()))
    average = copy.deepcopy(network)
    best = copy.deepcopy(network)
    optimizers = _optimizers(network, options)
    history: list[Epoch] = []
    stamp = json.dumps([asdict(options), _digest(train, val, outliers, start)], default=str)
    if folder is not None:
        history = _resume(folder / CHECKPOINT, stamp, network, average, best, optimizers)
    members, member = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    steps = max(len(train.labels) // options.batch, 1)
    epochs = max(options.epochs, -(-options.least_steps // steps))
    for epoch in range(len(history), epochs):
        if _stopped(history, options.patience):
            break
        order = np.random.default_rng([options.seed, epoch]).permutation(len(train.labels))
        rng = np.random.default_rng([options.seed, epoch, member])
        network.train()
        losses, hits, seen = 0.0, 0, 0
        for step in range(steps):
            share = _rate_share(options, epoch * steps + step, epochs * steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["full_rate"]
            chosen = order[step * options.batch : (step + 1) * options.batch][member::members]
            pictures, plain = _batch(train, chosen, outliers, members, rng, options)
            crops, own = pictures.to(device, non_blocking=True), torch.from_numpy(plain).to(device)
            labels = torch.from_numpy(train.labels[chosen]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                logits, unlike, gate = _read(network, crops, own)
            loss = F.cross_entropy(logits[: len(chosen)], labels)
            total = loss
            if len(crops) > len(chosen):
                strange = (torch.arange(len(crops), device=device) >= len(chosen)).float()
                total = total + 0.5 * F.binary_cross_entropy_with_logits(unlike, strange)
            if gate is not None:
                total = total + 0.3 * F.binary_cross_entropy_with_logits(gate, own.float())
            network.zero_grad()
            total.backward()
            if members > 1:
                _share_gradients(network, members)
            for optimizer in optimizers:
                optimizer.step()
            _update_average(average, network, options, epoch * steps + step)
            losses += loss.item() * len(chosen)
            hits += int((logits[: len(chosen)].argmax(1) == labels).sum())
            seen += len(chosen)
            if on_step is not None:
                on_step(Step(epoch + 1, epochs, step + 1, steps, losses / seen, hits / seen))
        val_loss, val_accuracy = _validate(average, val, device)
        settled = options.average and not options.patience  # averaged weights are best at the end
        if settled or val_loss < min((e.val_loss for e in history), default=np.inf):
            best.load_state_dict(average.state_dict())
        history.append(Epoch(epoch + 1, losses / seen, hits / seen, val_loss, val_accuracy))
        logger.info(
            "epoch %d: %s", epoch + 1, ", ".join(f"{k} {v:.4g}" for k, v in list(asdict(history[-1]).items())[1:])
        )
        if folder is not None and member == 0:
            _save_checkpoint(folder / CHECKPOINT, stamp, history, network, average, best, optimizers)
        if on_epoch is not None:
            on_epoch(history[-1])
    return Trained(best.to("cpu").eval(), tuple(history))


def outputs(network: nn.Module, crops: NDArray[np.uint8], batch: int = 256) -> tuple[NDArray[Any], NDArray[Any]]:
    """Raw logits (N, 8) and unknown-scores (N,) of crops, on the network's own device."""
    device = next(network.parameters()).device
    network.eval()
    logits, unlike = [], []
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            one, two = network(torch.from_numpy(crops[start : start + batch]).to(device))
            logits.append(one.float().cpu().numpy())
            unlike.append(two.float().cpu().numpy())
    stacked = np.concatenate(logits)
    return stacked, unknown_score(stacked, np.concatenate(unlike))


def _batch(
    train: Pictures,
    chosen: NDArray[np.int64],
    outliers: NDArray[np.uint8] | None,
    members: int,
    rng: np.random.Generator,
    options: TrainOptions,
) -> tuple[Tensor, NDArray[np.bool_]]:
    """The chosen cells, then this member's share of what is none (outliers, swollen lymphocytes); which are plain."""
    lymphocytes = np.flatnonzero(train.labels == CLASSES.index(CellClass.LYMPHOCYTE))
    foreigners = options.outliers // members if outliers is not None else 0
    # a laboratory's own windows have no margin; swelling their lymphocytes all the same marked blasts no better
    swells = options.augment is not None and train.pictures.shape[1] > train.window_px and len(lymphocytes) > 0
    swollen = options.swollen // members if swells else 0
    parts = [train.pictures[chosen]]
    if outliers is not None and foreigners:
        parts.append(outliers[rng.integers(len(outliers), size=foreigners)])
    if swollen:
        parts.append(train.pictures[lymphocytes[rng.integers(len(lymphocytes), size=swollen)]])
    pictures = np.concatenate(parts)
    if options.augment is None:
        return torch.from_numpy(pictures), np.ones(len(pictures), bool)
    platelets = np.zeros(len(pictures), bool)
    platelets[: len(chosen)] = train.labels[chosen] == CLASSES.index(CellClass.PLATELET)
    plain = rng.random(len(pictures)) < options.augment.plain
    if outliers is not None and train.pictures.shape[1] > train.window_px:
        crowded = np.flatnonzero((rng.random(len(chosen)) < options.augment.crowded) & ~plain[: len(chosen)])
        others = outliers[rng.integers(len(outliers), size=len(crowded))]
        pictures[crowded] = augment.crowd(pictures[crowded], others, train.window_px, rng)
    spread = augment.draw_spread(platelets, plain, rng, options.augment)
    spread[len(chosen) :] = 1.0
    spread[len(pictures) - swollen :] = augment.draw_swelling(swollen, rng, options.augment)
    turned = augment.geometry(pictures, platelets, plain, train.window_px, rng, options.augment, spread)
    return augment.light(torch.from_numpy(turned), plain, rng, options.augment), plain


def _read(network: nn.Module, crops: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Class logits (B, 8), logit of being none (B,) and of being stained as in training (B,; None without a gate).

    Each crop teaches the readout that its colours call for.
    """
    if not isinstance(network, SmearNet):
        logits, unlike = network(crops)
        return logits.float(), unlike.float(), None
    gate, at_home, elsewhere = network.readouts(crops)
    read = torch.where(own[:, None], at_home, elsewhere).float()
    return read[:, :-1], read[:, -1], gate.float()


def _digest(
    train: Pictures, val: Pictures, outliers: NDArray[np.uint8] | None, start: Mapping[str, Tensor] | None
) -> str:
    """sha256 of all that a training begins with: a checkpoint of relabelled cells or other weights is another's."""
    digest = hashlib.sha256()
    for array in (train.pictures, train.labels, val.pictures, val.labels, outliers):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    for name, tensor in sorted((start or {}).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _optimizers(network: nn.Module, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for filters where it is asked for, SGD for the rest; each group knows its ``full_rate``.

    Weight decay on matrices and filters only: it would pull norms and biases towards a dead network.
    """
    named = list(network.named_parameters())
    filters = [p for name, p in named if options.muon and name.startswith("convolutions.") and p.ndim > 1]
    rest = [p for _, p in named if not any(p is taken for taken in filters)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=True)
    ]
    if filters:
        optimizers.append(Muon(filters, lr=_MUON_SHARE * options.learning_rate))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def _rate_share(options: TrainOptions, step: int, total: int) -> float:
    """Share of the full learning rate at a step."""
    if not options.schedule:
        return 1.0
    rise = max(options.warm_up * total, 1.0)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + float(np.cos(np.pi * step / total)))


def _share_gradients(network: nn.Module, members: int) -> None:
    """Replace every gradient by its mean over the process group, in one message."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / members)


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, options: TrainOptions, step: int) -> None:
    decay = min(options.average, 1 - options.forget / (step + 1 + options.forget))
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _validate(network: nn.Module, val: Pictures, device: torch.device) -> tuple[float, float]:
    logits, _ = outputs(network, val.pictures)
    labels = torch.from_numpy(val.labels)
    loss = F.cross_entropy(torch.from_numpy(logits), labels)
    return float(loss), float((logits.argmax(1) == val.labels).mean())


def _stopped(history: list[Epoch], patience: int) -> bool:
    if not patience or len(history) <= patience:
        return False
    losses = [epoch.val_loss for epoch in history]
    return int(np.argmin(losses)) < len(losses) - patience


def _save_checkpoint(
    path: Path,
    stamp: str,
    history: list[Epoch],
    network: nn.Module,
    average: nn.Module,
    best: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    tensors = {f"{part}.{name}": t for part, m in _parts(network, average, best) for name, t in m.state_dict().items()}
    for which, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors[f"momentum.{which}.{number}"] = state["momentum_buffer"]
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"stamp": stamp, "history": json.dumps([asdict(epoch) for epoch in history])}
    write_whole(path, save(tensors, metadata=metadata))


def _resume(
    path: Path,
    stamp: str,
    network: nn.Module,
    average: nn.Module,
    best: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> list[Epoch]:
    """Load a checkpoint of the same options and data into everything given; its history, or none."""
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata.get("stamp") != stamp:
                logger.warning("%s belongs to a training with other options or data: starting anew.", path)
                return []
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator of its own)
    except SafetensorError as error:
        logger.warning("%s is damaged (%s): starting anew.", path, error)
        return []
    for part, module in _parts(network, average, best):
        module.load_state_dict({k.removeprefix(f"{part}."): t for k, t in tensors.items() if k.startswith(f"{part}.")})
    for which, optimizer in enumerate(optimizers):
        state, prefix = optimizer.state_dict(), f"momentum.{which}."
        state["state"] = {
            int(name.removeprefix(prefix)): {"momentum_buffer": tensor}
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        optimizer.load_state_dict(state)
    history = [Epoch(**epoch) for epoch in json.loads(metadata["history"])]
    logger.info("going on after epoch %d of %s", len(history), path)
    return history


def _parts(network: nn.Module, average: nn.Module, best: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    return ("network", network), ("average", average), ("best", best)

"""Crops in, probabilities and unknown-scores out, in batches of one fixed size on whatever device there is.

Every batch is padded to the same size and the network works on each crop by itself, so that a cell's probability does
not depend on which cells came with it. On a CUDA device the forward pass runs in half precision as one captured graph,
fed from pinned memory, with copies and computation on separate buffers.
"""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cbctool.classifier.unknown import unknown_score
from cbctool.classifier.weights import load_weights
from cbctool.errors import UsageError
from cbctool.records import CLASSES, CROP_PX, Scores, WeightsInfo

logger = logging.getLogger(__name__)

_CPU_BATCH = 16
"""Crops per forward pass: no slower a crop than more, and little is padded in vain."""

_GPU_BATCH = 8192
"""Large enough that launching is nothing beside computing; 8192 crops are 19 MB on the bus."""


class Classifier:
    """A trained network on a device.

    Parameters
    ----------
    weights : Path, optional
        A weights file; None is the shipped default.
    device : str
        ``auto`` (the first CUDA device, else Apple's mps, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    batch_size : int or "auto"
        Crops per forward pass.

    Raises
    ------
    WeightsError
        If the weights are refused.
    UsageError
        If there is no such device.
    """

    def __init__(self, weights: Path | None = None, device: str = "auto", batch_size: int | str = "auto") -> None:
        self._device = find_device(device)
        loaded = load_weights(weights)
        self.info: WeightsInfo = loaded.info
        self._half = self._device.type == "cuda"
        if batch_size == "auto":
            self._batch = _CPU_BATCH if self._device.type == "cpu" else _GPU_BATCH
        else:
            self._batch = int(batch_size)
            if self._batch < 1:
                raise UsageError(f"A batch of {batch_size} crops is no batch.", "Pass --batch-size 1 or more, or auto.")
        network = fold_batch_norm(loaded.network).to(memory_format=torch.channels_last).to(self._device)
        self._network = network.half() if self._half else network
        self._graph: _Graph | None = None
        self._threads: ThreadPoolExecutor | None = None
        if self._device.type == "cpu":
            self._threads = ThreadPoolExecutor(
                torch.get_num_threads(), "classify", initializer=torch.set_num_threads, initargs=(1,)
            )

    @property
    def batch_size(self) -> int:
        """Crops per forward pass."""
        return self._batch

    @property
    def device(self) -> str:
        """Where the network runs, as torch names it (``cpu``, ``cuda:0``)."""
        return str(self._device)

    @property
    def network(self) -> nn.Module:
        """The network as it computes here, batch norm folded in."""
        return self._network

    def classify(self, crops: NDArray[Any]) -> Scores:
        """Classify normalised crops.

        Parameters
        ----------
        crops : (N, 28, 28, 3) uint8 array
            Windows as :func:`cbctool.imaging.crop.crop_windows` cuts them.

        Returns
        -------
        Scores
            Calibrated probabilities (N, 8) and unknown-scores (N,), higher is less like anything trained on.
        """
        crops = np.asarray(crops)
        if crops.shape[1:] != (CROP_PX, CROP_PX, 3) or crops.dtype != np.uint8:
            raise ValueError(f"expected (N, {CROP_PX}, {CROP_PX}, 3) uint8 crops, got {crops.shape} {crops.dtype}")
        logits = np.empty((len(crops), len(CLASSES)), np.float32)
        unlike = np.empty(len(crops), np.float32)

        def forward(start: int) -> None:
            part = slice(start, min(start + self._batch, len(crops)))
            logits[part], unlike[part] = self._forward(crops[part])

        # On a CPU each batch has one thread: dividing a batch between two of them costs a third more of their time.
        each = self._threads.map if self._threads is not None else map
        for _ in each(forward, range(0, len(crops), self._batch)):
            pass
        return Scores(softmax(logits / self.info.temperature), unknown_score(logits, unlike))

    def _forward(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(batch)
        if count < self._batch:
            padded = np.full((self._batch, CROP_PX, CROP_PX, 3), 255, np.uint8)
            padded[:count] = batch
            batch = padded
        crops = torch.from_numpy(np.ascontiguousarray(batch))
        with torch.inference_mode():
            if self._half:
                if self._graph is None:
                    self._graph = _Graph(self._network, self._batch, self._device)
                logits, unlike = self._graph(crops)
            else:
                logits, unlike = self._network(crops.to(self._device))
            return logits[:count].float().cpu().numpy(), unlike[:count].float().cpu().numpy()


class _Graph:
    """One captured forward pass with fixed buffers (CUDA graphs remove the launch of some forty kernels)."""

    def __init__(self, network: nn.Module, batch: int, device: torch.device) -> None:
        shape = (batch, CROP_PX, CROP_PX, 3)
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._input = torch.full(shape, 255, dtype=torch.uint8, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # lets cuDNN choose its algorithms before they are captured
            for _ in range(3):
                network(self._input)
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits, self._unlike = network(self._input)

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        self._pinned.copy_(crops)
        self._input.copy_(self._pinned, non_blocking=True)
        self._graph.replay()
        return self._logits, self._unlike


def find_device(device: str) -> torch.device:
    """Resolve a device name.

    Raises
    ------
    UsageError
        If the name is not one of torch's or this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"There is no device called {device!r}.", "Use auto, cpu, cuda, cuda:1 or mps.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise UsageError(
            f"Device {device} was asked for, but torch sees {have or 'no'} CUDA device{'s' if have > 1 else ''} here.",
            "Use --device auto or cpu, or install a torch build that fits the GPU's driver.",
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("Device mps was asked for, but this machine has none.", "Use --device auto or cpu.")
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); it is slow where it does not."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose convolutions carry the batch norm that follows them."""
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = nn.Identity()
    return folded


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of logits (N, 8) to probabilities that sum to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)

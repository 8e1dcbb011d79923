"""The networks: windows of 28 x 28 pixels in, eight logits and features out.

PaperNet  the study's network: five 3x3 convolutions with batch norm and ReLU, 2x2 max-pool after the second and the
          fifth, flatten, multilayer perceptron.
SmearNet  the default: a residual network (He et al. 2016, arXiv 1512.03385) in optical density, pooled by learned
          weights per channel and place (global depthwise convolution, Chen et al. 2018, arXiv 1804.07573), because the
          cell in question is in the middle and its neighbours are not. Its features are read out twice, for stains like
          the training laboratory's and for any other, and a gate that sees nothing but the crop's colours weighs the
          two.

Both take the pixels as they are cut (uint8, white background) and scale them themselves, so that nothing about the
input has to be remembered outside a weights file. Shapes trail the lines: B crops, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbctool.records import CLASSES, CROP_PX


class PaperNet(nn.Module):
    """The study's five convolutional layers and MLP (the widths are ours: the study does not give them)."""

    def __init__(self, widths: tuple[int, ...] = (16, 16, 32, 32, 32), hidden: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for number, width in enumerate(widths, start=1):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            if number in (2, 5):
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (CROP_PX // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, len(CLASSES))

    def features(self, crops: Tensor) -> Tensor:
        """(B, 28, 28, 3) uint8 -> (B, hidden)."""
        x = crops.permute(0, 3, 1, 2).to(self.head.weight.dtype)  # (B, 3, 28, 28), channels last in memory
        x = self.convolutions(x / 127.5 - 1.0)  # (B, 32, 7, 7)
        return self.mlp(x)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 8) of the classes, and (B,) of being none of them: 0, the study knew no such thing."""
        logits = self.head(self.features(crops))
        return logits, logits.new_zeros(len(logits))


STRANGER = 2.0
"""Log odds by which a laboratory is likelier to be stained otherwise than the training one, beyond those of training.

Of the crops in training 4 in 10 have their own colours; a laboratory that uses the program is taken to be stained like
that one time in 12.
"""


class SmearNet(nn.Module):
    """Residual network in optical density relative to the crop's own stain strength, with two readouts.

    What tells classes apart best in the training laboratory (fine texture, exact hues) misleads elsewhere: one readout
    for both is worse at home or elsewhere, as the share of cells in own colours decides. So cells in the training
    laboratory's own colours teach one readout, cells in drawn ones the other (:mod:`cbctool.classifier.augment`), and
    the gate learns to tell which it is (a mixture of two experts, Jacobs et al. 1991).
    """

    def __init__(self, widths: tuple[int, ...] = (40, 120), blocks: tuple[int, ...] = (1, 1)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, (width, repeats) in enumerate(zip(widths, blocks, strict=True)):
            # The first layer halves the side at once, seeing 5 x 5: full-size maps cost most of the time and gained
            # nothing.
            layers += [_conv(channels, width, 2, 3 if stage else 5), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [_Residual(width) for _ in range(repeats)]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        side = -(-CROP_PX // 2 ** len(widths))
        self.pool = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        nn.init.constant_(self.pool.weight, 1.0 / side**2)
        self.pool_norm = nn.BatchNorm1d(channels)
        # eight classes, and none of them
        self.own = nn.Linear(channels, len(CLASSES) + 1)
        self.foreign = nn.Linear(channels, len(CLASSES) + 1)
        self.gate = nn.Sequential(nn.BatchNorm1d(9), nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 1))

    def expect_own(self) -> None:
        """Set out from every crop being stained as in training, for a training that draws no other colours."""
        nn.init.constant_(list(self.gate.parameters())[-1], 10.0)

    def expect_elsewhere(self, trained: Tensor, expected: Tensor) -> None:
        """Move the foreign readout from the class frequencies of training to others, (8,) each; Saerens et al. 2002.

        Where stains differ the look of a cell says less, and what is common weighs more.
        """
        with torch.no_grad():
            self.foreign.bias[:-1] += (expected / expected.sum()).log() - (trained / trained.sum()).log()

    def readouts(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 28, 28, 3) uint8 -> logit of being stained as in training (B,), own and foreign readout (B, 9) each."""
        x = optical_density(crops.to(self.own.weight.dtype))  # (B, 28, 28, 3)
        colours, strength = colour_moments(x)
        x = self.convolutions((x / strength).permute(0, 3, 1, 2))  # (B, 120, 7, 7)
        weights = self.pool.weight.flatten(1)  # (120, 49)
        pooled = (x.flatten(2) * weights).sum(2)  # (B, 120): a depthwise convolution as large as its input
        features = self.pool_norm(pooled)
        return self.gate(colours)[:, 0], self.own(features), self.foreign(features)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 8) of the classes, and (B,) of being none of them."""
        gate, own, foreign = self.readouts(crops)
        mixed = torch.lerp(foreign, own, torch.sigmoid(gate - STRANGER)[:, None])  # (B, 9)
        return mixed[:, :-1], mixed[:, -1]


def optical_density(rgb: Tensor) -> Tensor:
    """Beer-Lambert absorbance of 0-255 pixels, natural logarithm: white is 0, stain adds up."""
    return torch.log(256.0 / (rgb + 1.0))


def colour_moments(density: Tensor) -> tuple[Tensor, Tensor]:
    """How crops (B, H, W, 3) are stained: nine logarithms (B, 9), and the strength (B, 1, 1, 1) of the dark parts.

    Of each channel the mean, which background, cytoplasm and red cells make; mean(d^2) / mean(d); and
    sqrt(mean(d^4) / mean(d^2)), which weights the dark pixels, so that the share of the window that a nucleus fills
    hardly moves it. The strength is the last of all channels together, at least 0.1.
    """
    square = density.square()
    fourth = square.square().mean((1, 2))  # (B, 3)
    mean, square = density.mean((1, 2)), square.mean((1, 2))
    colours = torch.cat([mean, square / mean.clamp_min(1e-3), (fourth / square.clamp_min(1e-4)).sqrt()], 1)
    strength = (fourth.mean(1) / square.mean(1).clamp_min(1e-4)).sqrt().clamp_min(0.1)
    return colours.clamp_min(1e-3).log(), strength[:, None, None, None]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _conv(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            _conv(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.convolutions(x))


def _conv(inputs: int, outputs: int, stride: int = 1, side: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


ARCHITECTURES: dict[str, type[nn.Module]] = {"paper": PaperNet, "smear": SmearNet}
"""By the name in a weights file's header."""

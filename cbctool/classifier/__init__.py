"""The networks, their weights files, batched prediction, calibration of probabilities, abstention and training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# OpenMP threads that wait by spinning steal the time of the workers they wait for: on two busy cores a training step
# took 10 s with spinning threads and 0.8 s with sleeping ones. It has to be said before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from cbctool.classifier.predict import Classifier

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: reading what a weights file says about itself does without.
    if name == "Classifier":
        from cbctool.classifier.predict import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

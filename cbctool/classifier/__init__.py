"""The networks, their weights files, batched prediction, calibration of probabilities, abstention and training."""

import os

# OpenMP threads that wait by spinning steal the time of the workers they wait for: on two busy cores a training step
# took 10 s with spinning threads and 0.8 s with sleeping ones. It has to be said before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from cbctool.classifier.predict import Classifier

__all__ = ["Classifier"]

"""How unlike anything trained on a cell is.

The networks have eight class logits and one more, trained against red cells, background, smudge cells and stain debris
(outlier exposure, Hendrycks et al. 2019, arXiv 1812.04606). The score sets that one against the evidence for all eight
classes together, their free energy (Liu et al. 2020, arXiv 2010.03759): the first knows what was shown to it as
foreign, the second falls where no class fits, as for a blast. Both are in nats, so they are weighed alike and nothing
has to be fitted. It costs one sum over eight numbers a cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp


def unknown_score(logits: NDArray[Any], unlike: NDArray[Any]) -> NDArray[np.float32]:
    """Log odds of "none of these" against the classes, higher is less known.

    Parameters
    ----------
    logits : (N, 8) array
        Of the classes, before the temperature.
    unlike : (N,) array
        Logit of being none of them.

    Returns
    -------
    (N,) float32 array
    """
    if not len(logits):
        return np.empty(0, np.float32)
    return np.asarray(unlike - logsumexp(np.asarray(logits, float), axis=1), np.float32)

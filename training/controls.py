"""Controls: what a model scores where it should be blind.

A model that still tells the classes apart without the lungs, or from the margins alone, has
learned the collections and not the diseases.

Source: DeGrave et al., "AI for radiographic COVID-19 detection selects shortcuts over signal",
Nature Machine Intelligence 2021.
"""

import numpy as np
import numpy.typing as npt

Inputs = npt.NDArray[np.uint8]

# Of a frontal film the lungs and the mediastinum fill the middle: half axes and margins as shares
# of the image's edge, and the middle a little above its centre.
_HALF_AXES = (0.44, 0.42)
_CENTRE = (0.48, 0.5)
_MARGIN = 0.1


def without_lungs(inputs: Inputs) -> Inputs:
    """Black out a central ellipse.

    Args:
        inputs: Shape (n, size, size), uint8.

    Returns:
        A copy of the same shape.
    """
    size = inputs.shape[1]
    rows, columns = (np.indices((size, size)) + 0.5) / size
    inside = ((rows - _CENTRE[0]) / _HALF_AXES[0]) ** 2 + (
        (columns - _CENTRE[1]) / _HALF_AXES[1]
    ) ** 2 <= 1.0
    return np.where(inside, np.uint8(0), inputs)


def border_only(inputs: Inputs) -> Inputs:
    """Black out all but the margins, a tenth of the edge on each side.

    Args:
        inputs: Shape (n, size, size), uint8.

    Returns:
        A copy of the same shape.
    """
    margin = max(1, round(inputs.shape[1] * _MARGIN))
    kept = inputs.copy()
    kept[:, margin:-margin, margin:-margin] = 0
    return kept

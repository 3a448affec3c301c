"""How a report is shown, which changes none of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

NUM_DIFFERENT = 5


@dataclass(frozen=True)
class Presentation:
    """What the flags of a command choose.

    names: of the models, in their order; none: short ones (names.py).
    num_different: how many of the cases with the largest difference, of a single model of the worst ones, are shown in
        pictures, beside the best, the median and the worst one; None: all cases are.
    smallest_differences: metric -> the smallest difference that matters, in the metric's unit.
    """

    names: tuple[str, ...] = ()
    num_different: int | None = NUM_DIFFERENT
    smallest_differences: Mapping[str, float] = field(default_factory=dict)

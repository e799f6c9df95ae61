"""The share of a weight that structural zeros leave."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from syncnas_tvm.schedule.zeros import share


def left(weight: np.ndarray) -> int:
    """Positions in the smallest boxes that hold each output channel's weights, one at least."""
    depthwise = weight.shape[1] == 1
    total = 0
    for channel in weight[:, 0] if depthwise else (weight != 0).any(axis=(2, 3)):
        used = [at for at in itertools.product(*map(range, channel.shape)) if channel[at] != 0] or [
            (0,) * channel.ndim
        ]
        total += np.prod(np.max(used, 0) - np.min(used, 0) + 1)
    return total


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_share_is_what_the_smallest_boxes_hold(
    shape: tuple[int, int, int, int], density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(shape) < density, 1.0, 0.0).astype("float32")
    corner = weight[:, 0, :1, :1] if shape[1] == 1 else weight[:, (0, -1)]
    whole = (corner != 0).any(axis=(-2, -1)).all()  # taken for dense without a look at all of it
    counted = np.prod(shape[2:]) if shape[1] == 1 else shape[1]
    assert share(weight) == (1.0 if whole else left(weight) / (shape[0] * counted))

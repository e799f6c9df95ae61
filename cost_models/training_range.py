"""What a cost model was trained on, and how far a kernel lies outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SIZES = ("in", "out", "pixels")
NEW_WINDOW, NEW_KIND = 1.0, np.inf
"""Octaves that a window or stride never seen counts for, and a kind of kernel never seen."""


@dataclass(frozen=True)
class TrainingRange:
    """Smallest and largest sizes of the training kernels of each group, ``[6]`` in octaves: a group
    has the kind, and one more each the kind, window and stride."""

    boxes: Mapping[str, tuple[float, ...]]

    @staticmethod
    def of(features: Mapping[str, Array]) -> TrainingRange:
        """The range of kernels with these features."""
        kinds, groups = _groups(features)
        sizes = np.stack([features[name] for name in SIZES], axis=1)
        boxes = {}
        for names in (kinds, groups):
            for name in np.unique(names):
                here = sizes[names == name]
                boxes[str(name)] = (*here.min(0).tolist(), *here.max(0).tolist())
        return TrainingRange(boxes)

    def octaves_outside(self, features: Mapping[str, Array]) -> Array:
        """How many octaves each kernel's sizes lie outside, added up; 0 inside."""
        kinds, groups = _groups(features)
        sizes = np.stack([features[name] for name in SIZES], axis=1)
        found = np.zeros(len(sizes))
        names, where = np.unique(groups, return_inverse=True)
        for number, name in enumerate(names):
            here = where == number
            kind = str(kinds[np.argmax(here)])
            if kind not in self.boxes:
                found[here] = NEW_KIND
                continue
            extra = 0.0 if str(name) in self.boxes else NEW_WINDOW
            box = np.array(self.boxes[str(name) if extra == 0 else kind])
            beyond = np.maximum(box[:3] - sizes[here], sizes[here] - box[3:])
            found[here] = extra + np.maximum(beyond, 0).sum(1)
        return found


def _groups(features: Mapping[str, Array]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers that stand for the kind, and for kind, window and stride."""
    kind = features["depthwise"] + 2 * features["dense"] + 4 * features["winograd"]
    kinds = kind.astype(np.intp)
    window = np.rint(np.exp2(features["window"])).astype(np.intp)
    stride = features["stride"].astype(np.intp)
    return kinds, 1_000_000 + kinds * 100_000 + window * 10 + stride

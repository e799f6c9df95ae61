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
        sizes = np.array([features[name] for name in SIZES])
        names, first, where = np.unique(groups, return_index=True, return_inverse=True)
        boxes, extra = np.zeros((len(names), 6)), np.zeros(len(names))
        for number, (name, kind) in enumerate(zip(names, kinds[first], strict=True)):
            box = self.boxes.get(str(name)) or self.boxes.get(str(kind))
            extra[number] = 0.0 if str(name) in self.boxes else NEW_WINDOW if box else NEW_KIND
            boxes[number] = box or 0.0
        low, high = boxes.T[:3, where], boxes.T[3:, where]
        return extra[where] + np.maximum(np.maximum(low - sizes, sizes - high), 0).sum(0)


def _groups(features: Mapping[str, Array]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers that stand for the kind, and for kind, window and stride."""
    kind = features["depthwise"] + 2 * features["dense"] + 4 * features["winograd"]
    kinds = kind.astype(np.intp)
    window = np.rint(np.exp2(features["window"])).astype(np.intp)
    stride = features["stride"].astype(np.intp)
    return kinds, 1_000_000 + kinds * 100_000 + window * 10 + stride

"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, enough for tests of the whole way."""

from __future__ import annotations

import torch

from syncnas_tvm.errors import DataError
from syncnas_tvm.nas.data import DataOptions, ImageTensors

TEST = 297
"""The last images are the test set."""


def digits(options: DataOptions) -> ImageTensors:
    """The digits at 32 x 32; raises DataError where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits are scikit-learn's: pip install 'syncnas-tvm[nas]'") from error
    found = load_digits()
    images = torch.from_numpy(found.images * 15).to(torch.uint8)[:, None]
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.from_numpy(found.target).long()
    train = images[:-TEST], labels[:-TEST]
    return ImageTensors(train, (images[-TEST:], labels[-TEST:]), options, shift=2, flip=False)

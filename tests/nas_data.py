"""Data sets made up for the tests of the architecture search."""

import gzip
import struct

import numpy as np

from syncnas_tvm.nas.fashion_mnist import FILES


def fake_fashion(folder, count=None, seed=0):
    """Files as Debian's package of Fashion-MNIST has them, of random images."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in FILES:
        n = count or (60_000 if name.startswith("train") else 10_000)
        shape = (n, 28, 28) if "images" in name else (n,)
        values = rng.integers(0, 10, shape, np.uint8)
        header = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
        (folder / name).write_bytes(gzip.compress(header + values.tobytes(), 1))

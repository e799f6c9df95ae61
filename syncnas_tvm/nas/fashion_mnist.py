"""Fashion-MNIST from the files of Debian's package ``dataset-fashion-mnist``."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

from syncnas_tvm.errors import DataError
from syncnas_tvm.nas.data import Batch, DataOptions, ImageTensors

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
         "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
COUNTS = (60_000, 10_000)


def fashion_mnist(folder: Path | None, options: DataOptions) -> ImageTensors:
    """60,000 + 10,000 images of 28 x 28 (Xiao et al., 2017), padded to 32 x 32.

    Without ``folder``: where Debian's package installs them, or from the cache, or out of the package,
    which is downloaded with apt-get and unpacked into the cache; nothing is installed. Raises DataError
    where the files are not to be had, or damaged.
    """
    folder = folder or find()
    train, test = (
        _read(folder, part, count) for part, count in zip(("train", "t10k"), COUNTS, strict=True)
    )
    return ImageTensors(train, test, options, shift=2, flip=True)


def find() -> Path:
    """The folder with the four files; see :func:`fashion_mnist`."""
    cache = Path(os.environ.get("SYNCNAS_CACHE_DIR") or Path.home() / ".cache" / "syncnas_tvm")
    kept = cache / "data" / "fashion-mnist"
    for folder in (INSTALLED, kept):
        if all((folder / name).is_file() for name in FILES):
            return folder
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fashion-mnist-") as name:
        aside = Path(name)
        _run(["apt-get", "download", PACKAGE], aside)
        packages = list(aside.glob("*.deb"))
        if not packages:
            raise DataError(_advice("apt-get download brought no package"))
        _run(["dpkg", "-x", str(packages[0]), "unpacked"], aside)
        found = aside / "unpacked" / INSTALLED.relative_to("/")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(found, kept)
    return kept


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(_advice(f"'{' '.join(command)}' failed ({error})")) from error


def _advice(what: str) -> str:
    return (
        f"Fashion-MNIST: {what}; install Debian's {PACKAGE}, or give a folder with its four files:"
        " --data fashion-mnist:/path"
    )


def _read(folder: Path, part: str, count: int) -> Batch:
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz", (count, 28, 28))
    labels = _idx(folder / f"{part}-labels-idx1-ubyte.gz", (count,))
    padded = torch.nn.functional.pad(images[:, None], (2, 2, 2, 2))
    return padded, labels.long()


def _idx(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The array in a compressed IDX file: magic, dimensions, bytes."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(_advice(f"{path} is not there")) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); take it from {PACKAGE} again") from error
    header = struct.pack(f">I{len(shape)}I", 0x0800 + len(shape), *shape)
    if not data.startswith(header) or len(data) != len(header) + np.prod(shape):
        raise DataError(f"{path} does not hold {shape[0]} images or labels of Fashion-MNIST")
    values = np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)
    return torch.from_numpy(values.copy())

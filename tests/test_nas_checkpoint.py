"""Checkpoints that are damaged, of something else, or of somebody else."""

import contextlib
import io
import random

import pytest
import torch

from syncnas_tvm.errors import CheckpointError
from syncnas_tvm.nas import checkpoint
from syncnas_tvm.nas.model import build
from syncnas_tvm.nas.weights import Weights


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(tmp_path / "evil.pth")
    assert not (tmp_path / "run").exists()


def written(legacy: bool = False) -> bytes:
    """A small checkpoint as torch writes it, now or before version 1.6."""
    buffer = io.BytesIO()
    state = {"layer.weight": torch.arange(4000.0), "layer.bias": torch.ones(3)}
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} is damaged or no") as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"test", b"PK", b"PK\x03\x04", b"\x80\x02}q", b"(lp0\n."])
def test_files_that_are_no_checkpoints(content, tmp_path):
    damaged(tmp_path / "t.pth", content)


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_checkpoints(legacy, tmp_path):
    content = written(legacy)
    for share in range(1, 20):
        damaged(tmp_path / "cut.pth", content[: len(content) * share // 20])


def test_a_changed_byte_in_the_weights(tmp_path):
    """Torch alone loads other weights without a word."""
    content = bytearray(written())
    at = content.index(torch.arange(4000.0).numpy().tobytes()[4000:4016])
    content[at] ^= 1
    damaged(tmp_path / "flipped.pth", bytes(content))


def test_weights_that_are_marked_as_a_folder(tmp_path):
    """Torch alone loads what happens to be in memory."""
    content = bytearray(written())
    name = content.rindex(b"archive/data/0")
    content[name - 46 + 38] |= 0x10  # the attributes in the entry of the archive's directory
    damaged(tmp_path / "marked.pth", bytes(content))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_changed_byte_anywhere(legacy, tmp_path):
    """Read, or damaged: no other error, and no other weights where there are checksums."""
    places, path = random.Random(0), tmp_path / "flipped.pth"
    for _ in range(150):
        content = bytearray(written(legacy))
        content[places.randrange(len(content))] ^= 1 << places.randrange(8)
        path.write_bytes(bytes(content))
        with contextlib.suppress(CheckpointError):
            found = checkpoint.read(path)
            assert legacy or torch.equal(found["layer.weight"], torch.arange(4000.0))


def test_keys_that_are_no_names(tmp_path):
    torch.save({0: torch.ones(3), 1: 2}, tmp_path / "ints.pth")
    with pytest.raises(CheckpointError, match=r"ints.pth lacks 'stem_conv.0.weight'"):
        Weights(tmp_path / "ints.pth").load(build("mobilenet_v2", 0.1))


def test_the_digest_is_of_the_weights_alone(tmp_path):
    state = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.bfloat16), "c": torch.tensor(1)}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": dict(reversed(state.items())), "epoch": 3}, tmp_path / "b.pth")
    torch.save(state | {"a": torch.tensor([1.0, 1.0, 1.0001])}, tmp_path / "c.pth")
    first, same, other = (Weights(tmp_path / f"{name}.pth").digest for name in "abc")
    assert first == same != other

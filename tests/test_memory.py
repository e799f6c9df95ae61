"""The estimate of what a lane has to hold."""

from spaces import candidate, phase

from syncnas_tvm.memory import lane_memory
from syncnas_tvm.work import Epilogue, Kernel, Phase, Sync, Work

CONV = Kernel(
    "nn.conv2d",
    ((1, 8, 10, 10), (16, 8, 3, 3), (1, 16, 10, 10)),
    "float32",
    "gpu",
    epilogue=(Epilogue("add", ((1, 16, 1, 1),)), Epilogue("add", ((1, 16, 10, 10),))),
)


def test_weights_are_all_held_and_the_working_set_is_the_largest() -> None:
    """Bias with the weights, residual with the working set."""
    work = Work((Phase((), (CONV, CONV), Sync("copy", 0, 6400)),))
    found = lane_memory([work, work], "gpu")
    assert found.weight_bytes == 4 * 4 * (16 * 8 * 9 + 16)
    assert found.working_bytes == 4 * (800 + 1600 + 1600)
    assert found.bytes == found.weight_bytes + found.working_bytes
    assert lane_memory([work], "cpu").bytes == 0


def test_joins_are_on_both_lanes() -> None:
    both = candidate(phase([1], [1], "sum", 4, 4, join=[50])).work
    alone = candidate(phase([1], [], "copy", 4, 4)).work
    assert lane_memory([both], "gpu").bytes > lane_memory([alone], "gpu").bytes == 0

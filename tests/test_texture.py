"""Weights in textures: which they are, what kernels make of them, and what is refused."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import graph_nets
import numpy as np
import pytest
import tvm
import zoo
from kernel_limits import Compiler, gpu_kernels, kernel_source, launch_problems, problems
from kernel_limits import source_problems as in_source
from opencl_tools import driver_that_answers, needs_opencl_library, pool_stats, run

import syncnas_tvm
from syncnas_tvm.artifact import read_manifest
from syncnas_tvm.compile_result import CompileResult
from syncnas_tvm.compiler import with_weights
from syncnas_tvm.cost_models import machine_key
from syncnas_tvm.errors import InputError, TargetError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.kernel_timer import time_kernels
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build, lower
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.schedule.opencl_half import store_half
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.texture import image_size, is_texture, texture_shape, to_texture
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.tuning.records import function_hash
from syncnas_tvm.tuning.tuner import opened_tuner, spaces_of

pytestmark = pytest.mark.usefixtures("nothing_measured")

HALF = LaneTypes(gpu="float16")
# Odd channels that no vector divides, more of them than one, and slices whose merged weights have zeros.
ODD = zoo.Net(
    17,
    (
        zoo.Row(4, 22, 1, 2, (5,), "silu", se=0.25),
        zoo.Row(4, 27, split_in=2),
    ),
    45,
)
to_image = tvm.get_global_func("syncnas.opencl.to_texture")


def textured(name: str, **gpu: int) -> Target:
    target = load_target(name)
    return with_weights(replace(target, gpu={**target.gpu, **gpu}), "texture")


def block() -> RegionGraph:
    """A stem, pointwise convolutions of 24, 40 and 8 channels, depthwise and dense 3 x 3."""

    def body(n: graph_nets.Net, x: tvm.relax.Var) -> tvm.relax.Var:
        x = n.relu(n.conv(x, 24, 3, 2))
        return n.conv(n.mbconv(n.excite(x, 8), 40, 24), 20, 3)

    return graph_nets.graph_of(body, size=28)


def on_gpu(graph: RegionGraph) -> tvm.IRModule:
    return apply_plan(graph, Plan(graph_nets.placed(graph, "gpu")))


def kernels_of(source: str) -> dict[str, str]:
    """OpenCL C by kernel, the declarations left out."""
    return dict(re.findall(r"^__kernel void (\w+)(\([^;{]*\) \{\n.*?^\})", source, re.M | re.S))


def dense_kernels(source: str) -> dict[str, str]:
    """The dense convolutions, without what pads their inputs."""
    found = kernels_of(source).items()
    return {name: code for name, code in found if "packed_dense" in name and "acc_local" in code}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texture") / "model.onnx"
    network = zoo.Mobile(ODD, 1, 10)
    zoo.randomise(network, 0)
    zoo.save(network.eval(), 32, path, "torchscript", 17)
    return path


# Code


@pytest.mark.parametrize("types", [FLOAT32, HALF], ids=["float32", "float16"])
@pytest.mark.parametrize("name", ["android-adreno", "host"])
def test_weights_of_dense_convolutions_are_images_and_nothing_else_is(
    name: str, types: LaneTypes
) -> None:
    mod = on_gpu(block())
    source = kernel_source(build(mod, textured(name), types).mod)
    found, dense = kernels_of(source), dense_kernels(source).keys()
    usual = kernels_of(kernel_source(build(mod, load_target(name), types).mod))
    assert found.keys() == usual.keys()
    assert len(dense) >= 4
    for kernel in found:
        assert "image" not in usual[kernel]
        if kernel in dense:
            assert found[kernel].count("__read_only image2d_array_t") == 1
            assert "read_imageh" not in found[kernel].lower()  # needs an extension
        else:
            assert "image" not in found[kernel]


def test_weights_beyond_the_targets_limits_stay_buffers() -> None:
    """Kernels read 24 channels or 40, and the dense one 9 times 24."""

    def images(limit: int) -> list[tuple[int, int]]:
        lowered = lower(on_gpu(block()), textured("rk3399", texture_spatial_limit=limit))
        params = [p for _, f in gpu_kernels(lowered) for p in f.params if is_texture(p)]
        return sorted(image_size(p.ty.shape) for p in params)

    every = images(16384)
    assert every[-1] == (9 * 24, 5)
    assert images(40) == [size for size in every if size[0] <= 40]
    assert images(24) == [size for size in every if size[0] <= 24]
    assert 0 < len(images(24)) < len(images(40)) < len(every)
    assert images(2) == []


def test_layout() -> None:
    assert texture_shape((3, 5, 1, 1, 8, 16)) == (12, 5, 1, 1, 8, 4)
    assert texture_shape((3, 5, 1, 1, 8, 2)) is None
    weight = np.arange(3 * 5 * 8).reshape(3, 5, 8)
    image = to_texture(weight)
    assert image.shape == texture_shape(weight.shape)
    for o, i, c in np.ndindex(weight.shape):
        assert image[2 * o + c // 4, i, c % 4] == weight[o, i, c]


def test_texels_of_halves_are_read_as_floats() -> None:
    head = "#ifdef cl_khr_fp16\n#endif\n\n#define READ_IMAGEH(i, s, c) read_imageh(i, c)\n"
    source = f"{head}half4 v = as_half4(READ_IMAGEH(w_ptr, s, ((int4)(k, 0, 0, 0))));"
    line = store_half(source).splitlines()[-1]
    assert line == "float4 v = as_float4(READ_IMAGEF(w_ptr, s, ((int4)(k, 0, 0, 0))));"


@pytest.mark.parametrize("lanes", [1, 8])
def test_vectors_as_narrow_as_the_device_wants(lanes: int) -> None:
    target = textured("host")
    target = replace(target, opencl=replace(target.opencl, max_vector_lanes=lanes))
    graph = block()
    inputs = graph_nets.random_inputs(graph.mod)
    (expected,) = graph_nets.evaluate(graph.mod, inputs)
    (found,) = graph_nets.run_compiled(on_gpu(graph), target, inputs)
    assert graph_nets.relative_error(found, expected) <= 1e-5


def test_the_checker_knows_images() -> None:
    target, compiler = textured("android-adreno"), Compiler()
    mod = on_gpu(block())
    assert problems(mod, target, HALF, compiler) == []
    source = kernel_source(build(mod, target, HALF).mod)
    undeclared = in_source(source, load_target("android-adreno"))
    assert undeclared == ["'image2d_array_t'", "'sampler_t'"]
    small = textured("android-adreno", texture_spatial_limit=30)
    found = [p for n, f in gpu_kernels(lower(mod, target)) for p in launch_problems(n, f, small)]
    assert any(problem.endswith("a texture of 216 x 5 texels") for problem in found)


# Networks


def test_halves_are_read_as_they_are() -> None:
    """The same weights as from buffers, added up in the same order."""
    graph = block()
    inputs = graph_nets.random_inputs(graph.mod)
    (found,), (expected,) = (
        graph_nets.run_compiled(on_gpu(graph), target, inputs, types=HALF)
        for target in (textured("host"), load_target("host"))
    )
    assert graph_nets.relative_error(found, expected) <= 1e-6


LOAD_AND_RUN = """
    import gc, sys
    import numpy as np, tvm, syncnas_tvm
    from opencl_tools import pool_stats
    data = np.load(sys.argv[2])
    executable = syncnas_tvm.load(sys.argv[1])
    for _ in range(3):
        (output,) = executable(data["x"]).values()
        assert np.abs(output - data["y"]).max() <= 1e-4 * np.abs(data["y"]).max()
    held = pool_stats()["live_bytes"]
    del executable, output
    gc.collect()
    print(tvm.get_global_func("syncnas.opencl.memory")(0), held, pool_stats()["live_bytes"])
"""
IMAGE_SUPPORT = 0x1016


def compile_for_both_lanes(model: Path, folder: Path, dtype: str) -> CompileResult:
    """Asked for by a target file; compared with onnxruntime."""
    target = folder / "mine.toml"
    target.write_text('inherits = "host"\n[opencl]\nweights = "texture"\n')
    result = syncnas_tvm.compile_onnx(
        model, target, folder / "out", split_all=True, timed=False, gpu_dtype=dtype
    )
    assert "ChannelSplit" in {decision.rule for decision in result.plan.decisions}
    assert read_manifest(folder / "out").gpu_weights == "texture"
    library = tvm.runtime.load_module(str(folder / "out" / "model.so"))
    dense = dense_kernels(kernel_source(library))
    assert len(dense) >= 6
    assert all("image2d_array_t" in kernel for kernel in dense.values())
    return result


@pytest.fixture(scope="module")
def compiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and an input with what it has to give."""
    folder = tmp_path_factory.mktemp("compiled")
    assert compile_for_both_lanes(model, folder, "float32").deviation.max_rel <= 1e-4
    imported = import_onnx(model)
    (spec,) = imported.inputs
    x = np.random.default_rng(0).standard_normal(spec.shape).astype("float32")
    (y,) = imported.original.run({spec.name: x}).values()
    np.savez(folder / "data.npz", x=x, y=y)
    return folder / "out", folder / "data.npz"


def test_halves_on_both_lanes(model: Path, tmp_path: Path) -> None:
    deviation = compile_for_both_lanes(model, tmp_path, "float16").deviation
    assert 1e-6 < deviation.max_rel <= 2e-2


@pytest.mark.parametrize("memory", ["shared", "mapped", "copied"])
def test_a_fresh_process_with_every_memory(compiled: tuple[Path, Path], memory: str) -> None:
    """The target file's textures; nothing of them is left when the executable is gone."""
    done = run(LOAD_AND_RUN, *compiled, SYNCNAS_OPENCL_MEMORY=memory)
    assert done.returncode == 0, done.stderr[-2000:]
    used, held, left = done.stdout.split()
    assert used == memory
    assert int(held) > 0
    assert int(left) == 0


@needs_opencl_library
def test_a_device_without_images(compiled: tuple[Path, Path], tmp_path: Path) -> None:
    driver = driver_that_answers(tmp_path, IMAGE_SUPPORT, "unsigned", 0)
    done = run(LOAD_AND_RUN, *compiled, SYNCNAS_OPENCL_LIBRARY=str(driver))
    assert done.returncode == 1
    assert "has no images, and the model's weights are textures" in done.stderr
    assert done.stderr.strip().endswith("compile the model with --gpu-weights buffer")


# Tensors


def test_memory_of_textures_is_given_back() -> None:
    def live() -> int:
        return pool_stats()["live_bytes"]

    before, source = live(), tvm.runtime.tensor(np.zeros((64, 128, 4), "float32"))
    image = to_image(source, 0)
    assert live() - before == 64 * 128 * 4 * 4
    del image
    assert live() == before


def test_a_texture_is_not_copied() -> None:
    image = to_image(tvm.runtime.tensor(np.ones((2, 3, 4), "float32")), 0)
    buffer = tvm.runtime.tensor(np.ones((2, 3, 4), "float32"), tvm.opencl(0))
    for copy in (image.numpy, lambda: image.copyto(buffer), lambda: buffer.copyto(image)):
        with pytest.raises(ValueError, match=r"a texture on device .* cannot be copied"):
            copy()
    with pytest.raises(ValueError, match="cannot be copied"):
        image.copyfrom(np.ones((2, 3, 4), "float32"))


def test_what_no_texture_is_made_of() -> None:
    for shape, dtype in (((2, 3), "float32"), ((4,), "float32"), ((2, 4), "int32")):
        with pytest.raises(ValueError, match="a texture is made of"):
            to_image(tvm.runtime.tensor(np.ones(shape, dtype)), 0)
    with pytest.raises(ValueError, match="a texture is made of"):
        to_image(tvm.runtime.tensor(np.ones((2, 4), "float32"), tvm.opencl(0)), 0)
    wide = tvm.runtime.tensor(np.zeros((1, 1 << 17, 4), "float16"))
    with pytest.raises(RuntimeError, match=r"texture of 131072 x 1 texels.*--gpu-weights buffer"):
        to_image(wide, 0)


# Targets, measuring, tuning


def test_weights_in_a_target_file(tmp_path: Path) -> None:
    assert {load_target(name).opencl.weights for name in ("host", "android-adreno")} == {"buffer"}
    file = tmp_path / "mine.toml"
    file.write_text('inherits = "android-adreno"\n[opencl]\nweights = "texture"\n')
    target = load_target(file)
    assert target.opencl.weights == "texture"
    assert target.texture_limit == 16384
    file.write_text('inherits = "android-adreno"\n[opencl]\nweights = "image"\n')
    with pytest.raises(
        TargetError, match=r"'opencl\.weights' must be 'buffer' or 'texture', found 'image'"
    ):
        load_target(file)


def test_wrong_weights(model: Path) -> None:
    with pytest.raises(InputError, match="--gpu-weights is 'image'; use one of buffer, texture"):
        syncnas_tvm.compile_onnx(model, gpu_weights="image")


def test_kernels_with_textures_are_measured_apart(tmp_path: Path) -> None:
    net = graph_nets.Net(24, 14)
    mod = net.build(lambda x: net.relu(net.conv(x, 40)))
    (group,) = groups_of(mod["main"], "gpu")
    spaces = []
    for target in (load_target("host"), textured("host")):
        (timed,) = time_kernels([group], target, time.monotonic() + 60)
        assert timed.latency_us > 0
        spaces += spaces_of(group, PackedSchedules.of(target))
    first, second = (function_hash(space.function) for space in spaces)
    assert first != second
    assert machine_key(load_target("host")) != machine_key(textured("host"))
    with (
        pytest.raises(InputError, match=r"opencl.weights = 'texture': kernels are tuned with buf"),
        opened_tuner(textured("host"), tmp_path / "records"),
    ):
        pass

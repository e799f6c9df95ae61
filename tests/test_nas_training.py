"""Data sets, training and going on with it, inheriting, results."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from nas_data import fake_fashion
from nas_models import little_config, two_branches

from syncnas_tvm import compile_onnx, load
from syncnas_tvm.errors import CheckpointError, DataError, InputError
from syncnas_tvm.nas import ZOO, checkpoint
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import config_to_json, read_config
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.data import DataOptions, DataSpec
from syncnas_tvm.nas.drawing import draw
from syncnas_tvm.nas.fashion_mnist import FILES, fashion_mnist
from syncnas_tvm.nas.inherit import inherit
from syncnas_tvm.nas.model import Mobile, build
from syncnas_tvm.nas.onnx_export import export_onnx
from syncnas_tvm.nas.results import Result, pareto, write_results
from syncnas_tvm.nas.settings import TrainSettings, learning_rate
from syncnas_tvm.nas.study import open_storage, open_study
from syncnas_tvm.nas.task import SearchTask
from syncnas_tvm.nas.trainer import Trainer
from syncnas_tvm.nas.weights import Weights

BASE = ZOO["mobilenet_v2"]
SETTINGS = TrainSettings(
    epochs=3, batch=64, learning_rate=0.2, warmup_epochs=1, ema=0.9, dropout=0.1
)


@pytest.fixture(scope="module")
def digits():
    return DataSpec.parse("digits").load(DataOptions(images=192))


def small_model(seed=0):
    torch.manual_seed(seed)
    return Mobile(BASE.scaled(0.1), 10, inputs=1, stem_stride=2, dropout=0.1)


def test_training_learns():
    """Three layers' worth of time: the loss falls, and the images are told apart."""
    data = DataSpec.parse("digits").load(DataOptions(classes=3))
    settings = TrainSettings(epochs=6, batch=32, learning_rate=0.4, warmup_epochs=1, ema=0.9)
    torch.manual_seed(1)
    losses = []
    trainer = Trainer(Mobile(BASE.scaled(0.1), 3, inputs=1, dropout=0), data, settings)
    accuracy = trainer.run(lambda epoch: losses.append(epoch.loss), val_every=9)
    assert losses[-1] < 0.8 * losses[0]
    assert accuracy.top1 > 0.6
    assert accuracy.top5 == 1.0


def test_an_interrupted_training_ends_as_an_uninterrupted_one(digits, tmp_path):
    whole = Trainer(small_model(), digits, SETTINGS)
    expected = whole.run(val_every=9)
    path = tmp_path / "going.pth"

    class Stop(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        Trainer(small_model(), digits, SETTINGS, path=path).run(stop)
    again = Trainer(small_model(seed=9), digits, SETTINGS, path=path)
    assert again.epoch == 2
    assert again.run() == expected
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
    for name, tensor in again.best_weights.state_dict().items():
        assert torch.equal(tensor, whole.best_weights.state_dict()[name]), name


def test_a_search_is_joined_with_the_same_base_weights(tmp_path):
    """Which are told by what is in the file, not by its name."""
    state = small_model().state_dict()
    torch.save(state, tmp_path / "base.pth")
    torch.save({"model": state}, tmp_path / "same.pth")
    torch.save(small_model(seed=1).state_dict(), tmp_path / "other.pth")
    data, options = DataSpec("digits"), DataOptions()

    def join(weights):
        task = SearchTask(
            "mobilenet_v2", data, options, SETTINGS, weights=weights, target="rk3399", budget=1.0
        )
        open_study(open_storage(str(tmp_path / "study.db")), "weights", 7, task.to_json())

    for name in ("base", "same"):
        join(Weights(tmp_path / f"{name}.pth"))
    for weights in (Weights(tmp_path / "other.pth"), None):
        with pytest.raises(InputError, match=r"study 'weights' has inherits [0-9a-f]+, not "):
            join(weights)


def differs(what, *arguments, **options):
    with pytest.raises(CheckpointError, match=f"x.pth is of a training with {what}; delete it"):
        Trainer(*arguments, **options)


def test_another_training_is_named(digits, tmp_path):
    """Other settings, images, models and weights to start from than those of the checkpoint."""
    path = tmp_path / "x.pth"
    start = {"path": path, "origin": {"model": "a", "base weights": None}}
    checkpoint.save(path, Trainer(small_model(), digits, SETTINGS, **start)._state())
    assert Trainer(small_model(), digits, replace(SETTINGS, threads=1), **start).epoch == 0
    differs("epochs 3, not 4", small_model(), digits, replace(SETTINGS, epochs=4), **start)
    spec = DataSpec.parse("digits")
    for options, what in (
        (DataOptions(images=64), "images 192, not 64"),
        (DataOptions(images=192, size=16), "image size 32, not 16"),
        (DataOptions(images=192, classes=9), "classes 10, not 9"),
        (DataOptions(images=192, val_share=0.2), "data [0-9a-f]+, not [0-9a-f]+"),
    ):
        differs(what, small_model(), spec.load(options), SETTINGS, **start)
    for origin, what in (
        ({"model": "b", "base weights": None}, "model a, not b"),
        ({"model": "a", "base weights": "c"}, "base weights None, not c"),
    ):
        differs(what, small_model(), digits, SETTINGS, path=path, origin=origin)


def test_a_training_begun_on_a_cpu_goes_on_on_a_gpu(digits, tmp_path):
    """Whose scaler has a state: seen without a GPU with a scaler that is switched on."""
    path = tmp_path / "x.pth"
    checkpoint.save(path, Trainer(small_model(), digits, SETTINGS)._state() | {"epoch": 2})
    trainer = Trainer(small_model(), digits, SETTINGS)
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    trainer._load(path)
    assert trainer.epoch == 2


def test_a_captured_model_can_be_copied_counted_and_evaluated(digits, monkeypatch):
    """What stands in for CUDA graphs replaces ``forward`` as they do, and takes its own images only."""
    settings = replace(SETTINGS, epochs=2, ema=0.0)
    plain = Trainer(small_model(), digits, settings).run()
    steps = []

    def capture(module, sample):
        forward = module.forward
        forward(*sample)  # the batch norms see it

        def captured(x):
            assert module.training
            assert (x.shape, x.device) == (sample[0].shape, sample[0].device)
            steps.append(x)
            return forward(x)

        module.forward = captured

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    trainer = Trainer(small_model(), digits, settings)
    trainer._capture(torch.zeros(settings.batch, digits.channels, digits.size, digits.size))
    assert trainer.run() == plain
    assert len(steps) == 2 * trainer.steps
    expected = count(small_model(), digits.size, digits.channels)
    assert count(trainer.model, digits.size, digits.channels) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an Nvidia GPU")
def test_a_gpu_learns_the_same_captured_and_not(digits, monkeypatch):
    settings = replace(SETTINGS, epochs=2)
    captured = Trainer(small_model(), digits, settings, device="cuda")
    monkeypatch.setattr(Trainer, "_capture", lambda self, images: None)
    plain = Trainer(small_model(), digits, settings, device="cuda")
    assert captured.run().loss == pytest.approx(plain.run().loss, rel=1e-2)
    expected = count(small_model(), digits.size, digits.channels)
    assert count(captured.model, digits.size, digits.channels) == expected


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    path = tmp_path / "x.pth"
    trainer = Trainer(small_model(), digits, SETTINGS, path=path)
    checkpoint.save(path, trainer._state())
    with pytest.raises(CheckpointError, match=r"x.pth does not fit the model"):
        Trainer(build("mnasnet_b1", 0.1, 10, inputs=1), digits, SETTINGS, path=path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"x.pth is damaged or no checkpoint") as caught:
        Trainer(small_model(), digits, SETTINGS, path=path)
    assert "\n" not in str(caught.value)


def test_learning_rate_over_time(digits):
    settings = TrainSettings(
        epochs=6, batch=64, learning_rate=0.4, warmup_epochs=2, restart_epochs=2
    )
    trainer = Trainer(small_model(), digits, settings)
    rates = []
    for _ in range(6 * trainer.steps):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.scheduler.step()
    peak, steps = 0.4 * 64 / 256, trainer.steps
    assert rates[0] < 0.3 * peak
    assert all(a < b for a, b in pairwise(rates[: 2 * steps]))
    assert rates[2 * steps] == pytest.approx(peak)
    assert rates[4 * steps - 1] < 0.2 * peak
    assert rates[4 * steps] == pytest.approx(peak)  # the warm restart
    assert (learning_rate("mobilenet_v2"), learning_rate("fbnet_c")) == (0.256, 0.512)


def test_distillation_pulls_towards_the_teacher(digits):
    settings = TrainSettings(**{**SETTINGS.to_json(), "distil": 1.0, "label_smoothing": 0.0})
    x, y = next(digits.batches("train", 32))
    model = small_model().eval()
    same = Trainer(model, digits, settings, teacher=model)
    teacher = small_model()
    torch.nn.init.normal_(teacher.classifier[1].bias)
    other = Trainer(small_model(), digits, settings, teacher=teacher)
    other.model.eval()
    assert same._loss(x, y).item() == pytest.approx(0.0, abs=1e-6)
    assert other._loss(x, y).item() > 0.1


def test_validation_and_test_images_are_not_trained_on():
    data = DataSpec.parse("digits").load(DataOptions(val_share=0.2, images=500))
    assert [data.count(s) for s in ("train", "val", "test")] == [500, 300, 297]
    again = DataSpec.parse("digits").load(DataOptions(val_share=0.2))
    held_out = next(x for x, _ in data.batches("val", 300))
    assert torch.equal(data._splits["val"][0], again._splits["val"][0])  # for every proxy the same
    known = {t.numpy().tobytes() for t in again._splits["train"][0]}
    assert sum(t.numpy().tobytes() in known for t in again._splits["val"][0]) <= 2  # equal drawings
    assert held_out.shape == (300, 1, 32, 32)


def test_epochs_shuffle_and_augment_and_repeat(digits):
    first, again = (next(digits.batches("train", 64, epoch=1, seed=3)) for _ in range(2))
    other, third = (next(digits.batches("train", 64, epoch=e, seed=s)) for e, s in ((2, 3), (1, 4)))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[1], third[1])


def test_fashion_mnist_files(tmp_path):
    fake_fashion(tmp_path)
    data = fashion_mnist(tmp_path, DataOptions(images=100))
    assert [data.count(s) for s in ("train", "val", "test")] == [100, 6000, 10_000]
    x, y = next(data.batches("test", 4))
    assert (x.shape, y.dtype, data.stem_stride) == ((4, 1, 32, 32), torch.int64, 1)
    (tmp_path / FILES[2]).write_bytes((tmp_path / FILES[2]).read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{FILES[2]} is damaged"):
        fashion_mnist(tmp_path, DataOptions())
    (tmp_path / FILES[3]).unlink()
    fake_fashion(tmp_path, count=50)
    with pytest.raises(DataError, match=f"{FILES[0]} does not hold 60000 images"):
        fashion_mnist(tmp_path, DataOptions())
    with pytest.raises(DataError, match="is not there; install Debian's dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "no", DataOptions())


def test_data_that_is_none(tmp_path):
    with pytest.raises(InputError, match="--data cifar: unknown data set"):
        DataSpec.parse("cifar")
    with pytest.raises(InputError, match="needs its folder"):
        DataSpec.parse("imagenet")
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match="has no 40 classes"):
        DataSpec.parse("digits").load(DataOptions(classes=40))


def test_without_a_torchvision_that_fits_the_error_says_so(tmp_path):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(DataError, match=r"torchvision.*pip install 'syncnas-tvm\[imagenet\]'"):
            DataSpec.parse(f"imagenet:{tmp_path}").load()
    else:
        with pytest.raises(DataError, match="is not a folder"):
            DataSpec.parse(f"imagenet:{tmp_path}").load()


def test_two_halves_of_the_base_are_the_base():
    """Each branch has half of a block's channels and inherits its half: their sum is the base's.

    Seen at the last stage, a single block without residual.
    """
    base = build(BASE.scaled(0.25), classes=10)
    with torch.no_grad():
        for module in base.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(0, 0.1)
                module.weight.uniform_(0.5, 1.5)
    network = base.network
    halves = two_branches(network, "nnannna", lambda b: b.expand // 2)
    model = BranchedModel(halves, 10).eval()
    inherit(model, base)
    x = torch.randn(2, network.stages[5][-1].out, 7, 7)
    with torch.no_grad():
        expected = base.eval().stages[6](x)
        found, _ = model.get_submodule("stage7")(x, x)
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_is_wider_than_the_base_keeps_its_own_weights():
    base = build(BASE.scaled(0.25), classes=10)
    model = BranchedModel(two_branches(base.network, "nnnnnna", lambda b: 2 * b.expand), 10)
    before = model.get_submodule("stage7").branch1[0].pw1[0].weight.clone()
    inherit(model, base)
    after = model.get_submodule("stage7").branch1[0].pw1[0].weight
    expand = base.network.stages[6][0].expand
    assert torch.equal(after[:expand], base.stages[6].blocks[0].pw1[0].weight)
    assert torch.equal(after[expand:], before[expand:])


def test_the_drawing_shows_every_block_and_sync():
    config = little_config("cannana")
    root = ET.fromstring(draw(config))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    for *_, row in config.rows():
        assert f"({row.inputs}, {row.expand}, {row.out}) {row.kernel}, {row.stride}" in texts
    boxes = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "block"]
    assert len(boxes) == 2 * 17 + 2
    assert [t for t in texts if t in ("+", "C")] == ["C", "+", "+", "+"]


def test_results_are_written(tmp_path):
    config = config_to_json(little_config())
    facts = {"feasible": True, "config": config}
    found = [
        Result(0, "sync1_6_a", 0.9, {**facts, "latency_us": 2000.0}),
        Result(1, "sync1_6_c", 0.8, {**facts, "latency_us": 1000.0}),
        Result(2, "sync2_16_aa", 0.7, {**facts, "latency_us": 1500.0}),
        Result(3, "sync2_26_aa", 0.0, {"feasible": False, "latency_us": 100.0}),
    ]
    assert [r.trial for r in pareto(found)] == [1, 0]
    written = {path.name for path in write_results(found, tmp_path, "title")}
    assert written == {"results.csv", "best.json", "best.svg", "pareto.png", "pareto.html"}
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5
    assert read_config(tmp_path / "best.json") == little_config()
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "sync2_16_aa" in (tmp_path / "pareto.html").read_text()


def test_a_branched_model_compiles(tmp_path, nothing_measured):
    """From a configuration to an executable, which is compared with onnxruntime."""
    model = BranchedModel(little_config("nnannnc", 0.25).scaled(0.2, 32), 10)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(0, 0.1)
        expected = model.eval()(image).numpy()
    export_onnx(model, tmp_path / "m.onnx", 32)
    result = compile_onnx(tmp_path / "m.onnx", output=tmp_path / "out", timed=False)
    assert result.deviation.max_rel <= 1e-4
    (found,) = load(tmp_path / "out")(image.numpy()).values()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()

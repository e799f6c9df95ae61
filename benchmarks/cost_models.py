"""How good the cost models are, beside baselines of the same run and the noise of the labels.

    PYTHONPATH=tests python benchmarks/cost_models.py ../shared/data [--models NAME ...] [--repeats 5] [--json FILE]

Sections: ``folds`` (10 folds grouped by workload; all that a model chooses it chooses on the training
folds), ``network`` (all kernels of MobileNetV2 held out), ``few-shot`` (20 kernels of a device that no
model has seen), ``plans`` (what planning with the model costs on RK3399), ``speed``, ``members`` (what
each member of the ensemble does alone), and ``nested`` (XGBoost's parameters chosen in each fold). Baselines: a line through log latency over log FLOPs per
kind of kernel, and the roofline with fitted efficiencies, bandwidth and launch time.

The noise of the labels is estimated from sweeps: kernels that differ in one number of channels alone.
What an inner rung differs from its neighbours' line, in log GFLOP/s over log channels, is noise (or what
no smooth model can follow), and a perfect smooth model still makes its mean absolute value in errors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from networks import print_table

from syncnas_tvm.cost_models.bands import distinct, squared
from syncnas_tvm.cost_models.base import FittedModel, kind_of
from syncnas_tvm.cost_models.calibration import Uncertainty
from syncnas_tvm.cost_models.columns import columns_of
from syncnas_tvm.cost_models.dataset import Dataset, workload
from syncnas_tvm.cost_models.devices import OTHERS, SHIPPED, Device
from syncnas_tvm.cost_models.ensemble import JITTERED, Ensemble
from syncnas_tvm.cost_models.evaluation import Accuracy, Labels, by_kind, cross_validate
from syncnas_tvm.cost_models.evaluation import measured as measured_latency
from syncnas_tvm.cost_models.features import features_of
from syncnas_tvm.cost_models.few_shot import FewShotModel, choose_kernels
from syncnas_tvm.cost_models.learned import LearnedModel, fitted_peak
from syncnas_tvm.cost_models.roofline import roofline_us
from syncnas_tvm.cost_models.train import labels_of, read_data, samples_of
from syncnas_tvm.cost_models.trees import Trees
from syncnas_tvm.targets import LanePeak
from syncnas_tvm.work import Kernel, Lane

MEMBERS = ("wide", "narrow", "trees", "mean")
BY = ("learned", "roofline", "FLOPs")
SECTIONS = ("folds", "network", "few-shot", "plans", "speed", "members", "nested")
CHOICES: tuple[dict[str, Any], ...] = tuple(
    {"max_depth": depth, "rounds": rounds, "eta": eta}
    for depth in (4, 6, 8)
    for rounds, eta in ((80, 0.15), (160, 0.08), (320, 0.04))
)
"""What section ``nested`` chooses from."""
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
"""Expansion, output channels, blocks, stride of the first: M. Sandler et al., MobileNetV2, CVPR 2018."""


@dataclass
class FlopsRegression(FittedModel):
    """Log latency as a line over log FLOPs, one per kind of kernel."""

    lines: dict[str, np.ndarray] = field(default_factory=dict)

    def fit(
        self,
        kernels: Sequence[Kernel],
        latency_us: np.ndarray,
        labels_us: np.ndarray | None = None,
    ) -> FlopsRegression:
        kinds = np.array([kind_of(k) for k in kernels])
        x, y = np.log([k.flops for k in kernels]), np.log(latency_us)
        for kind in {*kinds, ""}:
            mask = kinds == kind if kind else np.ones(len(kinds), bool)
            few = mask.sum() < 4
            self.lines[kind] = np.polyfit(x[~few | mask], y[~few | mask], 1)
        return self

    def predict(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, np.ndarray]:
        lines = [self.lines.get(kind_of(k), self.lines[""]) for k in kernels]
        us = np.exp([np.polyval(a, np.log(k.flops)) for a, k in zip(lines, kernels, strict=True)])
        return us, 0.4 * us

    def save(self, path: Path) -> None:
        raise NotImplementedError

    load = classmethod(lambda cls, path: cls())


@dataclass
class FittedRoofline(FlopsRegression):
    """The roofline with the efficiencies, bandwidth and launch time that fit best."""

    peak: LanePeak | None = None

    def fit(
        self,
        kernels: Sequence[Kernel],
        latency_us: np.ndarray,
        labels_us: np.ndarray | None = None,
    ) -> FittedRoofline:
        given = self.peak
        found = []
        for launch_us in (0, 5, 20, 50, 100, 200):
            for times in (0.25, 0.5, 1, 2, 4, 8):
                peak = replace(given, launch_us=launch_us, gbytes_per_s=given.gbytes_per_s * times)
                self.peak = fitted_peak(kernels, latency_us, peak)
                off = np.abs(np.log(self.predict(kernels)[0] / latency_us)).mean()
                found.append((off, self.peak))
        self.peak = min(found, key=lambda pair: pair[0])[1]
        return self

    def predict(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, np.ndarray]:
        us = np.array([roofline_us(kernel, self.peak) for kernel in kernels])
        return us, 0.3 * us


def models_of(device: Device) -> dict[str, Callable[[], FittedModel]]:
    return {
        "learned": partial(LearnedModel, device.peak),
        "roofline": partial(FittedRoofline, peak=device.peak),
        "FLOPs": FlopsRegression,
    }


def noise_floor(data: Dataset) -> tuple[float, float]:
    """Mean relative error that is left to a smooth model, and its share within 10 %, from sweeps of
    channels."""
    ladders: dict[object, list[tuple[float, float]]] = defaultdict(list)
    for sample in data:
        shapes = sample.kernel.shapes
        if sample.kernel.op != "nn.conv2d" or sample.kernel.is_depthwise:
            continue
        (_, into, *size), (out, _, *window), (_, _, *result) = shapes
        rate = np.log(sample.kernel.flops / sample.latency_us)
        ladders[out, *size, *window, *result].append((np.log(into), rate))
        ladders["out", into, *size, *window, *result].append((np.log(out), rate))
    rest = []
    for points in ladders.values():
        points = sorted(points)
        for (x0, a), (x, b), (x1, c) in zip(points, points[1:], points[2:], strict=False):
            if x1 - x0 < 0.35:  # neighbours within 1.4 times as many channels
                w = (x - x0) / (x1 - x0)
                # A residual has the variance of (1 + w^2 + (1 - w)^2) measurements.
                rest.append((b - (1 - w) * a - w * c) / np.sqrt(1 + w**2 + (1 - w) ** 2))
    off = np.abs(np.expm1(rest))
    return (float(off.mean()), float((off < 0.1).mean())) if len(off) >= 8 else (np.nan, np.nan)


def bootstrap(errors: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """A 95 % interval over kernels."""
    random = np.random.default_rng(0)
    draws = [statistic(errors[random.integers(len(errors), size=len(errors))]) for _ in range(1000)]
    return tuple(np.quantile(draws, [0.025, 0.975]))


def folds(
    data: dict[str, Dataset],
    labels: dict[str, Labels],
    devices: Sequence[Device],
    repeats: int,
    by: Sequence[str],
) -> list[dict]:
    """Section ``folds``."""
    rows = []
    for device in devices:
        samples = data[device.name]
        measured = samples.latency_us
        for name in by:
            make = models_of(device)[name]
            learn = labels[device.name] if name == "learned" else measured_latency
            runs = [cross_validate(samples, make, 0, labels=learn)]
            if name == "learned":  # intervals are those of the first repeat
                make = partial(LearnedModel, device.peak, uncertainty=Uncertainty())
            runs += [
                cross_validate(samples, make, seed, labels=learn) for seed in range(1, repeats)
            ]
            each = [Accuracy.of(us, std, measured) for us, std in runs]
            errors = np.mean([np.abs(us / measured - 1) for us, _ in runs], axis=0)
            close = np.mean([np.abs(us / measured - 1) < 0.1 for us, _ in runs], axis=0)
            kinds = by_kind(samples, *runs[0])
            rows.append({
                "model": device.name, "by": name, "kernels": len(samples),
                **{key: float(np.mean([getattr(a, key) for a in each])) for key in ("mape", "median", "within_10", "spearman")}, "covered": each[0].covered,
                "mape_95": bootstrap(errors, np.mean), "within_95": bootstrap(close, np.mean),
                "noise": noise_floor(samples)[0], "noise_10": noise_floor(samples)[1], "kinds": {k: vars(a) for k, a in kinds.items()},
            })  # fmt: skip
            print(f"{device.name}: {name} {rows[-1]['mape']:.2%}", flush=True)
    heads = ["model", "by", "kernels", "mean error", "95 %", "within 10 %", "95 %", "median", "Spearman", "90 % interval covers", "noise", "within 10 %"]  # fmt: skip
    print_table(heads, (
        (r["model"], r["by"], r["kernels"], f"{r['mape']:.2%}", _range(r["mape_95"]), f"{r['within_10']:.1%}", _range(r["within_95"]),
         f"{r['median']:.1%}", f"{r['spearman']:.3f}", f"{r['covered']:.0%}", f"{r['noise']:.1%}", f"{r['noise_10']:.0%}") for r in rows))  # fmt: skip
    return rows


def _range(pair: Sequence[float]) -> str:
    return f"{pair[0]:.1%} to {pair[1]:.1%}"


def mobilenet_v2(lane: Lane, dtype: str) -> list[list[Kernel]]:
    """MobileNetV2's convolutions by block: stem, 17 blocks, the last convolution."""

    def conv(into: int, out: int, side: int, window: int = 1, stride: int = 1, groups: int = 1) -> Kernel:  # fmt: skip
        after = side // stride
        attrs = (("strides", (stride,) * 2), ("padding", (window // 2,) * 4), ("dilation", (1, 1)), ("groups", groups))  # fmt: skip
        shapes = ((1, into, side, side), (out, into // groups, window, window), (1, out, after, after))  # fmt: skip
        return Kernel("nn.conv2d", shapes, dtype, lane, attrs)

    blocks, into, side = [[conv(3, 32, 224, 3, 2)]], 32, 112
    for expand, out, count, first in MOBILENET_V2:
        for stride in (first, *[1] * (count - 1)):
            wide = into * expand
            block = [conv(into, wide, side)] if expand > 1 else []
            block.append(conv(wide, wide, side, 3, stride, wide))
            side //= stride
            blocks.append([*block, conv(wide, out, side)])
            into = out
    return [*blocks, [conv(into, 1280, side)]]


def network(
    data: dict[str, Dataset], labels: dict[str, Labels], devices: Sequence[Device], repeats: int
) -> list[dict]:
    """Section ``network``."""
    rows = []
    for device in devices:
        samples = data[device.name]
        blocks = mobilenet_v2(device.lane, device.dtype)
        wanted = {workload(k) for block in blocks for k in block}
        known = {workload(s.kernel): s.latency_us for s in samples}
        whole = [b for b in blocks if all(workload(k) in known for k in b)]
        rest = samples.where(lambda s, w=wanted: workload(s.kernel) not in w)
        if len(whole) < 10:
            continue
        for name, make in models_of(device).items():
            nets, errors = [], []
            for seed in range(repeats if name == "learned" else 1):
                model = make()
                if isinstance(model, LearnedModel):
                    model.seed = seed
                learn = labels[device.name] if name == "learned" else measured_latency
                model.fit(rest.kernels, rest.latency_us, learn(rest))
                found = np.array([model.predict(b)[0].sum() for b in whole])
                true = np.array([sum(known[workload(k)] for k in b) for b in whole])
                nets.append(found.sum() / true.sum() - 1)
                errors.append(np.abs(found / true - 1).mean())
            rows.append({"model": device.name, "by": name, "trained_on": len(rest), "blocks": len(whole),
                         "network": float(np.mean(nets)), "block": float(np.mean(errors))})  # fmt: skip
    print_table(["model", "by", "trained on", "blocks", "whole network", "mean block error"], (
        (r["model"], r["by"], r["trained_on"], r["blocks"], f"{r['network']:+.1%}", f"{r['block']:.1%}") for r in rows))  # fmt: skip
    return rows


def few_shot(
    data: dict[str, Dataset], labels: dict[str, Labels], devices: Sequence[Device], repeats: int
) -> list[dict]:
    """Section ``few-shot``: all of a chip is held out, but for 20 kernels."""
    every = [*SHIPPED, *OTHERS]
    priors = {}
    for device in every:
        samples = data[device.name]
        priors[device.name] = LearnedModel(device.peak).fit(
            samples.kernels, samples.latency_us, labels[device.name](samples)
        )
    rows = []
    for device in devices:
        samples = data[device.name]
        others = [priors[d.name] for d in every if d.chip != device.chip]
        scores: dict[str, list[float]] = defaultdict(list)
        for seed in range(4 * repeats):
            for how in ("chosen", "random"):
                if how == "chosen":
                    chosen = np.array(choose_kernels(samples.kernels, 20, others, seed))
                else:
                    chosen = np.random.default_rng(seed).permutation(len(samples))[:20]
                rest = samples.take(np.setdiff1d(np.arange(len(samples)), chosen))
                few = samples.take(chosen)
                model = FewShotModel(others).fit(few.kernels, few.latency_us)
                scores[how].append(
                    np.abs(model.predict(rest.kernels)[0] / rest.latency_us - 1).mean()
                )
        rows.append({"model": device.name, **{k: float(np.mean(v)) for k, v in scores.items()}})
    print_table(["model", "20 chosen kernels", "20 random kernels"],
                ((r["model"], f"{r['chosen']:.1%}", f"{r['random']:.1%}") for r in rows))  # fmt: skip
    return rows


def plans(folder: Path, data: dict[str, Dataset]) -> list[dict]:
    """Section ``plans``: MobileNetV2 on RK3399, planned with a model and scored with the table that was
    measured. Whole kernels and cuts of channels are in the table, or between others that are; bands of
    rows were never measured: there the table is a power law, and so no judge of who is right.

    ``learned``: trained on all data, as it ships; ``held out``: without MobileNetV2's kernels.
    """
    import zoo

    from syncnas_tvm.candidates import decision_space
    from syncnas_tvm.cost_models import Roofline, read_tophub
    from syncnas_tvm.frontend import import_onnx
    from syncnas_tvm.graph.region_graph import RegionGraph
    from syncnas_tvm.planner import Budget, CostMode, Space, strategy
    from syncnas_tvm.targets import load_target

    target = load_target("rk3399")
    logs = [folder / "tophub" / name for name in ("arm_cpu_v0.08.log", "mali_v0.06.log")]
    table = read_tophub(logs, target).alone
    graph = RegionGraph(import_onnx(zoo.export("mobilenet_v2"), None).mod, target.channel_step)
    space = decision_space(graph)
    channels = Space(space.regions, tuple(
        tuple(c for c in here if c.decision.rule != "RowSplit") for here in space.candidates))  # fmt: skip
    wanted = {workload(k) for block in mobilenet_v2("cpu", "float32") for k in block}

    class Lanes(Roofline):
        def __init__(self, without: set[object]) -> None:
            self.models: dict[str, LearnedModel] = {}
            for device in SHIPPED[:2]:
                rest = data[device.name].where(lambda s: workload(s.kernel) not in without)
                model = LearnedModel(device.peak).fit(rest.kernels, rest.latency_us)
                self.models[device.lane] = model

        def predict(self, kernels):
            us, std = np.zeros(len(kernels)), np.zeros(len(kernels))
            for lane, model in self.models.items():
                here = [i for i, k in enumerate(kernels) if k.lane == lane]
                us[here], std[here] = model.predict([kernels[i] for i in here])
            return us, std

    models = {"learned": Lanes(set()), "held out": Lanes(wanted), "roofline": Roofline(target)}
    rows = []
    for rules, here in (("channels", channels), ("channels and rows", space)):
        for sync_us in (0.0, 50.0, 200.0, 500.0):
            true = CostMode("study", sync_us).scorer(here, target.costs, table)
            best = strategy("dp").run(here, true, Budget(seconds=60))
            for name, model in models.items():
                scorer = CostMode("study", sync_us).scorer(here, target.costs, model)
                found = strategy("dp").run(here, scorer, Budget(seconds=60))
                us = true.score(found.candidates)
                rows.append({"rules": rules, "sync_us": sync_us, "by": name, "best_us": best.score_us,
                             "us": us, "regret": us / best.score_us - 1})  # fmt: skip
    print_table(["splits by", "sync us", "planned with", "best ms", "chosen ms", "regret"], (
        (r["rules"], f"{r['sync_us']:g}", r["by"], f"{r['best_us'] / 1e3:.2f}", f"{r['us'] / 1e3:.2f}", f"{r['regret']:.2%}") for r in rows))  # fmt: skip
    return rows


def speed(devices: Sequence[Device]) -> list[dict]:
    """Section ``speed``: the shipped models, the fastest of 30 times. A network's plan space has each
    kernel of MobileNetV2 in cuts of 8 channels and in bands of rows."""
    import xgboost  # noqa: F401  (its import is not the model's)

    from syncnas_tvm.targets.loader import TRAINED

    rows = []
    for device in devices:
        path = TRAINED / f"{device.name}.npz"
        LearnedModel.load(path)
        load_s = min(_seconds(partial(LearnedModel.load, path)) for _ in range(5))
        model = LearnedModel.load(path)
        cuts = cuts_of(mobilenet_v2(device.lane, device.dtype))
        model.predict(cuts)
        seconds = min(_seconds(partial(model.predict, cuts)) for _ in range(30))
        columns = squared(columns_of(cuts))
        first, _ = distinct(columns)
        seen = features_of({name: column[first] for name, column in columns.items()})
        bare = min(_seconds(partial(model.learned.ensemble.predict, seen)) for _ in range(30))
        rows.append({"model": device.name, "load_ms": 1e3 * load_s, "kernels": len(cuts), "space_s": seconds,
                     "us_per_kernel": 1e6 * seconds / len(cuts), "ensemble_us": 1e6 * bare / len(cuts)})  # fmt: skip
    print_table(["model", "load ms", "kernels", "plan space s", "us a kernel", "of these the ensemble"], (
        (r["model"], f"{r['load_ms']:.1f}", r["kernels"], f"{r['space_s']:.3f}", f"{r['us_per_kernel']:.1f}", f"{r['ensemble_us']:.1f}") for r in rows))  # fmt: skip
    return rows


def cuts_of(blocks: Sequence[Sequence[Kernel]]) -> list[Kernel]:
    """Every distinct kernel of the blocks in cuts of 8 channels, and in bands of every height."""
    found: dict[Kernel, None] = {}
    for kernel in (k for block in blocks for k in block):
        (_, into, h, w), (out, share, *window), (_, _, rows, columns) = kernel.shapes
        for part in range(8, max(into, out) + 1, 8):
            if part <= out:
                data = (1, part if kernel.is_depthwise else into, h, w)
                shapes = (data, (part, share, *window), (1, part, rows, columns))
                found[replace(kernel, shapes=shapes)] = None
            if part <= into and not kernel.is_depthwise:
                shapes = ((1, part, h, w), (out, part, *window), (1, out, rows, columns))
                found[replace(kernel, shapes=shapes)] = None
        for band in range(1, rows + 1):
            reach = min(h, band * h // rows + window[0] - 1)
            shapes = ((1, into, reach, w), kernel.shapes[1], (1, out, band, columns))
            found[replace(kernel, shapes=shapes)] = None
    return list(found)


def members(data: dict[str, Dataset], devices: Sequence[Device], repeats: int) -> list[dict]:
    """Section ``members``: log GFLOP/s by each member alone and by their mean, without what keeps
    predictions to physics."""
    rows = []
    for device in devices:
        samples = data[device.name]
        seen = features_of(columns_of(samples.kernels))
        targets = np.log(np.exp2(seen["flops"]) / samples.latency_us / 1e3)
        errors, close = np.zeros((2, repeats, 4))
        for seed in range(repeats):
            found = np.zeros((3, len(samples)))
            for out in samples.folds(10, seed):
                rest = np.setdiff1d(np.arange(len(samples)), out)
                part = Ensemble.fit({k: v[rest] for k, v in seen.items()}, targets[rest])
                found[:, out] = part.members({k: v[out] for k, v in seen.items()})[0]
            every = np.vstack([found, found.mean(0)])
            off = np.abs(np.expm1(targets - every))
            errors[seed], close[seed] = off.mean(1), (off < 0.1).mean(1)
        rows.append({
            "model": device.name, **dict(zip(MEMBERS, errors.mean(0), strict=True)),
            "within_10": dict(zip(MEMBERS, close.mean(0), strict=True)),
        })  # fmt: skip
    print_table(["model", "wide Gaussian process", "narrow one", "XGBoost", "mean of the three"],
                ((r["model"], *(f"{r[k]:.2%} ({r['within_10'][k]:.0%})" for k in MEMBERS)) for r in rows))  # fmt: skip
    return rows


def nested(data: dict[str, Dataset], devices: Sequence[Device], repeats: int) -> list[dict]:
    """Section ``nested``: XGBoost's depth, rounds and rate chosen on the training folds alone, by an inner
    cross-validation of 4 folds, against the fixed ones that ship. Errors as in section ``members``."""
    rows = []
    for device in devices:
        samples = data[device.name]
        seen = features_of(columns_of(samples.kernels))
        targets = np.log(np.exp2(seen["flops"]) / samples.latency_us / 1e3)
        x = np.stack(list(seen.values()), axis=1)
        jittered = np.array([name in JITTERED for name in seen], float)

        def trees_of(rest: np.ndarray, out: np.ndarray, choice: dict[str, Any], x: np.ndarray = x,
                     y: np.ndarray = targets, jittered: np.ndarray = jittered) -> np.ndarray:  # fmt: skip
            return Trees.fit(x[rest], y[rest], jittered, **choice).predict(x[out])

        found = np.zeros((repeats, 2, len(samples)))
        chosen: Counter[int] = Counter()
        for seed in range(repeats):
            for out in samples.folds(10, seed):
                rest = np.setdiff1d(np.arange(len(samples)), out)
                inner = [rest[part] for part in samples.take(rest).folds(4, seed)]
                errors = [
                    np.mean([np.abs(trees_of(np.setdiff1d(rest, part), part, choice) - targets[part]).mean() for part in inner])
                    for choice in CHOICES
                ]  # fmt: skip
                best = int(np.argmin(errors))
                chosen[best] += 1
                fixed = Ensemble.fit({k: v[rest] for k, v in seen.items()}, targets[rest])
                every = fixed.members({k: v[out] for k, v in seen.items()})[0]
                found[seed, 0, out] = every.mean(0)
                every[2] = trees_of(rest, out, CHOICES[best])
                found[seed, 1, out] = every.mean(0)
        off = np.abs(np.expm1(targets - found))
        rows.append({
            "model": device.name, "fixed": float(off[:, 0].mean()), "nested": float(off[:, 1].mean()),
            "fixed_10": float((off[:, 0] < 0.1).mean()), "nested_10": float((off[:, 1] < 0.1).mean()),
            "chosen": [chosen[i] for i in range(len(CHOICES))],
        })  # fmt: skip
    print("choices:", *(", ".join(f"{k} {v}" for k, v in choice.items()) for choice in CHOICES), sep="\n- ")  # fmt: skip
    print_table(["model", "fixed", "within 10 %", "nested", "within 10 %", "how often each was chosen"], (
        (r["model"], f"{r['fixed']:.2%}", f"{r['fixed_10']:.1%}", f"{r['nested']:.2%}", f"{r['nested_10']:.1%}", r["chosen"]) for r in rows))  # fmt: skip
    return rows


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("data", type=Path, help="the folder with tophub/")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--models", nargs="+", default=[d.name for d in SHIPPED])
    parser.add_argument("--by", nargs="+", default=BY, choices=BY, help="of section folds")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    devices = [d for d in SHIPPED if d.name in options.models]
    every = read_data(sorted((options.data / "tophub").glob("*.log")))
    data = {device.name: samples_of(every, device) for device in (*SHIPPED, *OTHERS)}
    labels = {device.name: labels_of(every, device) for device in (*SHIPPED, *OTHERS)}
    print(f"{len(every)} samples; dropped: {dict(every.dropped)}")
    work: dict[str, Callable[[], list[dict]]] = {
        "folds": partial(folds, data, labels, devices, options.repeats, options.by),
        "network": partial(network, data, labels, devices, options.repeats),
        "few-shot": partial(few_shot, data, labels, devices, options.repeats),
        "plans": partial(plans, options.data, data),
        "speed": partial(speed, devices),
        "members": partial(members, data, devices, options.repeats),
        "nested": partial(nested, data, devices, options.repeats),
    }
    results: dict[str, list[dict]] = {}
    for section in options.sections:
        print(f"\n## {section}\n", flush=True)
        results[section] = work[section]()
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

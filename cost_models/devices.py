"""The devices whose kernels were measured, and the models that are trained for them."""

from __future__ import annotations

from dataclasses import dataclass

from syncnas_tvm.cost_models.fit_roofline import LANES
from syncnas_tvm.targets import LanePeak
from syncnas_tvm.work import Lane


@dataclass(frozen=True)
class Device:
    """One lane and type of a measured device: ``name`` is its model's, ``measured`` the device's in
    the logs, ``chip`` what shares its silicon; ``peak`` is nominal, as ``fit_roofline.py`` has it."""

    name: str
    chip: str
    measured: str
    lane: Lane
    dtype: str
    peak: LanePeak


def _peak(name: str, rate: float = 1.0) -> LanePeak:
    gflops, gbytes_per_s, launch_us = next(row[4:] for row in LANES if row[0] == name)
    return LanePeak(gflops * rate, gbytes_per_s, launch_us)


_RK3399, _MALI = "RK3399, 2x A72", "RK3399, Mali-T860 MP4"
_ADRENO = "Snapdragon 8 Gen 1, Adreno 730"

# Both GPUs compute twice as many halves as floats in a cycle.
SHIPPED: tuple[Device, ...] = (
    Device("rk3399-cpu-float32", "RK3399 CPU", "rk3399", "cpu", "float32", _peak(_RK3399)),
    Device("mali-t860-float32", "Mali-T860", "rk3399", "gpu", "float32", _peak(_MALI)),
    Device("mali-t860-float16", "Mali-T860", "rk3399", "gpu", "float16", _peak(_MALI, 2)),
    Device("snapdragon835-cpu-float32", "Snapdragon 835 CPU", "snapdragon835", "cpu", "float32", _peak("Snapdragon 835, 4x A73")),
    Device("kirin970-cpu-float32", "Kirin 970 CPU", "kirin970", "cpu", "float32", _peak("Kirin 970, 4x A73")),
    Device("adreno-730-float32", "Adreno 730", "adreno", "gpu", "float32", _peak(_ADRENO)),
    Device("adreno-730-float16", "Adreno 730", "adreno", "gpu", "float16", _peak(_ADRENO, 2)),
)  # fmt: skip

# 4x A53 at 1.2 GHz and 2x A9 at 0.65 GHz, 4 flops a cycle and core: too slow for a phone of today, but
# they help a few-shot model of another CPU.
OTHERS: tuple[Device, ...] = (
    Device("bcm2837-cpu-float32", "BCM2837 CPU", "bcm2837", "cpu", "float32", LanePeak(38.4, 3, 5)),
    Device("pynq-cpu-float32", "Zynq-7020 CPU", "pynq", "cpu", "float32", LanePeak(10.4, 2, 5)),
)

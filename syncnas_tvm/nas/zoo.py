"""The eleven networks that SyncNAS's readme tabulates, each as one description.

The readme's table is the starting point; the papers and their authors' code decide. Every network
says below where the two differ. What the table leaves out everywhere are activations and ratios of
squeeze-and-excite.
"""

from __future__ import annotations

from functools import partial

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.description import Block, Network

Stage = tuple[Block, ...]


def _ir(
    inputs: int,
    ratio: int,
    out: int,
    repeat: int = 1,
    stride: int = 1,
    kernel: int = 3,
    act: str = "relu",
    se: float = 0.0,
) -> Stage:
    """``repeat`` blocks that expand their input ``ratio`` times; the first has the stride."""
    first = Block(inputs * ratio, out, stride, (kernel,), act, se)
    return (first, *[Block(out * ratio, out, 1, (kernel,), act, se)] * (repeat - 1))


def _mobilenet_v2() -> Network:
    ir = partial(_ir, act="relu6")
    stages = (
        ir(32, 1, 16),
        ir(16, 6, 24, 2, 2),
        ir(24, 6, 32, 3, 2),
        ir(32, 6, 64, 4, 2),
        ir(64, 6, 96, 3),
        ir(96, 6, 160, 3, 2),
        ir(160, 6, 320),
    )
    return Network(
        "mobilenet_v2",
        32,
        stages,
        1280,
        act="relu6",
        head_scales="above",
        source="Sandler et al., CVPR 2018, table 2",
    )


def _mnasnet_a1() -> Network:
    # The table has no squeeze-and-excite here; the paper's figure 7 has it, with ratio 0.25, in
    # stages 3, 5 and 6.
    stages = (
        _ir(32, 1, 16),
        _ir(16, 6, 24, 2, 2),
        _ir(24, 3, 40, 3, 2, 5, se=0.25),
        _ir(40, 6, 80, 4, 2),
        _ir(80, 6, 112, 2, se=0.25),
        _ir(112, 6, 160, 3, 2, 5, se=0.25),
        _ir(160, 6, 320),
    )
    return Network("mnasnet_a1", 32, stages, 1280, source="Tan et al., CVPR 2019, figure 7 (A1)")


def _mnasnet_b1() -> Network:
    stages = (
        _ir(32, 1, 16),
        _ir(16, 3, 24, 3, 2),
        _ir(24, 3, 40, 3, 2, 5),
        _ir(40, 6, 80, 3, 2, 5),
        _ir(80, 6, 96, 2),
        _ir(96, 6, 192, 4, 2, 5),
        _ir(192, 6, 320),
    )
    return Network("mnasnet_b1", 32, stages, 1280, source="Tan et al., CVPR 2019, model B1")


def _fbnet(
    name: str, rows: tuple[tuple[tuple[int, int, int, int], ...], ...], source: str
) -> Network:
    """Stages of (ratio, out, stride, kernel); FBNet has an expand convolution even at ratio 1."""
    inputs, stages = 16, []
    for row in rows:
        blocks = []
        for ratio, out, stride, kernel in row:
            blocks.append(Block(inputs * ratio, out, stride, (kernel,), expand_conv=True))
            inputs = out
        stages.append(tuple(blocks))
    return Network(name, 16, tuple(stages), 1984, source=source)


def _fbnet_b() -> Network:
    # As the table (which writes 24,24 for 24-24 twice), block 3 of stage 4 being a "skip". Later code of
    # the authors expands block 2 of stage 4 six times. The paper says 4.5 M parameters and 295 M
    # multiply-adds; this has 4.81 M and 297 M with FBNet-C's head, which their code has too.
    return _fbnet(
        "fbnet_b",
        (
            ((1, 16, 1, 3),),
            ((6, 24, 2, 3), (1, 24, 1, 5), (1, 24, 1, 3), (1, 24, 1, 3)),
            ((6, 32, 2, 5), (3, 32, 1, 5), (6, 32, 1, 3), (6, 32, 1, 5)),
            ((6, 64, 2, 5), (1, 64, 1, 5), (3, 64, 1, 5)),
            ((6, 112, 1, 5), (1, 112, 1, 3), (1, 112, 1, 5), (3, 112, 1, 5)),
            ((6, 184, 2, 5), (1, 184, 1, 5), (6, 184, 1, 5), (6, 184, 1, 5)),
            ((6, 352, 1, 3),),
        ),
        "Wu et al., CVPR 2019, figure 4 (FBNet-B), as in the authors' first published code",
    )


def _fbnet_c() -> Network:
    # The table writes 24,24 for 24-24, and has stage 2 without the paper's "skip", as here. Its kernel in
    # block 2 there is 5; the authors' code, timm's model (5,572,200 parameters, which 5 would miss by 384)
    # and SyncNAS's own configurations have 3.
    return _fbnet(
        "fbnet_c",
        (
            ((1, 16, 1, 3),),
            ((6, 24, 2, 3), (1, 24, 1, 3), (1, 24, 1, 3)),
            ((6, 32, 2, 5), (3, 32, 1, 5), (6, 32, 1, 5), (6, 32, 1, 3)),
            ((6, 64, 2, 5), (3, 64, 1, 5), (6, 64, 1, 5), (6, 64, 1, 5)),
            ((6, 112, 1, 5), (6, 112, 1, 5), (6, 112, 1, 5), (3, 112, 1, 5)),
            ((6, 184, 2, 5), (6, 184, 1, 5), (6, 184, 1, 5), (6, 184, 1, 5)),
            ((6, 352, 1, 3),),
        ),
        "Wu et al., CVPR 2019, figure 4 (FBNet-C)",
    )


def _proxylessnas_r() -> Network:
    ir = partial(_ir, act="relu6")
    stages = (
        ir(32, 1, 16),
        ir(16, 3, 32, 1, 2, 5) + ir(32, 3, 32),
        ir(32, 3, 40, 1, 2, 7) + ir(40, 3, 40) + ir(40, 3, 40, 2, 1, 5),
        ir(40, 6, 80, 1, 2, 7) + ir(80, 3, 80, 3, 1, 5),
        ir(80, 6, 96, 1, 1, 5) + ir(96, 3, 96, 3, 1, 5),
        ir(96, 6, 192, 2, 2, 7) + ir(192, 3, 192, 2, 1, 7),
        ir(192, 6, 320, 1, 1, 7),
    )
    return Network(
        "proxylessnas_r",
        32,
        stages,
        1280,
        act="relu6",
        source="Cai et al., ICLR 2019: ProxylessNAS for mobile phones, figure 4 (c), ReLU6 as published",
    )


def _single_path_nas() -> Network:
    stages = (
        _ir(32, 1, 16),
        _ir(16, 3, 24, 3, 2),
        _ir(24, 6, 40, 1, 2, 5) + _ir(40, 3, 40, 3),
        _ir(40, 6, 80, 1, 2, 5) + _ir(80, 3, 80, 3),
        _ir(80, 6, 96, 1, 1, 5) + _ir(96, 3, 96, 3, 1, 5),
        _ir(96, 6, 192, 4, 2, 5),
        _ir(192, 6, 320),
    )
    return Network(
        "single_path_nas", 32, stages, 1280, source="Stamoulis et al., ECML PKDD 2019, figure 4"
    )


def _mobilenet_v3_large() -> Network:
    def v3(expand: int, out: int, stride: int, kernel: int, act: str, se: float = 0.0) -> Block:
        return Block(expand, out, stride, (kernel,), act, se)

    # The table has a stem of 32 channels and a first block of 32-16; the paper has 16 and 16-16. Its
    # stage 5 has squeeze-and-excite in both blocks, as the paper. The "Conv2D" of stage 7 is the head.
    swish = "hard_swish"
    stages = (
        (v3(16, 16, 1, 3, "relu"),),
        (v3(64, 24, 2, 3, "relu"), v3(72, 24, 1, 3, "relu")),
        (v3(72, 40, 2, 5, "relu", 0.25), *[v3(120, 40, 1, 5, "relu", 0.25)] * 2),
        (v3(240, 80, 2, 3, swish), v3(200, 80, 1, 3, swish), *[v3(184, 80, 1, 3, swish)] * 2),
        (v3(480, 112, 1, 3, swish, 0.25), v3(672, 112, 1, 3, swish, 0.25)),
        (v3(672, 160, 2, 5, swish, 0.25), *[v3(960, 160, 1, 5, swish, 0.25)] * 2),
    )
    return Network(
        "mobilenet_v3_large",
        16,
        stages,
        960,
        act=swish,
        head_scales="always",
        hidden=1280,
        se_base="expanded",
        se_rounding="eights",
        se_act="relu",
        gate="hard_sigmoid",
        source="Howard et al., ICCV 2019, table 1",
    )


def _efficientnet_b0() -> Network:
    ir = partial(_ir, act="silu", se=0.25)
    # The table marks squeeze-and-excite in some stages only; the paper has it in every block.
    stages = (
        ir(32, 1, 16),
        ir(16, 6, 24, 2, 2),
        ir(24, 6, 40, 2, 2, 5),
        ir(40, 6, 80, 3, 2),
        ir(80, 6, 112, 3, 1, 5),
        ir(112, 6, 192, 4, 2, 5),
        ir(192, 6, 320),
    )
    return Network(
        "efficientnet_b0",
        32,
        stages,
        1280,
        act="silu",
        head_scales="always",
        source="Tan and Le, ICML 2019, table 1",
    )


def _mixnet_m() -> Network:
    def mix(
        expand: int, out: int, kernels: tuple[int, ...], se: float, groups: tuple[int, int] = (2, 2)
    ) -> Block:
        return Block(expand, out, 1, kernels, "silu", se, False, *groups)

    def down(expand: int, out: int, kernels: tuple[int, ...], se: float, stride: int = 2) -> Block:
        return Block(expand, out, stride, kernels, "silu", se)

    # The table leaves out that most pointwise convolutions are cut into two groups (the authors'
    # code), and expands 80 channels three times where the paper does six times (stage 4). It puts the
    # last block of 200 channels into a stage of its own, as is done here.
    k5, k7, k9 = (3, 5), (3, 5, 7), (3, 5, 7, 9)
    last = mix(1200, 200, k9, 0.5, (1, 2))
    stages = (
        (Block(24, 24),),
        (
            Block(144, 32, 2, k7, expand_groups=2, project_groups=2),
            Block(96, 32, expand_groups=2, project_groups=2),
        ),
        (down(192, 40, k9, 0.5), *[mix(240, 40, k5, 0.5)] * 3),
        (down(240, 80, k7, 0.25), *[mix(480, 80, k9, 0.25)] * 3),
        (down(480, 120, (3,), 0.5, 1), *[mix(360, 120, k9, 0.5)] * 3),
        (down(720, 200, k9, 0.5), *[last] * 2),
        (last,),
    )
    return Network(
        "mixnet_m", 24, stages, 1536, source="Tan and Le, BMVC 2019, figure 4 (MixNet-M)"
    )


def _rexnet_1_0() -> Network:
    # Widths grow evenly from block to block, 16 to 185. The table leaves out that residuals are added
    # although the widths differ, and where the activations are. It marks no squeeze-and-excite in
    # stage 7; the published model has it from stage 3 to the end: 4,796,873 parameters, 4,613,912 without.
    widths = [round(16 + i * 180 / 16) for i in range(16)]
    counts, strides = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)
    inputs, stages = 32, []
    for index, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        blocks = []
        for number in range(count):
            out, se = widths.pop(0), 1 / 12 if index > 1 else 0.0
            expand = inputs * (6 if index else 1)
            blocks.append(Block(expand, out, stride if number == 0 else 1, (3,), "silu", se))
            inputs = out
        stages.append(tuple(blocks))
    return Network(
        "rexnet_1_0",
        32,
        tuple(stages),
        1280,
        act="silu",
        head_scales="always",
        se_base="expanded",
        se_act="relu",
        rexnet=True,
        source="Han et al., CVPR 2021, table 4 (ReXNet 1.0x)",
    )


ZOO: dict[str, Network] = {
    network.name: network
    for network in (
        _mobilenet_v2(),
        _mnasnet_a1(),
        _mnasnet_b1(),
        _fbnet_b(),
        _fbnet_c(),
        _proxylessnas_r(),
        _single_path_nas(),
        _mobilenet_v3_large(),
        _efficientnet_b0(),
        _mixnet_m(),
        _rexnet_1_0(),
    )
}
"""Every network at width 1, by name."""


def network(name: str, width: float = 1.0) -> Network:
    """The network ``name`` at ``width``; raises InputError naming those that there are."""
    if name not in ZOO:
        raise InputError(f"unknown network '{name}'; take one of {', '.join(ZOO)}")
    return ZOO[name].scaled(width)

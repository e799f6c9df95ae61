"""SyncNAS: searching architectures whose branches synchronize as little as they must.

After Kang, Lee and others, "Synchronization-aware NAS for an Efficient Collaborative Inference on
Mobile Platforms" (LCTES 2023). Networks, branched configurations, strategies and the determination
of widths are plain data and need no torch; modules that build or train import it.
"""

from syncnas_tvm.nas.description import Block, BlockShape, Network
from syncnas_tvm.nas.zoo import ZOO, network

__all__ = ["ZOO", "Block", "BlockShape", "Network", "network"]

"""What may be chosen in a packed kernel's schedule: the rules choose one way, tuning tries others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiling:
    """The numbers in a schedule; a family of kernels on a lane uses some of them, the others stay.

    ``pixels`` by ``channels`` vectors are computed together; ``unrolled`` of the reduction's
    innermost loops are unrolled with them. ``rows`` of Winograd's tiles are transformed at a time.
    ``channels_first`` (0 or 1) goes through all pixels of some channels before the next channels.
    ``items`` limits the work items of a GPU's work group.
    """

    pixels: int = 1
    channels: int = 1
    unrolled: int = 0
    rows: int = 1
    channels_first: int = 0
    items: int = 1

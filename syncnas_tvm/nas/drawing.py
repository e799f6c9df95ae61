"""Draws a branched configuration as SVG: two columns of blocks, sync nodes between them."""

from __future__ import annotations

from xml.sax.saxutils import escape

from syncnas_tvm.nas.branched import BranchedConfig, ConvRow, Row

BOX_W, BOX_H, GAP, COLUMN_GAP, MARGIN = 176, 26, 10, 40, 20
FILLS = {"conv": "#e8e8e8", 0: "#dbe9f6", 1: "#fde5d2", "stage": "#888888"}
SYNCS = {"a": "+", "c": "C"}


def draw(config: BranchedConfig) -> str:
    """The configuration as an SVG document.

    The first branch (the CPU's) is on the left; a block says ``(in, exp, out) k, s``. Where the
    branches meet, a circle says ``+`` for added or ``C`` for concatenated; a bar on the left counts
    the stages from 0.
    """
    return _Drawing(config).svg()


class _Drawing:
    def __init__(self, config: BranchedConfig) -> None:
        self.config = config
        self.parts: list[str] = []
        self.y = float(MARGIN)
        self.left = float(MARGIN + 40)
        self.x = (self.left, self.left + BOX_W + COLUMN_GAP)
        self.middle = self.left + BOX_W + COLUMN_GAP / 2

    def svg(self) -> str:
        config = self.config
        self._text(self.middle, self.y + 8, config.name, size=15)
        self.y += 30
        self._conv("stem", config.stem)
        tails = [self.y, self.y]
        forked = True
        for number, (stage, kind) in enumerate(zip(config.stages, config.sync, strict=True)):
            top = self.y + GAP
            for branch, rows in enumerate(stage):
                tails[branch] = self._branch(branch, rows, top, tails[branch], forked)
            self.y = max(tails)
            self._stage(number, top, self.y)
            forked = kind != "n"
            if forked:
                self._sync(kind, tails)
                tails = [self.y, self.y]
        self._line(self.middle, self.y, self.middle, self.y + GAP)
        self.y += GAP
        self._conv("head", config.head)
        width, height = self.x[1] + BOX_W + MARGIN, self.y + MARGIN
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
            f' viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">\n'
            f"<title>{escape(config.name)}</title>\n"
            '<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    def _branch(
        self, branch: int, rows: tuple[Row, ...], top: float, tail: float, forked: bool
    ) -> float:
        """Boxes of a branch from ``top`` down; returns where the last one ends."""
        centre = self.x[branch] + BOX_W / 2
        self._line(self.middle if forked else centre, tail, centre, top)
        for index, row in enumerate(rows):
            y = top + index * (BOX_H + GAP)
            if index:
                self._line(centre, y - GAP, centre, y)
            label = f"({row.inputs}, {row.expand}, {row.out}) {row.kernel}, {row.stride}"
            self._box(self.x[branch], y, label, FILLS[branch])
        return top + len(rows) * (BOX_H + GAP) - GAP

    def _sync(self, kind: str, tails: list[float]) -> None:
        y = max(tails) + GAP + 11
        for branch, tail in enumerate(tails):
            self._line(self.x[branch] + BOX_W / 2, tail, self.middle, y)
        self.parts.append(
            f'<circle class="sync" cx="{self.middle:g}" cy="{y:g}" r="11" fill="white"'
            ' stroke="#c0392b" stroke-width="2"/>'
        )
        self._text(self.middle, y + 4, SYNCS[kind], colour="#c0392b", size=14)
        self.y = y + 11

    def _stage(self, number: int, top: float, bottom: float) -> None:
        x = MARGIN + 22
        self._line(x, top, x, bottom, FILLS["stage"], 2)
        self._text(MARGIN + 8, (top + bottom) / 2 + 4, str(number), colour=FILLS["stage"])

    def _conv(self, name: str, row: ConvRow) -> None:
        label = f"{name} ({row.inputs}, {row.out}) {row.kernel}, {row.stride}"
        self._box(self.middle - BOX_W / 2, self.y, label, FILLS["conv"])
        self.y += BOX_H

    def _box(self, x: float, y: float, label: str, fill: str) -> None:
        self.parts.append(
            f'<rect class="block" x="{x:g}" y="{y:g}" width="{BOX_W}" height="{BOX_H}" rx="5"'
            f' fill="{fill}" stroke="#444444"/>'
        )
        self._text(x + BOX_W / 2, y + BOX_H / 2 + 4, label)

    def _line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = "#444444", width: int = 1
    ) -> None:
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"'
            f' stroke-width="{width}"/>'
        )

    def _text(self, x: float, y: float, text: str, colour: str = "#111111", size: int = 12) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="middle" fill="{colour}" font-size="{size}">'
            f"{escape(text)}</text>"
        )

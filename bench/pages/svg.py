"""A small writer of plots as SVG: the same numbers always give the same bytes, in light and in dark.

Colours are classes of one style sheet, which follows the reader's colour scheme; text is text, so that it can
be searched and read aloud.
"""

from collections.abc import Sequence
from html import escape

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_STYLE = """
  text { font: 13px FONT; fill: #1f2328 }
  .small { font-size: 11.5px; fill: #59636e }
  .title { font-size: 15px; font-weight: 600 }
  .value { font-weight: 600 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .mark { stroke: #59636e; stroke-width: 1.5; stroke-dasharray: 4 3; fill: none }
  .whisker { stroke: #1f2328; stroke-width: 1.25; fill: none }
  .track { fill: #59636e; fill-opacity: 0.13 }
  .line { fill: none; stroke-width: 2.25; stroke-linejoin: round }
  .a { fill: #0f7b55 } .line.a, .ring.a { stroke: #0f7b55; fill: none }
  .b { fill: #2563c4 } .line.b, .ring.b { stroke: #2563c4; fill: none }
  .c { fill: #c05717 } .line.c, .ring.c { stroke: #c05717; fill: none }
  .ring { stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .grid { stroke: #3d444d } .mark { stroke: #9198a1 } .whisker { stroke: #e6edf3 }
    .track { fill: #9198a1; fill-opacity: 0.2 }
    .a { fill: #3fb987 } .line.a, .ring.a { stroke: #3fb987; fill: none }
    .b { fill: #6ea3f5 } .line.b, .ring.b { stroke: #6ea3f5; fill: none }
    .c { fill: #f0934e } .line.c, .ring.c { stroke: #f0934e; fill: none }
  }
""".replace("FONT", FONT)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


class Drawing:
    """A picture that grows downward.

    Args:
        width: In pixels.
        height: In pixels.
        title: What it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Write words whose baseline begins, is centred or ends (`anchor`) at a point."""
        chosen = f' class="{style}"' if style else ""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(f'<text x="{_number(x)}" y="{_number(y)}"{chosen}{where}>{escape(words)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """Draw a horizontal bar with slightly rounded corners."""
        size = f'width="{_number(max(width, 0))}" height="{_number(height)}"'
        self._parts.append(f'<rect x="{_number(x)}" y="{_number(y)}" {size} rx="2" class="{style}"/>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Join points."""
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" class="{style}"/>')

    def dot(self, x: float, y: float, style: str, radius: float = 4) -> None:
        """Draw a dot; of style ``ring`` hollow."""
        where = f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(radius)}"'
        self._parts.append(f'<circle {where} class="{style}"/>')

    def to_text(self) -> str:
        """Return the file."""
        size = f"{_number(self.width)} {_number(self.height)}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">'
        told = f"<title>{escape(self._title)}</title>"
        return "\n".join([head, told, f"<style>{_STYLE}</style>", *self._parts, "</svg>", ""])

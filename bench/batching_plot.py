"""Draws what `batching.py` measured: ``python bench/batching_plot.py RESULT.json --out FILE.svg``.

Three charts over the inter-token p95 that 95 % of the streams keep, each line one load, each point one way to
fill steps: tokens a second under more load than the engine can bear, time to first tokens under a load that
it can, and the share of requests within their objectives. SVG is written by hand: no library is needed.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 330, 250
LEFT, TOP, BOTTOM = 62, 44, 44
GAP = 34
COLOURS = ("#1f6f8b", "#c0562f", "#5c7f2b", "#7a4a9e", "#8a6d1d")

Point = tuple[float, float]


def polyline(points: Sequence[Point], colour: str) -> str:
    """Return a line through points of the page."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def text(
    x: float, y: float, words: str, *, anchor: str = "middle", colour: str = "#333", size: int = 11
) -> str:
    """Return words at a place of the page."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">'
        f"{escape(words)}</text>"
    )


def mark(x: float, y: float, colour: str, shape: str) -> str:
    """Return a point: filled for a target, a square for a mode without one."""
    if shape == "latency":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    side = 7
    fill = colour if shape == "size" else "#fff"
    return (
        f'<rect x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}" '
        f'fill="{fill}" stroke="{colour}" stroke-width="1.4"/>'
    )


def ticks(most: float) -> list[float]:
    """Return round values from 0 to the first that is not below `most`."""
    power = 10.0 ** (len(str(int(most * 1e6))) - 7)
    step = next(size * power for size in (0.2, 0.5, 1, 2) if size * power * 5 >= most)
    n_steps = -int(-most / step // 1)
    return [step * number for number in range(n_steps + 1)]


def chart(
    number: int,
    title: str,
    lines: Sequence[tuple[str, Sequence[dict[str, Any]]]],
    value: Callable[[dict[str, Any]], float],
    shown: Callable[[float], str],
) -> str:
    """Return one chart.

    Args:
        number: Its place, from the left.
        title: What is over its vertical axis.
        lines: For each load its name and points, each with `x`, `mode` and figures.
        value: What of a point is drawn.
        shown: How a value is written.
    """
    left = LEFT + number * (WIDTH + GAP + LEFT)
    values = [value(point) for _, points in lines for point in points]
    across = ticks(max(point["x"] for _, points in lines for point in points))
    up = ticks(max(values))
    most_x, most_y = across[-1], up[-1]

    def at(point: dict[str, Any]) -> Point:
        x = left + WIDTH * point["x"] / most_x
        return x, TOP + HEIGHT * (1 - value(point) / most_y)

    parts = [text(left, TOP - 26, title, anchor="start", size=13)]
    for tick in up:
        y = TOP + HEIGHT * (1 - tick / most_y)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, shown(tick), anchor="end"))
    parts += [text(left + WIDTH * tick / most_x, TOP + HEIGHT + 16, f"{1000 * tick:.0f}") for tick in across]
    parts.append(text(left + WIDTH / 2, TOP + HEIGHT + 34, "inter-token p95 that 95 % of streams keep, ms"))
    for index, (name, points) in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(polyline([at(point) for point in points if point["mode"] == "latency"], colour))
        parts += [mark(*at(point), colour, point["mode"]) for point in points]
        parts.append(text(left + 105 * index, TOP - 10, name, anchor="start", colour=colour))
    return "\n".join(parts)


def loads(cases: Sequence[dict[str, Any]]) -> dict[float, list[dict[str, Any]]]:
    """Return the points of every load: the targets, and the modes without one, in the default order."""
    plain = [case for case in cases if "," not in case["name"]]
    found: dict[float, list[dict[str, Any]]] = {}
    for case in plain:
        for point in case["points"]:
            drawn = {**point, "mode": case["policy"]["mode"], "x": point["stream_itl_p95_s"]}
            found.setdefault(point["rate"], []).append(drawn)
    return found


def main() -> None:
    """Draw a result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report = json.loads(options.result.read_text())
    by_rate = loads(report["simulated"][0]["cases"])
    rates = sorted(by_rate)
    heaviest = rates[-1]
    bearable = rates[:-1]
    lines = [(f"{rate:g} requests/s", by_rate[rate]) for rate in bearable]
    charts = [
        chart(
            0,
            "Tokens/s, overloaded",
            [(f"{heaviest:g} requests/s", by_rate[heaviest])],
            lambda point: float(point["tokens_per_s"]),
            lambda value: f"{value:.0f}",
        ),
        chart(
            1,
            "Time to first token, p95",
            lines,
            lambda point: float(point["ttft_p95_s"]),
            lambda value: f"{value:.1f} s",
        ),
        chart(
            2,
            "Requests within objectives",
            lines,
            lambda point: float(point["good_share"]),
            lambda value: f"{100 * value:.0f} %",
        ),
    ]
    width = 3 * (WIDTH + GAP + LEFT) + 10
    key = (
        f"lines: batching = latency, itl_target_s from 20 to 250 ms · filled squares: size · "
        f"open squares: time · {report['fingerprint']}, {report['threads']} threads; simulated from steps"
    )
    height = TOP + HEIGHT + BOTTOM + 26
    options.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(charts)
        + "\n"
        + text(LEFT, height - 10, key, anchor="start")
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()

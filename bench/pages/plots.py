"""The plots: speed beside the peers, the way to the processor's limits, answers in time by load."""

import statistics
from collections.abc import Mapping

from pages.figures import (
    ENGINES,
    OURS,
    SERVERS,
    TIMES,
    Result,
    best,
    engines_of,
    figure,
    spoken,
    times,
    tokens_of,
    where,
)
from pages.scales import label, round_scale
from pages.svg import Drawing

WIDTH = 760
LEFT = 172
RIGHT = WIDTH - 62
STYLES = {"stoker": "a", "llama.cpp": "b", "openvino": "c", "llama-server": "b", "vLLM CPU": "c"}
BAR = 13
HEAD = 84


def _heading(drawing: Drawing, title: str, told: str, legend: Mapping[str, str], mark: str = "") -> None:
    drawing.text(16, 26, title, "title")
    drawing.text(16, 46, told, "small")
    x = 16.0
    for style, words in legend.items():
        drawing.bar(x, 58, 12, 12, style)
        drawing.text(x + 18, 68, words, "small")
        x += 40 + 6.4 * len(words)
    if mark:
        drawing.line([(x, 64), (x + 22, 64)], "mark")
        drawing.text(x + 28, 68, mark, "small")


def speed_plot(result: Result) -> str:
    """Return how many times as long as Stoker the peers take, a group of bars for each case."""
    engines = engines_of(result)
    cases = list(result["summary_s"])
    group = len(engines) * (BAR + 2) + 12
    height = HEAD + len(cases) * group + 34
    drawing = Drawing(WIDTH, height, "How many times as long as Stoker other engines take")
    title = "How many times as long as Stoker other engines take"
    legend = {STYLES[engine]: ENGINES[engine] for engine in engines}
    _heading(drawing, title, where(result, in_short=True), legend, "as fast as Stoker")
    found = {
        (case, engine): each.ratio
        for case in cases
        for engine in engines
        if (each := best(result, case, engine)) is not None and each.ratio is not None
    }
    scale = round_scale(max(high for _, _, high in found.values()), LEFT, RIGHT)
    bottom = HEAD + len(cases) * group
    for tick in scale.ticks():
        drawing.line([(scale(tick), HEAD - 4), (scale(tick), bottom)], "grid")
        drawing.text(scale(tick), bottom + 18, f"{label(tick)}{TIMES}", "small", "middle")
    for i, case in enumerate(cases):
        y = HEAD + i * group + 4
        drawing.text(LEFT - 10, y + (group - 12) / 2 + 4, spoken(case), anchor="end")
        for engine in engines:
            if (case, engine) in found:
                median, low, high = found[case, engine]
                drawing.bar(LEFT, y, scale(median) - LEFT, BAR, STYLES[engine])
                middle = y + BAR / 2
                drawing.line([(scale(low), middle), (scale(high), middle)], "whisker")
                drawing.text(scale(max(median, high)) + 7, y + BAR - 2, times(median), "small value")
            y += BAR + 2
    drawing.line([(scale(1), HEAD - 4), (scale(1), bottom)], "mark")
    return drawing.to_text()


def limits_of(result: Result) -> dict[str, float] | None:
    """Return the medians of the processor's limits, or None if the run did not measure them."""
    if not result["limits"]:
        return None
    names = ("dot_ops_per_s", "read_bytes_per_s")
    return {name: statistics.median(one[name] for one in result["limits"]) for name in names}


def shares(result: Result) -> dict[str, dict[str, float]]:
    """Return what share of the processor's limits was reached, by case and engine.

    Of prompts, operations of the matrix products by the peak of integer operations, for every engine; of
    steps of one sequence, bytes of weights and KV as Stoker holds them by the read bandwidth, for Stoker.
    """
    limits = limits_of(result)
    if limits is None:
        return {}
    found: dict[str, dict[str, float]] = {}
    for case, work in result["work"].items():
        if tokens_of(case):
            least_s = work["matrix_ops"] / limits["dot_ops_per_s"]
            names = {OURS: figure(result, case, OURS)}
            names |= {engine: each for engine in ENGINES if (each := best(result, case, engine)) is not None}
            found[case] = {name: least_s / each.seconds[0] for name, each in names.items()}
        elif case.startswith("decode 1x"):
            least_s = (work["weight_bytes"] + work["kv_bytes"]) / limits["read_bytes_per_s"]
            found[case] = {OURS: least_s / figure(result, case, OURS).seconds[0]}
    return found


def limits_plot(results: Mapping[str, Result]) -> str | None:
    """Return the shares of the limits, of every model that was measured; None if no run measured them.

    Args:
        results: By the model's name.
    """
    rows: dict[str, list[tuple[str, str, float]]] = {"ops": [], "bytes": []}
    for model, result in results.items():
        for case, of_case in shares(result).items():
            kind = "ops" if tokens_of(case) else "bytes"
            for engine, share in of_case.items():
                rows[kind].append((f"{model}, {spoken(case)}", engine, share))
    if not any(rows.values()):
        return None
    titles = {
        "ops": "Prefill: operations of the matrix products, as a share of the peak of integer dot products",
        "bytes": "Decode of one sequence: bytes of weights and KV, as a share of the read bandwidth",
    }
    step = BAR + 5
    gaps = {kind: 5 * (len({row for row, _, _ in of_kind}) - 1) for kind, of_kind in rows.items()}
    height = HEAD + sum(34 + gaps[kind] + step * len(rows[kind]) for kind in rows if rows[kind]) + 12
    drawing = Drawing(WIDTH, height, "What was reached of what the processor allows")
    engines = {engine for of_kind in rows.values() for _, engine, _ in of_kind}
    names = {OURS: "Stoker", **ENGINES}
    legend = {STYLES[engine]: words for engine, words in names.items() if engine in engines}
    told = where(next(result for result in results.values() if shares(result)), in_short=True)
    _heading(drawing, "What was reached of what the processor allows", told, legend)
    y = float(HEAD)
    scale = round_scale(1.0, LEFT + 30, RIGHT, about=4)
    for kind, of_kind in rows.items():
        if not of_kind:
            continue
        drawing.text(16, y + 14, titles[kind], "small")
        y += 24
        before = ""
        for row, engine, share in of_kind:
            if row != before:
                y += 5 if before else 0
                drawing.text(LEFT + 20, y + BAR - 2, row, anchor="end")
            before = row
            drawing.bar(scale(0), y, scale(1) - scale(0), BAR, "track")
            drawing.bar(scale(0), y, scale(min(share, 1.0)) - scale(0), BAR, STYLES[engine])
            drawing.text(RIGHT + 8, y + BAR - 2, f"{share:.0%}", "small value")
            y += step
        y += 10
    return drawing.to_text()


def goodput_plot(result: Result) -> str:
    """Return which share of requests was served in time at each rate, a line for each server.

    A hollow dot is a trial that was ended once too many requests had missed the service level.
    """
    found = result["open"]["servers"]
    height, bottom, top = 356, 308, 96
    title = "Requests within the service level, by load"
    drawing = Drawing(WIDTH, height, title)
    names = {name: _server(name) for name in found}
    legend = {}
    for name, key in names.items():
        highest = found[name]["highest_rate"]
        reached = f"{highest:.2g}/s" if highest is not None else "none"
        legend[STYLES[key]] = f"{'Stoker' if key == OURS else SERVERS[key]}: {reached}"
    wanted = result["slo"]["share"]
    _heading(drawing, title, where(result, in_short=True), legend, f"{wanted:.0%} of the requests")
    rates = [trial["rate"] for of_server in found.values() for trial in of_server["trials"]]
    x = round_scale(max(rates), 64, RIGHT, about=8)
    y = round_scale(1.0, bottom, top, about=5)
    for tick in y.ticks():
        drawing.line([(64, y(tick)), (RIGHT, y(tick))], "grid")
        drawing.text(56, y(tick) + 4, f"{tick:.0%}", "small", "end")
    for tick in x.ticks():
        drawing.text(x(tick), bottom + 18, label(tick), "small", "middle")
    drawing.text((64 + RIGHT) / 2, bottom + 38, "requests a second that arrive", "small", "middle")
    drawing.line([(64, y(wanted)), (RIGHT, y(wanted))], "mark")
    for name, of_server in found.items():
        style = STYLES[names[name]]
        trials = sorted(of_server["trials"], key=lambda trial: trial["rate"])
        points = [(x(trial["rate"]), y(trial["summary"]["share_met"])) for trial in trials]
        drawing.line(points, f"line {style}")
        for (at_x, at_y), trial in zip(points, trials, strict=True):
            early = "given_up" in trial["summary"]["errors"]
            drawing.dot(at_x, at_y, f"ring {style}" if early else style)
    return drawing.to_text()


def _server(name: str) -> str:
    return next((key for key in SERVERS if name.startswith(key)), OURS)

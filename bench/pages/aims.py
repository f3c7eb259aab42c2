"""What Stoker aims at, and what of it was reached."""

from collections.abc import Iterator
from dataclasses import dataclass

from pages.figures import ENGINES, OURS, TIMES, Result, best, spoken, times
from pages.plots import shares
from pages.tables import best_server, table

ENGINE_AIMS = {
    "prefill 512": {"openvino": 1.5, "llama.cpp": 2.2},
    "prefill 2048": {"openvino": 2.5, "llama.cpp": 2.5},
    "decode 1x128": {"llama.cpp": 2.2},
    "decode 1x2048": {"llama.cpp": 3.0},
    "decode 16x512": {"openvino": 2.5, "llama.cpp": 4.0},
    "decode 32x512": {"openvino": 2.5, "llama.cpp": 4.0},
}
"""How many times as long as Stoker a peer is to take."""

EIGHT_BITS, EIGHT_BIT_CASES, EIGHT_BIT_AIM = "openvino by 8-bit KV", ("decode 16x2048", "decode 32x2048"), 2.0
PRODUCTS_AIM, READ_AIM, SHAPE_READ_AIM = 0.65, 0.65, 0.80
CLIENTS_AIM, OF_ENGINE_AIM, RATE_AIM, PREFIX_AIM = 3.0, 0.75, 3.0, 3.0
ADDED_AIM, MEMORY_AIM = 0.05, 200e6


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Attributes:
        what: What is measured.
        wanted: The least or most that is wanted, as people read it.
        reached: Likewise what was measured.
        met: Whether that is enough.
    """

    what: str
    wanted: str
    reached: str
    met: bool

    @classmethod
    def least(cls, what: str, wanted: float, reached: float) -> "Aim":
        """Return an aim at a ratio."""
        return cls(what, f"at least {times(wanted)}", times(reached), reached >= wanted)

    @classmethod
    def share(cls, what: str, wanted: float, reached: float) -> "Aim":
        """Return an aim at a share."""
        return cls(what, f"at least {wanted:.0%}", f"{reached:.0%}", reached >= wanted)


def aims_table(aims: list[Aim]) -> str:
    """Return the table of aims."""
    rows = ([aim.what, aim.wanted, aim.reached, "yes" if aim.met else "no"] for aim in aims)
    return table(["", "wanted", "reached", "met"], rows)


def engine_aims(result: Result) -> Iterator[Aim]:
    """Return the aims of the engine with the default model."""
    for case, of_case in ENGINE_AIMS.items():
        for engine, wanted in of_case.items():
            peer = best(result, case, engine)
            if peer is not None and peer.ratio is not None:
                yield Aim.least(f"{spoken(case)}, {ENGINES[engine]}'s time by ours", wanted, peer.ratio[0])
    for case in EIGHT_BIT_CASES:
        ratio = result["ratios"].get(case, {}).get(EIGHT_BITS)
        if ratio is not None:
            yield Aim.least(f"{spoken(case)}, 8-bit KV, OpenVINO's time by ours", EIGHT_BIT_AIM, ratio[0])
    found = shares(result)
    if "prefill 512" in found:
        yield Aim.share(
            "prefill 512, matrix products of the integer peak", PRODUCTS_AIM, found["prefill 512"][OURS]
        )
    if "decode 1x128" in found:
        yield Aim.share(
            f"{spoken('decode 1x128')}, of the read bandwidth", READ_AIM, found["decode 1x128"][OURS]
        )


def shape_aims(name: str, result: Result) -> Iterator[Aim]:
    """Return the aims of a larger shape."""
    for case, of_case in shares(result).items():
        if case.startswith("decode 1x"):
            yield Aim.share(
                f"{spoken(case)}, shape of {name}, of the read bandwidth", SHAPE_READ_AIM, of_case[OURS]
            )


def server_aims(result: Result) -> Iterator[Aim]:
    """Return the aims over HTTP."""
    for scenario, figures in result["closed_summary"].items():
        peer, wanted = ("vLLM CPU", PREFIX_AIM) if scenario == "one prefix" else ("llama-server", CLIENTS_AIM)
        name = best_server(result, scenario, peer)
        if name is not None:
            yield Aim.least(f"{scenario}, ours by {peer}'s", wanted, figures[name]["stoker_by_this"][0])
        if "engine alone" in figures:
            yield Aim.share(
                f"{scenario}, of the engine alone",
                OF_ENGINE_AIM,
                figures["engine alone"]["stoker_by_this"][0],
            )
    if "open" in result:
        found = result["open"]["servers"]
        ours = found[OURS]["highest_rate"]
        others = [each["highest_rate"] for name, each in found.items() if name != OURS]
        most = max((rate for rate in others if rate), default=None)
        if ours and most:
            yield Aim.least("rate within the service level, ours by the best peer's", RATE_AIM, ours / most)


def overhead_aims(result: Result) -> Iterator[Aim]:
    """Return the aims of what Python adds."""
    for width, of_width in result["widths"].items():
        added = of_width["added_share"]["server"][0]
        what = f"decode {width.replace('x', f' {TIMES} ')}, what scheduler and gateway add to a step"
        yield Aim(what, f"at most {ADDED_AIM:.0%}", f"{added:+.1%}", added <= ADDED_AIM)
    beside = result["memory"]["beside_bytes"]
    yield Aim(
        "memory beside weights and KV",
        f"at most {MEMORY_AIM / 1e6:.0f} MB",
        f"{beside / 1e6:.0f} MB",
        beside <= MEMORY_AIM,
    )

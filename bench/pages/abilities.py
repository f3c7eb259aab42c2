"""What abilities cost: their part of docs/benchmarks.md, and the aims for them."""

from collections.abc import Callable, Iterator, Mapping
from statistics import median

from pages.aims import Aim
from pages.figures import TIMES, Result, three_digits
from pages.tables import table, told

WAKE_AIM_S = 1.0
ADAPTER_AIMS = {"q, k, v, o": 0.25, "all linear layers": 0.5}
GRAMMAR_AIM = 0.05
SPECULATION_AIM = 1.6


def ability_parts(results: Mapping[str, Result]) -> list[str]:
    """Return the sections on the abilities that were measured, by the name of the result."""
    sections = {
        "speculation": _speculation,
        "guessing": _guessing,
        "wake": _wake,
        "lora": _lora,
        "grammars": _grammars,
        "embeddings": _embeddings,
        "early_exit": _early_exit,
    }
    found = [part for name, write in sections.items() if name in results for part in write(results[name])]
    return ["## What abilities cost", *found] if found else []


def ability_aims(results: Mapping[str, Result]) -> Iterator[Aim]:
    """Return the aims of the abilities that were measured."""
    for name, aims in _AIMS.items():
        if name in results:
            yield from aims(results[name])


def _measured_on(result: Result) -> str:
    """Say what a result was measured on, as far as it tells."""
    threads = result.get("arguments", {}).get("threads", result.get("cores", result.get("processors")))
    told = [result.get("processor"), f"{threads} threads"]
    told += [f"commit {result['commit']}", result["date"]] if "commit" in result else []
    return f"Measured on {', '.join(each for each in told if each)}"


_LOAD_COLUMNS = ["without", "with", "ratio", "guesses that were right"]


def _load_cells(of_load: Result) -> list[str]:
    """Return what a load gave without drafts and with them."""
    rates = of_load["tokens_per_s"]
    accepted = of_load["acceptance"]
    return [
        f"{rates['plain'][0]:,.0f} tok/s",
        f"{rates['speculating'][0]:,.0f} tok/s",
        "{:.2f} ({:.2f} to {:.2f})".format(*of_load["ratio"]),
        "no drafts" if accepted is None else f"{accepted:.0%} of {of_load['drafted_tokens']:,.0f}",
    ]


def _speculation(result: Result) -> list[str]:
    rows = ([name, *_load_cells(of_load)] for name, of_load in result["loads"].items())
    return [
        "### Speculation",
        told(
            "Streams that go on repeating a passage of their prompt (quoting) and that write freely at",
            "temperature 1, from a server with `--speculation off` and one with the default; the ratio with",
            f"its 95 % confidence interval. {_measured_on(result)}, {result['arguments']['pairs']} pairs.",
        ),
        table(["streams", *_LOAD_COLUMNS], rows),
    ]


def _guessing(result: Result) -> list[str]:
    rows = (
        [case, name.removeprefix("writing, "), *_load_cells(of_load)]
        for case, loads in result["cases"].items()
        for name, of_load in loads.items()
    )
    return [
        "### Models that guess",
        told(
            "Streams that write freely at temperature 1, from a server with `--speculation off` and one",
            "where a model guesses. In the first two cases the served model is the default one with two",
            "layers behind each of its own that change nothing, so guesses are nearly always right: the best",
            "that these ways can bring. In the others they cannot pay, and are to cost nothing.",
            f"{_measured_on(result)}, {result['arguments']['pairs']} pairs.",
        ),
        table(["what guesses", "streams", *_LOAD_COLUMNS], rows),
    ]


def _early_exit(result: Result) -> list[str]:
    rows = (
        [f"{row['words']} words, {row['choices']} choices{row.get('which', '')}"]
        + [f"{1e3 * row['median_s'][kind]:.1f} ms" for kind in ("choices", "grammar", "classify")]
        for row in result["rows"]
    )
    return [
        "### Choices",
        told(
            "One of some choices by scoring them, by generating held to a grammar, and as a classification;",
            f"medians of requests whose prompts are new. {_measured_on(result)}.",
        ),
        table(["prompt", "choices", "grammar", "classify"], rows),
    ]


def _wake(result: Result) -> list[str]:
    rows = (
        [case, f"{median(of_case):.3f} s", f"{max(of_case):.3f} s", str(len(of_case))]
        for case, of_case in result["first_token_s"].items()
    )
    memory = {what: f"{median(sizes) / 1e6:,.0f} MB" for what, sizes in result["memory_bytes"].items()}
    return [
        "### Sleep and wake",
        told(
            "The first token of a short prompt, by what the model did before; in the cold case its files are",
            f"out of the page cache. {_measured_on(result)}, {len(result['sleep_s'])} wakes in all.",
        ),
        table(["model", "first token, median", "at most", "requests"], rows),
        told(
            f"To fall asleep takes {1e3 * median(result['sleep_s']):.0f} ms. The engine process has",
            f"{memory['engine awake']} while the model is awake, and is gone while it sleeps; the server",
            f"process has {memory['server awake']} and {memory['server asleep']}.",
        ),
    ]


def _lora(result: Result) -> list[str]:
    asked = result["arguments"]
    rows = (
        [name, _ms(of_case["plain_ms"]), _ms(of_case["adapted_ms"]), _added(of_case["added"])]
        for name, of_case in result["cases"].items()
    )
    return [
        "### Adapters",
        told(
            f"A decode step of {asked['sequences']} sequences with {asked['context']} tokens of context,",
            f"each with an adapter of its own of rank {asked['rank']}, beside the same step without.",
            f"{_measured_on(result)}, {asked['pairs']} pairs; what is added with its 95 % confidence",
            "interval.",
        ),
        table(["layers", "without", "with", "added"], rows),
    ]


def _grammars(result: Result) -> list[str]:
    asked = result["arguments"]
    rows = (
        [
            name,
            _ms([1e3 * each for each in of_case["free_s"]]),
            _ms([1e3 * each for each in of_case["held_s"]]),
            _ms([1e3 * each for each in of_case["masks_s"]]),
            _added(of_case["added_share"]),
        ]
        for name, of_case in result["grammars"].items()
    )
    return [
        "### Grammars",
        told(
            f"A token of each of {asked['sequences']} sequences, free and held to a grammar.",
            f"{_measured_on(result)}, {asked['pairs']} pairs of {asked['steps']} tokens; what is added with",
            "its 95 % confidence interval.",
        ),
        table(["grammar", "free", "held", "of which masks", "added"], rows),
    ]


def _embeddings(result: Result) -> list[str]:
    def rows() -> Iterator[list[str]]:
        for shape, of_shape in result["shapes"].items():
            inputs, _, tokens = shape.partition("x")
            rates = of_shape["tokens_per_s"]
            yield [
                f"{inputs} {TIMES} {tokens}",
                f"{rates['read'][0]:,.0f} tok/s",
                *(
                    f"{rates[kind][0]:,.0f} tok/s, {_added(of_shape['added'][kind])}"
                    for kind in ("mean", "last", "logits")
                ),
            ]

    return [
        "### Embeddings",
        told(
            "Prompts that are read and nothing more, that are pooled by mean or by the last token, and that",
            "get logits for one token, each with what that adds to the time and its 95 % confidence",
            f"interval. {_measured_on(result)}, {result['arguments']['rounds']} rounds.",
        ),
        table([f"inputs {TIMES} tokens", "read", "mean", "last", "logits"], rows()),
    ]


def _speculation_aims(result: Result) -> Iterator[Aim]:
    for name, of_load in result["loads"].items():
        ratio, _, high = of_load["ratio"]
        if name == "quoting, 1":
            aim = f"at least {SPECULATION_AIM:g} {TIMES}"
            what = "speculation, one stream that quotes its prompt, with over without"
            yield Aim(what, aim, f"{ratio:.2f} {TIMES}", ratio >= SPECULATION_AIM)
        else:
            what = f"speculation, streams: {name}, with over without"
            yield Aim(what, "not measurably below 1", f"{ratio:.2f} {TIMES}, up to {high:.2f}", high >= 1)


def _guessing_aims(result: Result) -> Iterator[Aim]:
    for case, loads in result["cases"].items():
        for name, of_load in loads.items():
            ratio, _, high = of_load["ratio"]
            what = f"{case} guesses, streams: {name}, with over without"
            yield Aim(what, "not measurably below 1", f"{ratio:.2f} {TIMES}, up to {high:.2f}", high >= 1)


def _wake_aims(result: Result) -> Iterator[Aim]:
    for case, of_case in result["first_token_s"].items():
        if case.startswith("asleep"):
            yield Aim(
                f"first token of a model that is {case}",
                f"under {WAKE_AIM_S:g} s",
                f"{median(of_case):.2f} s, at most {max(of_case):.2f} s",
                max(of_case) < WAKE_AIM_S,
            )


def _lora_aims(result: Result) -> Iterator[Aim]:
    asked = result["arguments"]
    if (asked["sequences"], asked["rank"]) != (16, 16):
        return
    for layers, wanted in ADAPTER_AIMS.items():
        if layers in result["cases"]:
            added = result["cases"][layers]["added"][0]
            what = f"16 sequences, 16 adapters of rank 16, {layers}, what they add to a step"
            yield Aim(what, f"at most {wanted:.0%}", f"{added:+.1%}", added <= wanted)


def _grammar_aims(result: Result) -> Iterator[Aim]:
    n_sequences = result["arguments"]["sequences"]
    for name, of_case in result["grammars"].items():
        added = of_case["added_share"][0]
        what = f"{n_sequences} sequences held to a grammar ({name}), what it adds to a token"
        yield Aim(what, f"at most {GRAMMAR_AIM:.0%}", f"{added:+.2%}", added <= GRAMMAR_AIM)


_AIMS: dict[str, Callable[[Result], Iterator[Aim]]] = {
    "speculation": _speculation_aims,
    "guessing": _guessing_aims,
    "wake": _wake_aims,
    "lora": _lora_aims,
    "grammars": _grammar_aims,
}


def _ms(spread: list[float]) -> str:
    middle, low, high = map(three_digits, spread)
    return f"{middle} ms ({low} to {high})"


def _added(spread: list[float]) -> str:
    return "{:+.1%} ({:+.1%} to {:+.1%})".format(*spread)

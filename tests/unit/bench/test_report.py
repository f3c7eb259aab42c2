"""README, docs/benchmarks.md and plots say what the results say."""

import copy
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[3]
CASES = ("prefill 512", "decode 1x128", "decode 16x512")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report() -> ModuleType:
    return importlib.import_module("report")


@pytest.fixture(scope="module")
def documents() -> ModuleType:
    return importlib.import_module("pages.documents")


def engine_result() -> dict[str, Any]:
    """A result of `bench/engine.py` in which Stoker takes 10 ms for everything."""
    names = {"stoker": 0.01, "llama.cpp Q4_0": 0.02, "openvino": 0.015, "llama.cpp Q4_K_M": 0.004}
    contender = {
        "engine": "e",
        "version": "1",
        "settings": {},
        "file": "m.gguf",
        "options": {},
        "seconds": {},
    }
    return {
        "processor": "A Processor (avx2)",
        "commit": "abc1234",
        "date": "2026-11-26",
        "threads": 2,
        "arguments": {"rounds": 5},
        "model": {"file": "m.gguf", "type": "Q4_1"},
        "work": {case: {"matrix_ops": 1e9, "weight_bytes": 1e8, "kv_bytes": 1e7} for case in CASES},
        "limits": [{"isa": "avx2", "dot_ops_per_s": 2e11, "read_bytes_per_s": 2.2e10}] * 3,
        "summary_s": {case: {name: [s, s, s] for name, s in names.items()} for case in CASES},
        "ratios": {
            case: {name: [s / 0.01, s / 0.011, s / 0.009] for name, s in names.items() if name != "stoker"}
            for case in CASES
        },
        "contenders": dict.fromkeys(names, contender),
        "sweep": [],
    }


def servers_result() -> dict[str, Any]:
    """A result of `bench/servers.py` in which more slots serve fewer tokens."""
    rates = {"stoker": 600.0, "llama-server, 8 slots": 100.0, "llama-server, 16 slots": 80.0}

    def figures(rate: float) -> dict[str, Any]:
        return {
            "tokens_per_s": [rate, rate, rate],
            "stoker_by_this": [600 / rate] * 3,
            "duration_s": [6000 / rate] * 3,
            "ttft_p50_s": [1.0] * 3,
            "failed": 0,
        }

    def trial(rate: float, met: float, errors: dict[str, int]) -> dict[str, Any]:
        return {"rate": rate, "summary": {"share_met": met, "errors": errors}}

    return {
        **{
            key: engine_result()[key]
            for key in ("processor", "commit", "date", "threads", "arguments", "model")
        },
        "slo": {"ttft_s": 0.5, "ttft_per_token_s": 0.001, "itl_s": 0.08, "share": 0.95},
        "closed_summary": {
            "16 clients": {name: figures(rate) for name, rate in rates.items()},
            "one prefix": {name: figures(rate) for name, rate in rates.items()},
        },
        "servers": {
            name: {"version": "1", "note": "", "arguments": ["serve"], "ready_s": 1.0} for name in rates
        },
        "open": {
            "servers": {
                "stoker": {
                    "highest_rate": 2.0,
                    "trials": [trial(2.0, 1.0, {}), trial(4.0, 0.5, {"given_up": 9})],
                },
                "llama-server, 8 slots": {"highest_rate": None, "trials": [trial(0.5, 0.9, {})]},
            }
        },
    }


def test_the_pages_are_those_that_the_results_give(report: ModuleType) -> None:
    results = report.load(report.RESULTS)
    assert report.differing(report.pages(results, README), ROOT) == [], "run python bench/report.py"


def test_another_figure_gives_another_readme_page_and_plot(report: ModuleType, documents: ModuleType) -> None:
    result = engine_result()
    before = report.pages(documents.Results(engine=result), README)
    changed = copy.deepcopy(result)
    changed["summary_s"]["decode 1x128"]["openvino"] = [0.5, 0.4, 0.6]
    changed["ratios"]["decode 1x128"]["openvino"] = [50.0, 40.0, 60.0]
    after = report.pages(documents.Results(engine=changed), README)
    assert {name for name in before if before[name] != after[name]} == {
        "README.md",
        "docs/benchmarks.md",
        "docs/benchmarks/speed.svg",
    }


def test_files_that_differ_or_should_not_be_there_are_named(report: ModuleType, tmp_path: Path) -> None:
    plots = tmp_path / report.PLOTS
    plots.mkdir(parents=True)
    (plots / "old.svg").write_text("<svg/>")
    (tmp_path / "README.md").write_text("other")
    assert report.differing({"README.md": "this"}, tmp_path) == ["README.md", "docs/benchmarks/old.svg"]
    (plots / "old.svg").unlink()
    assert report.differing({"README.md": "other"}, tmp_path) == []


def test_a_readme_without_markers_is_refused(report: ModuleType, documents: ModuleType) -> None:
    with pytest.raises(SystemExit, match="lacks the lines"):
        report.pages(documents.Results(engine=engine_result()), "# Stoker")


def test_the_quickest_of_an_engines_contenders_counts_but_none_reported_beside(documents: ModuleType) -> None:
    part = documents.readme_part(documents.Results(engine=engine_result()))
    rows = [line for line in part.splitlines() if line.startswith("| Decode 1 ")]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")][1:] == [
        "**10.0 ms**",
        "20.0 ms (2.00\N{MULTIPLICATION SIGN})",
        "15.0 ms (1.50\N{MULTIPLICATION SIGN})",
    ]


def test_shares_of_the_limits_are_work_by_limit_and_time(documents: ModuleType) -> None:
    page = documents.benchmarks_page(documents.Results(engine=engine_result()))
    (row,) = [line for line in page.splitlines() if line.startswith("| prefill 512 | 50%")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["prefill 512", "50%", "25%", "33%"]
    assert "| decode 1 \N{MULTIPLICATION SIGN} 128 | 50% |" in page
    assert "commit abc1234, 2026-11-26" in page


def test_8_bit_kv_on_both_sides_has_a_table_of_its_own(documents: ModuleType) -> None:
    result = engine_result()
    head = "### 8-bit KV on both sides"
    assert head not in documents.benchmarks_page(documents.Results(engine=result))
    result["summary_s"]["decode 16x512"]["stoker 8-bit KV"] = [0.005] * 3
    result["ratios"]["decode 16x512"] |= {
        "stoker 8-bit KV": [0.5] * 3,
        "openvino by 8-bit KV": [3.0, 2.5, 3.5],
    }
    result["contenders"]["stoker 8-bit KV"] = result["contenders"]["stoker"]
    page = documents.benchmarks_page(documents.Results(engine=result))
    row = "| decode 16 \N{MULTIPLICATION SIGN} 512 | 5.00 ms | 15.0 ms | 3.00 (2.50 to 3.50) |"
    assert head in page
    assert row in page


def test_of_a_server_the_best_number_of_slots_counts(documents: ModuleType) -> None:
    results = documents.Results(engine=engine_result(), servers=servers_result())
    part = documents.readme_part(results)
    assert "| **600 tok/s** | 100 tok/s (6.00\N{MULTIPLICATION SIGN}) |" in part
    assert "| **10.0 s** | 60.0 s (6.00\N{MULTIPLICATION SIGN}) |" in part
    assert "| **2.00 requests/s** | none |" in part


def test_plots_are_well_formed_and_the_same_every_time(documents: ModuleType) -> None:
    results = documents.Results(
        engine=engine_result(), shapes={"1B": engine_result()}, servers=servers_result()
    )
    plots = documents.plots(results)
    assert plots == documents.plots(results)
    assert plots.keys() == {"speed.svg", "limits.svg", "goodput.svg"}
    texts = {name: "".join(ET.fromstring(plot).itertext()) for name, plot in plots.items()}  # noqa: S314
    assert "A Processor, 2 threads, commit abc1234" in texts["speed.svg"]
    assert "1B, prefill 512" in texts["limits.svg"]
    assert "Stoker: 2/s" in texts["goodput.svg"]
    assert "llama-server: none" in texts["goodput.svg"]
    assert 'class="ring a"' in plots["goodput.svg"], "a trial that was ended early is hollow"


def test_aims_say_what_was_wanted_reached_and_whether_that_is_enough(documents: ModuleType) -> None:
    servers = servers_result()
    servers["closed_summary"]["16 clients"]["engine alone"] = {
        "tokens_per_s": [1000.0] * 3,
        "stoker_by_this": [0.6] * 3,
    }
    servers["open"]["servers"]["llama-server, 8 slots"]["highest_rate"] = 0.5
    overhead = {
        **{key: servers[key] for key in ("processor", "commit", "date", "threads")},
        "widths": {
            "1x128": {
                "step_s": {way: [0.004] * 3 for way in ("engine", "scheduler", "server", "clients")},
                "added_share": {"scheduler": [0.01, 0.0, 0.02], "server": [0.07, 0.06, 0.08]},
            }
        },
        "memory": {"beside_bytes": 1.5e8, "weight_bytes": 1e8, "kv_bytes_resident": 1e7},
    }
    results = documents.Results(
        engine=engine_result(), shapes={"1B": engine_result()}, servers=servers, overhead=overhead
    )
    page = documents.benchmarks_page(results)
    times = "\N{MULTIPLICATION SIGN}"
    for row in (
        f"| prefill 512, OpenVINO GenAI's time by ours | at least 1.50{times} | 1.50{times} | yes |",
        f"| prefill 512, llama.cpp's time by ours | at least 2.20{times} | 2.00{times} | no |",
        f"| decode 1 {times} 128, shape of 1B, of the read bandwidth | at least 80% | 50% | no |",
        f"| 16 clients, ours by llama-server's | at least 3.00{times} | 6.00{times} | yes |",
        "| 16 clients, of the engine alone | at least 75% | 60% | no |",
        f"rate within the service level, ours by the best peer's | at least 3.00{times} | 4.00{times}",
        f"| decode 1 {times} 128, what scheduler and gateway add to a step | at most 5% | +7.0% | no |",
        "| memory beside weights and KV | at most 200 MB | 150 MB | yes |",
    ):
        assert row in page


def ability_results() -> dict[str, dict[str, Any]]:
    """Results of the benchmarks of abilities in which one aim of each kind is missed."""
    on = {key: engine_result()[key] for key in ("processor", "commit", "date")}

    def asked(**arguments: Any) -> dict[str, Any]:
        return {**on, "arguments": {"threads": 2, "sequences": 16, **arguments}}

    return {
        "speculation": {
            **asked(pairs=9),
            "loads": {
                "quoting, 1": {
                    "tokens_per_s": {"plain": [200.0] * 3, "speculating": [420.0] * 3},
                    "ratio": [2.1, 2.0, 2.2],
                    "acceptance": 0.72,
                    "drafted_tokens": 1200.0,
                },
                "writing, 4": {
                    "tokens_per_s": {"plain": [700.0] * 3, "speculating": [690.0] * 3},
                    "ratio": [0.97, 0.95, 0.99],
                    "acceptance": None,
                    "drafted_tokens": 0.0,
                },
            },
        },
        "guessing": {
            **asked(pairs=7),
            "cases": {
                "a draft model": {
                    f"writing, {n}": {
                        "tokens_per_s": {"plain": [80.0] * 3, "speculating": [80.0 * ratio] * 3},
                        "ratio": [ratio, ratio - 0.1, high],
                        "acceptance": 0.9,
                        "drafted_tokens": 300.0,
                    }
                    for n, ratio, high in ((1, 1.9, 2.0), (4, 0.9, 0.95))
                }
            },
        },
        "early_exit": {
            **asked(),
            "rows": [
                {
                    "words": 16,
                    "choices": 2,
                    "median_s": {"choices": 0.02, "grammar": 0.0315, "classify": 0.021},
                },
                {
                    "words": 16,
                    "choices": 10,
                    "which": " of several tokens",
                    "median_s": {"choices": 0.05, "grammar": 0.04, "classify": 0.05},
                },
            ],
        },
        "wake": {
            "processors": 2,
            "first_token_s": {
                "awake": [0.01] * 3,
                "asleep": [0.3, 0.4, 0.5],
                "asleep, cold": [0.3, 0.4, 1.5],
            },
            "sleep_s": [0.012] * 6,
            "memory_bytes": {"server awake": [9e7], "engine awake": [5e8], "server asleep": [9.5e7]},
        },
        "lora": {
            **asked(pairs=60, context=128, rank=16),
            "cases": {
                name: {"plain_ms": [10.0] * 3, "adapted_ms": [13.0] * 3, "added": [0.3, 0.2, 0.4]}
                for name in ("q, k, v, o", "all linear layers")
            },
        },
        "grammars": {
            **asked(pairs=15, steps=64),
            "grammars": {
                name: {
                    "free_s": [0.01] * 3,
                    "held_s": [0.0104] * 3,
                    "masks_s": [0.0003] * 3,
                    "added_share": [added, 0.0, 0.1],
                }
                for name, added in (("schema", 0.04), ("regex", 0.0501))
            },
        },
        "embeddings": {
            **asked(rounds=15),
            "shapes": {
                "8x64": {
                    "tokens_per_s": {kind: [2000.0] * 3 for kind in ("read", "mean", "last", "logits")},
                    "added": {kind: [0.01, -0.02, 0.03] for kind in ("mean", "last", "logits")},
                }
            },
        },
    }


def test_abilities_have_sections_and_aims(documents: ModuleType) -> None:
    plain = documents.benchmarks_page(documents.Results(engine=engine_result()))
    assert "abilities" not in plain
    page = documents.benchmarks_page(documents.Results(engine=engine_result(), abilities=ability_results()))
    times = "\N{MULTIPLICATION SIGN}"
    for row in (
        "## What abilities cost",
        "| quoting, 1 | 200 tok/s | 420 tok/s | 2.10 (2.00 to 2.20) | 72% of 1,200 |",
        "| writing, 4 | 700 tok/s | 690 tok/s | 0.97 (0.95 to 0.99) | no drafts |",
        "| a draft model | 1 | 80 tok/s | 152 tok/s | 1.90 (1.80 to 2.00) | 90% of 300 |",
        f"model guesses, streams: writing, 4, with over without | not measurably below 1 | 0.90 {times}",
        f"with over without | at least 1.6 {times} | 2.10 {times} | yes |",
        f"with over without | not measurably below 1 | 0.97 {times}, up to 0.99 | no |",
        "| 16 words, 2 choices | 20.0 ms | 31.5 ms | 21.0 ms |",
        "| 16 words, 10 choices of several tokens | 50.0 ms | 40.0 ms | 50.0 ms |",
        "| asleep, cold | 0.400 s | 1.500 s | 3 |",
        "The engine process has 500 MB while the model is awake",
        "| q, k, v, o | 10.0 ms (10.0 to 10.0) | 13.0 ms (13.0 to 13.0) | +30.0% (+20.0% to +40.0%) |",
        f"| 8 {times} 64 | 2,000 tok/s | 2,000 tok/s, +1.0% (-2.0% to +3.0%) |",
        "| first token of a model that is asleep | under 1 s | 0.40 s, at most 0.50 s | yes |",
        "| first token of a model that is asleep, cold | under 1 s | 0.40 s, at most 1.50 s | no |",
        "rank 16, q, k, v, o, what they add to a step | at most 25% | +30.0% | no |",
        "rank 16, all linear layers, what they add to a step | at most 50% | +30.0% | yes |",
        "held to a grammar (schema), what it adds to a token | at most 5% | +4.00% | yes |",
        "held to a grammar (regex), what it adds to a token | at most 5% | +5.01% | no |",
    ):
        assert row in page, row


def test_each_ability_may_be_missing(documents: ModuleType) -> None:
    n_others = documents.benchmarks_page(documents.Results(engine=engine_result())).count("### ")
    for name, result in ability_results().items():
        page = documents.benchmarks_page(documents.Results(engine=engine_result(), abilities={name: result}))
        assert page.count("### ") == n_others + 1

"""Runs one fuzz target with atheris (libFuzzer for Python) for as long as one likes.

``pip install atheris``, then::

    python tests/fuzz/run.py gguf --seconds 600
    python tests/fuzz/run.py gguf --seconds 60 --found FOLDER    # keeps new inputs there

A finding ends the run with the input's file name; put it into the corpus once it is fixed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stoker", "jinja2", "uvicorn"]):
    from stoker.testing.fuzz import TARGETS, run

CORPUS = Path(__file__).parent / "corpus"
MAX_MEMORY_MB = 1024
MAX_SECONDS_PER_INPUT = 10


def main() -> None:
    """Run libFuzzer, which ends the process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, help="folder of new inputs and of findings")
    parser.add_argument("--max-len", type=int, default=4096)
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    corpus = CORPUS / arguments.target
    found = arguments.found or Path(tempfile.mkdtemp(prefix="stoker-fuzz-"))
    found.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={arguments.seconds}",
        f"-max_len={arguments.max_len}",
        f"-rss_limit_mb={MAX_MEMORY_MB}",
        f"-timeout={MAX_SECONDS_PER_INPUT}",
        f"-artifact_prefix={found}/finding-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(found), str(corpus)], lambda data: run(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

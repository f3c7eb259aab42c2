"""The result of a session as JSON: everything that was asked for, figures, and raw samples."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from stoker.measure.calibration import Calibration
from stoker.measure.load import LoadLimits
from stoker.measure.sample import Sample
from stoker.measure.slo import Slo
from stoker.measure.summary import Trial, summarize
from stoker.measure.target import Target
from stoker.measure.workload import Workload

FORMAT = 1


def document(
    *,
    target: Target,
    workload: Workload,
    slo: Slo,
    limits: LoadLimits,
    calibration: Calibration,
    trials: Sequence[Trial],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Return what is written to a file; `extra` is added to it."""
    return {
        "benchmark": "http",
        "format": FORMAT,
        "stoker": version("stoker"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": {
            "url": target.url,
            "api": target.api,
            "model": target.model,
            "usage": target.options.usage,
            "ignore_eos": target.options.ignore_eos,
        },
        "workload": {
            **asdict(workload),
            "prompt": str(workload.prompt),
            "output": str(workload.output),
        },
        "slo": asdict(slo),
        "limits": asdict(limits),
        "calibration": asdict(calibration),
        **extra,
        "trials": [
            {
                "number": trial.number,
                "rate": trial.rate,
                "clients": trial.clients,
                "client_cpu_s": round(trial.client_cpu_s, 3),
                "summary": _rounded(summarize(trial, slo).as_dict()),
                "samples": [_sample(sample) for sample in trial.samples],
            }
            for trial in trials
        ],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    """Leave out what is empty: a session has many samples."""
    return {name: value for name, value in _rounded(asdict(sample)).items() if value not in (None, "", [])}


def _rounded(value: Any) -> Any:
    """Round to a hundredth of a millisecond, in all that is nested."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value

"""Measurements: the load that servers bear over HTTP, and what the engine gets out of the machine.

What is computed from samples is pure and apart from what takes them:

- workload: `lengths`, `words`, `calibration` (of prompts' lengths), `workload` (every request of a trial);
- I/O: `exchange` (one HTTP request), `answer` (a stream's events), `target` (a server), `load` (closed and
  open loops), `probe` (what a server understands), `session`, which ties all together;
- the engine alone: `machine` (limits), `cases`, `engine_run`, `step_work` (operations and bytes), `roofline`;
- results: `sample`, `statistics`, `slo`, `summary`, `rate_search`, `document`.
"""

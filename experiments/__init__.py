"""The paper's controlled experiments and their extensions, one file each.

Run from a checkout: `python -m experiments list`. Every module here is an experiment, one file each, and defines

- `CLAIMS`: the numbers of the paper's claims that it bears on, such as `(2, 3)`;
- `Config`: a frozen dataclass whose defaults are the paper's values; `--replicates` sets its field `replicates`;
- `PRESETS`: `{"quick": Config(...), "paper": Config(), "precise": Config(...)}`;
- `run(config, key, sweep) -> dict`: the result, of numbers, text, lists and dictionaries. It runs its replicates by
  `sweep.replicates(label, fn, key, n, *args, block=...)`, or `sweep.grid` for many settings (see `harness/store.py`),
  which stores and resumes them;
- `predictions(result) -> list[Prediction]`: what the result, read back from JSON, says about the claims;
- where it needs what may not be installed, `unavailable() -> str | None`: what is missing and how to get it. `run all`
  leaves it out then and says so, its tests skip, and its committed result stands.

The first line of its docstring describes it; `figures/NAME.py` draws it from the stored result alone. What all share is
in `harness/` (store, statements, intervals, report), what several share in `shared/`; no experiment imports another.
"""

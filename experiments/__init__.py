"""The paper's controlled experiments and their extensions, one file each.

`python -m experiments` finds every module here that defines

- `CLAIMS`: the numbers of the paper's claims it bears on, such as `(2, 3)`;
- `Config`: a frozen dataclass whose defaults are the paper's values; `--replicates` sets its field `replicates`;
- `PRESETS`: `{"quick": Config(...), "paper": Config(), "precise": Config(...)}`;
- `run(config, key, sweep) -> dict`: the result, of numbers, text, lists and dictionaries. It runs its replicates by
  `sweep.replicates(label, fn, key, n, *args, block=...)`, or `sweep.grid` for many settings (see `store.py`), which
  stores and resumes them;
- `predictions(result) -> list[Prediction]`: what the result, read back from JSON, says about the claims.

The first line of its docstring describes it; `figures/NAME.py` draws it.
"""

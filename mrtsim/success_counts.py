"""Success counts of prompts, and what can be estimated from them without bias (NumPy alone)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError

if TYPE_CHECKING:
    from mrtsim.tables.formats import Tables
    from mrtsim.tables.reader import Layout, MissingIds

Floats = NDArray[np.float64]


def success_counts(successes: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats]:
    """Successes and trials as whole numbers of one shape, successes from 0 to trials, trials of at least 1.

    Raises:
        InputError: a count that is not such a number, or shapes that do not fit.
    """
    try:
        s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    except (TypeError, ValueError):
        raise InputError(
            f"successes and trials are one number each per prompt, not of shapes {np.shape(successes)} and "
            f"{np.shape(trials)}"
        ) from None
    if s.size == 0:
        raise InputError("there are no counts: give the successes and trials of one prompt or more")
    bad = ~((n >= 1) & (n == np.floor(n)) & (n <= 2**53))
    if np.any(bad):
        raise InputError(f"trials must be whole numbers of at least 1, not {n[bad][0]:g}")
    bad = ~((s >= 0) & (s <= n) & (s == np.floor(s)))
    if np.any(bad):
        raise InputError(
            f"successes must be whole numbers from 0 to trials, not {s[bad][0]:g} of {n[bad][0]:g}: rewards other "
            "than 0 and 1 need a threshold"
        )
    return s, n


def beta_mean_and_ratio(alpha: float, beta: float) -> tuple[float, float]:
    """The mean of Beta(alpha, beta), and Var p / E p (1 - p) = 1 / (alpha + beta).

    Raises:
        InputError: a parameter that is not a finite number above 0.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a finite number above 0, not {value!r}")
    a, b = float(alpha), float(beta)
    total = a + b
    return 1 / (1 + b / a), 1 / total if total > 1e-300 else math.inf


def subset_share(counts: Floats, trials: Floats, size: int) -> Floats:
    """C(c, m) / C(n, m), the share of a prompt's subsets of m responses that lie within c of its n.

    It estimates the m-th power of the probability without bias, for m <= n (a U-statistic; Hoeffding 1948).

    Args:
        counts: c, whole numbers.
        trials: n, whole numbers.
        size: m.
    """
    share = np.ones(np.broadcast_shapes(np.shape(counts), np.shape(trials)))
    for j in range(size):
        share = share * np.maximum(counts - j, 0) / (trials - j)
    return share


@dataclass(frozen=True)
class SuccessCounts:
    """Success counts of a file or a table.

    Attributes:
        successes: responses with success per prompt, (prompts,).
        trials: responses per prompt, (prompts,).
        prompts: the prompts' ids as text, in the order in which they first appear.
        notes: what a report should say about the reading.
    """

    successes: Floats
    trials: Floats
    prompts: list[str]
    notes: list[str]


def read_success_counts(
    source: Tables,
    *,
    reward_column: str,
    prompt_column: str = "prompt_id",
    success_above: float | None = None,
    layout: Layout | None = None,
    format: str | None = None,
    missing_ids: MissingIds = "error",
) -> SuccessCounts:
    """Count the successes of every prompt in a column of rewards.

    Args:
        source: as in `read_pilot`.
        reward_column: of the rewards: 1 (or true) for success, 0 for failure.
        prompt_column: of the prompt ids.
        success_above: rewards above it are successes, for rewards other than 0 and 1.
        layout: as in `read_pilot`.
        format: as in `read_pilot`.
        missing_ids: as in `read_pilot`.

    Raises:
        InputError: the file cannot be read, or a reward is neither 0 nor 1 and there is no `success_above`.
    """
    from mrtsim.pilot.sums import copies
    from mrtsim.pilot.warnings import repeated
    from mrtsim.tables.pilots import MODELS, of_several_models
    from mrtsim.tables.read import read_columns

    data = read_columns(
        source,
        ids={"prompt": prompt_column},
        numbers={"reward": reward_column},
        optional_ids={name: name for name in MODELS if name not in (prompt_column, reward_column)},
        layout=layout,
        format=format,
        missing_ids=missing_ids,
    )
    rewards, prompts = data.numbers["reward"], data.ids["prompt"]
    if success_above is None:
        other = np.flatnonzero((rewards != 0) & (rewards != 1))
        if other.size:
            raise data.error(
                f"{rewards[other[0]]:g} is neither 0 nor 1; give --success-above T where a reward above T is a success",
                int(other[0]),
                "reward",
            )
        success = rewards
    else:
        success = (rewards > success_above).astype(float)
    return SuccessCounts(
        np.bincount(prompts.codes, weights=success).astype(float),
        np.bincount(prompts.codes).astype(float),
        prompts.names,
        [
            *data.notes,
            *of_several_models(data),
            *repeated(copies(rewards, prompts.codes), what="reward"),
        ],
    )

"""Metrics of sampled responses: coverage of references, alignment, diversity, best of k, pass@k (NumPy; no JAX).

Each is a number per prompt. `response_metrics` averages them over prompts, with intervals that know of groups of
prompts. Where a prompt has n > k responses, what k of them would give is the mean over all subsets of k, so that
prompts with unequal numbers of responses are compared at one k without bias (Chen et al. 2021, for pass@k).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.pilot.compare import mean_difference
from mrtsim.pilot.sums import PromptSums
from mrtsim.success_counts import subset_share

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ResponseMetrics:
    """Metrics of sampled responses, averaged over prompts; None where the arrays for one were not given.

    So is the diversity where no prompt has two responses.

    Attributes:
        coverage: mean over a prompt's references of the largest cosine to one of k responses, in [-1, 1].
        alignment: mean over its responses of the largest cosine to one of the references, in [-1, 1].
        diversity: 1 - the mean cosine of two of its responses, in [0, 2].
        mean_reward: in the rewards' unit.
        best_of_k: the expected largest reward among k responses.
        best_reward: the largest reward among all of a prompt's responses, whose number it depends on.
        pass_at_k: the chance that one of k responses succeeds.
        length: mean length, in its own unit (tokens, say).
        per_prompt: the numbers that were averaged, by the names above, (prompts,) each; NaN for a prompt with too few
            responses.
        n_prompts: how many prompts each average is over.
        k: how many responses "of k" means; None for all that a prompt has.
        confidence: level of the intervals.
    """

    coverage: Estimate | None = None
    alignment: Estimate | None = None
    diversity: Estimate | None = None
    mean_reward: Estimate | None = None
    best_of_k: Estimate | None = None
    best_reward: Estimate | None = None
    pass_at_k: Estimate | None = None
    length: Estimate | None = None
    per_prompt: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    n_prompts: dict[str, int] = field(default_factory=dict)
    k: int | None = None
    confidence: float = 0.95

    def to_dict(self) -> dict[str, Any]:
        """The averages in their JSON form, with k, the level and how many prompts each is over."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **{name: value.to_dict() for name, value in found.items() if isinstance(value, Estimate)},
            "k": self.k,
            "n_prompts": dict(self.n_prompts),
            "confidence": self.confidence,
        }


def response_metrics(
    generations: Any = None,
    references: Any = None,
    *,
    rewards: Any = None,
    successes: Any = None,
    lengths: Any = None,
    mask: Any = None,
    reference_mask: Any = None,
    k: int | None = None,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> ResponseMetrics:
    """Judge responses sampled to many prompts: those metrics that the given arrays allow.

    Pools of different sizes are lists with one array per prompt, or padded arrays with `mask`. Intervals are Student's
    t over prompts or, with groups, over groups by the jackknife: for other prompts (or groups) like these.

    Args:
        generations: embeddings of the sampled responses, (prompts, responses, features); their lengths do not count.
        references: embeddings of the references, (prompts, references, features); for coverage and alignment.
        rewards: (prompts, responses).
        successes: (prompts, responses), 1 or 0.
        lengths: (prompts, responses), in tokens, say.
        mask: (prompts, responses), true where a response exists.
        reference_mask: (prompts, references), true where a reference exists.
        k: how many responses coverage, best of k and pass@k are of; all that a prompt has by default. Prompts with
            fewer are left out of these, and `n_prompts` says how many remain.
        groups: (prompts,) the topic of each prompt, say, where prompts of one group resemble each other.
        confidence: level of the intervals.

    Returns:
        The averages with their intervals, and the numbers per prompt behind them.

    Raises:
        InputError: nothing to judge, shapes that do not go together, a number that is not finite, an embedding of
            zeros, successes other than 0 and 1, or no prompt with enough responses.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> found = response_metrics(rng.normal(size=(40, 8, 5)), rng.normal(size=(40, 3, 5)), k=4)
        >>> print(f"{found.coverage.value:.2f} {found.alignment.value:.2f} {found.diversity.value:.2f}")
        0.45 0.36 1.00
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    if all(given is None for given in (generations, rewards, successes, lengths)):
        raise InputError("there is nothing to judge: give generations, rewards, successes or lengths")
    if references is not None and generations is None:
        raise InputError("references are compared with generations: give both")
    arrays = {"generations": (generations, 3), "rewards": (rewards, 2)}
    arrays |= {"successes": (successes, 2), "lengths": (lengths, 2)}
    given = {name: _padded(name, a, ndim, mask) for name, (a, ndim) in arrays.items() if a is not None}
    first, (_, exists) = next(iter(given.items()))
    for name, (_, others) in given.items():
        if others.shape != exists.shape or (others != exists).any():
            raise InputError(f"{name} and {first} must have the same prompts and responses")
    values = {name: padded for name, (padded, _) in given.items()}
    per_prompt: dict[str, Floats] = {}
    if generations is not None:
        if references is not None:
            both = values["generations"], references
            masks = {"mask": exists, "reference_mask": reference_mask}
            per_prompt["coverage"] = coverage_at_k(*both, k, **masks)
            per_prompt["alignment"] = alignment(*both, **masks)
        if (exists.sum(axis=1) > 1).any():
            per_prompt["diversity"] = semantic_diversity(values["generations"], mask=exists)
    if rewards is not None:
        per_prompt["mean_reward"] = _row_mean(values["rewards"], exists)
        per_prompt["best_of_k"] = _best_of_k(values["rewards"], exists, k)
        per_prompt["best_reward"] = _best_of_k(values["rewards"], exists, None)
    if successes is not None:
        if np.any(exists & (values["successes"] != 0) & (values["successes"] != 1)):
            raise InputError("successes must be 0 or 1: compare rewards with a threshold first")
        per_prompt["pass_at_k"] = _best_of_k(values["successes"], exists, k)
    if lengths is not None:
        per_prompt["length"] = _row_mean(values["lengths"], exists)
    averages = {
        name: mean_over_prompts(values, groups, confidence=confidence, name=name)
        for name, values in per_prompt.items()
    }
    return ResponseMetrics(
        **averages,
        per_prompt=per_prompt,
        n_prompts={name: int(np.isfinite(values).sum()) for name, values in per_prompt.items()},
        k=k,
        confidence=confidence,
    )


def coverage_at_k(
    generations: Any, references: Any, k: int | None = None, *, mask: Any = None, reference_mask: Any = None
) -> Floats:
    """Coverage of the references by k responses: the mean over references of the largest cosine to one of them.

    Args:
        generations: embeddings, (prompts, responses, features).
        references: embeddings, (prompts, references, features).
        k: the mean over all subsets of k responses is taken; by default all responses are one set.
        mask: (prompts, responses), true where a response exists.
        reference_mask: (prompts, references), likewise.

    Returns:
        (prompts,), in [-1, 1]; NaN for a prompt with fewer than k responses, or without references.

    Raises:
        InputError: shapes that do not go together, a number that is not finite, an embedding of zeros.
    """
    cosines, exists, known = _cosines(generations, references, mask, reference_mask)
    best = _best_of_k(np.moveaxis(cosines, 1, 2), exists[:, None], k)
    return _row_mean(best, known)


def alignment(generations: Any, references: Any, *, mask: Any = None, reference_mask: Any = None) -> Floats:
    """Alignment of the responses with the references: the mean over responses of the largest cosine to a reference.

    Args:
        generations: embeddings, (prompts, responses, features).
        references: embeddings, (prompts, references, features).
        mask: (prompts, responses), true where a response exists.
        reference_mask: (prompts, references), likewise.

    Returns:
        (prompts,), in [-1, 1]; NaN for a prompt without responses or references.

    Raises:
        InputError: as for `coverage_at_k`.
    """
    cosines, exists, known = _cosines(generations, references, mask, reference_mask)
    return _row_mean(_best_of_k(cosines, known[:, None], None), exists)


def semantic_diversity(generations: Any, *, mask: Any = None) -> Floats:
    """Semantic diversity: 1 - the mean cosine of two different responses to a prompt.

    Args:
        generations: embeddings, (prompts, responses, features).
        mask: (prompts, responses), true where a response exists.

    Returns:
        (prompts,), in [0, 2]; NaN for a prompt with fewer than two responses.

    Raises:
        InputError: a wrong shape, a number that is not finite, an embedding of zeros.
    """
    units, exists = _units("generations", generations, mask)
    cosines = np.clip(np.einsum("pif,pjf->pij", units, units), -1, 1)
    pairs = exists[:, :, None] & exists[:, None, :] & ~np.eye(units.shape[1], dtype=bool)
    return 1 - _row_mean(cosines.reshape(len(units), -1), pairs.reshape(len(units), -1))


def best_of_k(values: Any, k: int | None = None, *, mask: Any = None) -> Floats:
    """The expected largest of k of a prompt's values: the mean over all subsets of k. Of 0s and 1s it is pass@k.

    Args:
        values: rewards, or successes (1 or 0), (prompts, responses).
        k: at least 1; by default all values of a prompt.
        mask: (prompts, responses), true where a response exists.

    Returns:
        (prompts,), in the unit of the values; NaN for a prompt with fewer than k.

    Raises:
        InputError: a wrong shape, a number that is not finite, or k below 1.
    """
    numbers, exists = _padded("values", values, 2, mask)
    return _best_of_k(numbers, exists, k)


def mean_over_prompts(
    values: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = 0.95, name: str = "the metric"
) -> Estimate:
    """Mean of one number per prompt with its interval: Student's t over prompts, or over groups by the jackknife.

    For the difference of two metrics of the same prompts, give it the differences.

    Args:
        values: (prompts,); NaN where a prompt has none, which leaves the prompt out.
        groups: (prompts,) labels.
        confidence: level of the interval.
        name: what a message calls the values.

    Returns:
        The mean over prompts. With one prompt (or group) the interval is the whole line.

    Raises:
        InputError: no prompt has a value, or there is not one label per prompt.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1:
        raise InputError(f"{name} must be one number per prompt, got shape {numbers.shape}")
    known = np.isfinite(numbers)
    if not known.any():
        raise InputError(f"no prompt has enough responses for {name}")
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != numbers.shape:
            raise InputError(
                f"groups must hold one label for each of {numbers.size} prompts, got {groups.shape}"
            )
        groups = groups[known]
    sums = PromptSums.of(numbers[known, None], groups=groups)
    if sums.n_prompts == 1 or (sums.starts is not None and sums.starts.size == 1):
        return Estimate(float(sums.means.mean()), -np.inf, np.inf)
    share = np.full(sums.n_prompts, 1 / sums.n_prompts)
    value, square, freedom = mean_difference(sums.means, share, sums)
    return Estimate.from_standard_error(float(value), float(np.sqrt(square)), freedom, confidence)


def _row_mean(values: Floats, exists: Bools) -> Floats:
    """Mean over the last axis of what exists; NaN where nothing does."""
    count = exists.sum(axis=-1)
    total = np.where(exists, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _best_of_k(values: Floats, exists: Bools, k: int | None) -> Floats:
    """Over the last axis: sum_i v_(i) [C(i, k) - C(i - 1, k)] / C(n, k), v_(i) the i-th smallest of n."""
    exists = np.broadcast_to(exists, values.shape)
    n = exists.sum(axis=-1, keepdims=True)
    ascending = np.sort(np.where(exists, values, np.inf), axis=-1)
    ascending = np.where(np.isfinite(ascending), ascending, 0.0)
    if k is None:
        best = np.take_along_axis(ascending, np.maximum(n - 1, 0), axis=-1)[..., 0]
        return np.where(n[..., 0] > 0, best, np.nan)
    try:
        size = operator.index(k)
    except TypeError:
        raise InputError(f"k must be a whole number, got {k!r}") from None
    if size < 1:
        raise InputError(f"k must be at least 1, got {k}")
    enough = n[..., 0] >= size
    if not enough.any():
        raise InputError(f"k = {size}, but no prompt has more than {int(n.max(initial=0))} responses")
    ranks = np.minimum(np.arange(values.shape[-1] + 1), n).astype(float)
    at_most = subset_share(ranks, np.maximum(n, size).astype(float), size)
    best = (np.diff(at_most, axis=-1) * ascending).sum(axis=-1)
    return np.where(enough, best, np.nan)


def _cosines(
    generations: Any, references: Any, mask: Any, reference_mask: Any
) -> tuple[Floats, Bools, Bools]:
    """Cosines (prompts, responses, references), and which responses and references exist."""
    mine, exists = _units("generations", generations, mask)
    theirs, known = _units("references", references, reference_mask)
    if len(mine) != len(theirs) or mine.shape[-1] != theirs.shape[-1]:
        raise InputError(
            f"generations {mine.shape} and references {theirs.shape} must have the same prompts and features"
        )
    return np.clip(np.einsum("pgf,prf->pgr", mine, theirs), -1, 1), exists, known


def _units(name: str, vectors: Any, mask: Any) -> tuple[Floats, Bools]:
    """Unit vectors; each is scaled by its largest feature first, so that no square is too large or too small."""
    given, exists = _padded(name, vectors, 3, mask)
    largest = np.abs(given).max(axis=-1, keepdims=True, initial=0.0)
    zero = exists & (largest[..., 0] == 0)
    if zero.any():
        prompt, response = np.argwhere(zero)[0]
        raise InputError(
            f"{name}: the embedding of prompt {prompt}, response {response} is all zeros, which has no direction"
        )
    scaled = given / np.where(largest > 0, largest, 1)
    norms = np.sqrt(np.square(scaled).sum(axis=-1, keepdims=True))
    return scaled / np.where(norms > 0, norms, 1), exists


def _padded(name: str, given: Any, ndim: int, mask: Any) -> tuple[Floats, Bools]:
    """An array (prompts, responses, ...) with zeros where a response does not exist, and which do."""
    axes = "(prompts, responses)" if ndim == 2 else "(prompts, responses, features)"
    if _ragged(given):
        if mask is not None:
            raise InputError(f"{name} is a list of pools of different sizes: it needs no mask")
        parts = [np.asarray(part, np.float64) for part in given]
        shapes = {part.shape[1:] for part in parts if part.size}
        if len(shapes) != 1 or any(part.ndim != ndim - 1 for part in parts if part.size):
            raise InputError(f"{name} must hold one array {axes.replace('prompts, ', '')} per prompt")
        sizes = np.array([len(part) for part in parts])
        mask = np.arange(sizes.max()) < sizes[:, None]
        values = np.zeros((*mask.shape, *shapes.pop()))
        values[mask] = np.concatenate([part for part in parts if part.size])
    else:
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{name} must be numbers {axes}") from None
    if values.ndim != ndim or not len(values):
        raise InputError(f"{name} must be {axes}, got shape {values.shape}")
    exists = np.ones(values.shape[:2], bool) if mask is None else np.asarray(mask)
    if exists.dtype != bool or exists.shape != values.shape[:2]:
        raise InputError(
            f"the mask of {name} must be booleans of shape {values.shape[:2]}, got {exists.dtype} {exists.shape}"
        )
    finite = np.isfinite(values).reshape(*exists.shape, -1).all(axis=-1)
    if (wrong := exists & ~finite).any():
        prompt, response = np.argwhere(wrong)[0]
        raise InputError(f"{name} of prompt {prompt}, response {response} must be finite numbers")
    return np.where(exists.reshape(*exists.shape, *[1] * (ndim - 2)), values, 0.0), exists


def _ragged(given: Any) -> bool:
    """Whether it is a list of pools of different sizes."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return False
    if not isinstance(given, Sequence | np.ndarray) or not len(given):
        return False
    return len({np.shape(part)[:1] for part in given}) > 1

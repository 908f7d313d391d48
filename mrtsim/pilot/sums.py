"""Sums per prompt: how many responses, their mean, their squared deviations. Every estimate needs these alone.

A pilot of millions of rows costs little more than reading it, and a pilot in parts is summed part by part:
`PromptSums.of(first).merge(PromptSums.of(second))` is the `PromptSums` of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mrtsim.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


LARGEST = 1e150  # whose square is still far from overflow
ENOUGH = 10  # prompts with different losses, of which none has its losses in equal numbers by chance


@dataclass(frozen=True, eq=False)
class PromptSums:
    """Sufficient statistics of a pilot, one column per prompt; prompts of one group stand side by side.

    `PromptSums.of` makes them from losses. Leading axes of `means` and `within` are independent pilots of one design
    (simulations use them). Where the responses have vectors in place of losses (gradients, say) `vectors` is true: the
    leading axis of `means` is that of the features, and squares are those of lengths, so that components are traces.

    Attributes:
        counts: K_i, responses per prompt, (prompts,).
        means: mean loss per prompt, (..., prompts).
        within: sum of squared deviations from it, (..., prompts).
        starts: index of each group's first prompt, (groups,); None without groups.
        labels: each prompt's name, (prompts,); None where prompts have none, and then nothing can be merged.
        group_labels: each group's name, (groups,); None without groups or names.
        vectors: whether `means` are vectors, (features, prompts).
        distances: squared distance of each prompt's mean vector from their mean, (prompts,), where the vectors
            themselves are not there (`of_norms`); else None.
        sketch: dimensions of the random sketch that the vectors are; None where they are none.
        copies: the largest number that divides how often each loss stands in its prompt: 2 in a pilot that was written
            twice. 1 where fewer than 10 prompts have different losses, and where it is not known.
    """

    counts: Floats
    means: Floats
    within: Floats
    starts: Ints | None = None
    labels: pa.Array | None = None
    group_labels: pa.Array | None = None
    vectors: bool = False
    distances: Floats | None = None
    sketch: int | None = None
    copies: int = 1

    @classmethod
    def of(
        cls,
        losses: ArrayLike,
        prompts: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        sketched: bool = False,
    ) -> PromptSums:
        """The sums of losses.

        Args:
            losses: (rows,), one row per response in any order; or (prompts, responses) without `prompts`. An array or
                an Arrow column, as are the others. Or (rows, features) with `prompts`: one vector per response.
            prompts: (rows,), which prompt each row belongs to: text or numbers.
            groups: (rows,), which group of near-duplicate prompts each row belongs to; one per prompt without
                `prompts`.
            sketched: whether the vectors are random sketches, normal of variance 1/features and the same for all rows.

        Returns:
            The sums. Parts of a pilot may hold one prompt, or one response per prompt; what is too little for an
            estimate is refused by the estimate.

        Raises:
            InputError: a loss is not a finite number, a label is missing, or a prompt is in two groups.
        """
        loss, prompt_of, labels, group = _rows(losses, prompts, groups)
        if loss.ndim == 2:
            vectors = _of_vectors(loss, prompt_of, sketched)
            parts = cls(*vectors, labels=labels, vectors=True, sketch=loss.shape[1] if sketched else None)
        else:
            if sketched:
                raise InputError("sketched is for vectors: losses of shape (rows, features) with `prompts`")
            parts = cls(*_of_numbers(loss, prompt_of), labels=labels, copies=copies(loss, prompt_of))
        if group is None:
            return parts
        row_group, group_labels = group
        group_of = np.empty(parts.counts.size, np.int64)
        group_of[prompt_of] = row_group
        strays = np.flatnonzero(group_of[prompt_of] != row_group)
        if strays.size:
            raise InputError(
                f"row {strays[0]} puts its prompt in a second group: a prompt belongs to one group"
            )
        return _in_groups(parts, group_of, group_labels)

    @classmethod
    def of_norms(
        cls,
        counts: ArrayLike,
        square_norms: ArrayLike,
        mean_square_norms: ArrayLike,
        inner_products: ArrayLike,
    ) -> PromptSums:
        """The sums of vectors of which only lengths and inner products are kept; every prompt has as many responses.

        Args:
            counts: K, responses per prompt, (prompts,), all equal.
            square_norms: sum_j |g_ij|^2, of the responses' vectors, (prompts,).
            mean_square_norms: |g_i|^2, of each prompt's mean vector g_i, (prompts,).
            inner_products: of g_i with the mean g of all g_i, (prompts,); their mean is |g|^2.

        Raises:
            InputError: unequal counts, or numbers that no vectors have.
        """
        n, norms, mean_norms, inner = (
            np.atleast_1d(finite_losses(a)) for a in (counts, square_norms, mean_square_norms, inner_products)
        )
        if n.ndim != 1 or {norms.shape, mean_norms.shape, inner.shape} != {n.shape}:
            raise InputError("give one count, two squared norms and one inner product per prompt")
        if np.any(n != n[0]) or n[0] < 1 or n[0] != np.floor(n[0]):
            raise InputError(
                "norms alone need as many responses to each prompt: with unequal numbers prompts are weighed, and the "
                "mean that distances are from moves"
            )
        within, distances = norms - n * mean_norms, mean_norms - 2 * inner + inner.mean()
        slack = 1e-6 * (norms / n + mean_norms + np.abs(inner))
        if np.any(within < -n * slack) or np.any(distances < -slack):
            raise InputError(
                "no vectors have these norms: square_norms are sums over responses, the others are of means"
            )
        return cls(
            counts=n,
            means=np.sqrt(np.maximum(mean_norms, 0))[None],
            within=np.maximum(within, 0),
            vectors=True,
            distances=np.maximum(distances, 0),
        )

    def merge(self, *others: PromptSums) -> PromptSums:
        """The sums of all parts together; a prompt of several counts once, with the responses of all.

        Any order of merging gives the same estimate (to rounding, Chan, Golub and LeVeque 1983). Many parts are merged
        fastest in one call, which looks each prompt up once.

        Raises:
            InputError: the prompts have no names, one part has groups and the other has none, or a prompt is in two
                groups.
        """
        parts = (self, *others)
        for other in parts:
            if other.labels is None:
                raise InputError(
                    "sums without prompt names cannot be merged: give `prompts` to PromptSums.of"
                )
            if (self.starts is None) != (other.starts is None):
                raise InputError(
                    "one part has groups and the other has none: give groups for both, or for neither"
                )
            if (self.vectors, self.sketch, self.means.shape[:-1]) != (
                other.vectors,
                other.sketch,
                other.means.shape[:-1],
            ):
                raise InputError(
                    "the parts hold vectors of different kinds or lengths: they cannot be merged"
                )
        labels, place = _union([part.labels for part in parts], "prompts")
        counts = np.concatenate([part.counts for part in parts])
        means = np.concatenate([part.means for part in parts], axis=-1)
        within = np.concatenate([part.within for part in parts])
        # from the mean of a prompt's first part outwards, so that what stands in one part alone stays as it is
        merged = np.empty((*means.shape[:-1], len(labels)))
        merged[..., place[::-1]] = means[..., ::-1]
        shift = means - merged[..., place]
        total = np.bincount(place, weights=counts)
        for index in np.ndindex(means.shape[:-1]):
            merged[index] += np.bincount(place, weights=counts * shift[index]) / total
        within += counts * self.squared(means - merged[..., place])
        both = replace(
            self,
            counts=total,
            means=merged,
            within=np.bincount(place, weights=within),
            starts=None,
            labels=labels,
            group_labels=None,
            copies=math.gcd(*(part.copies for part in parts)) if len(labels) == counts.size else 1,
        )
        if any(part.group_labels is None for part in parts):
            return both
        group_labels, group_place = _union([part.group_labels for part in parts], "groups")
        starts = np.cumsum([0, *(len(part.group_labels or ()) for part in parts)])
        group = np.concatenate(
            [group_place[s:][part.group_of] for s, part in zip(starts, parts, strict=False)]
        )
        group_of = np.empty(len(labels), np.int64)
        group_of[place[::-1]] = group[::-1]
        strays = np.flatnonzero(group_of[place] != group)
        if strays.size:
            name = repr(str(labels[int(place[strays[0]])])[:60])
            raise InputError(f"prompt {name} is in one group in the first part and in another in the second")
        return _in_groups(both, group_of, group_labels)

    def squared(self, values: Floats) -> Floats:
        """Squares of numbers, or of the lengths of vectors (features, ...)."""
        return (values**2).sum(axis=0) if self.vectors else values**2

    def squares_about_mean(self, weights: Floats) -> Floats:
        """Squared distance of each prompt's mean from their weighted mean."""
        if self.distances is not None:
            return self.distances
        centre = (weights * self.means).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
        return self.squared(self.means - centre)

    @property
    def n_prompts(self) -> int:
        """How many prompts."""
        return self.counts.size

    @property
    def n_groups(self) -> int | None:
        """How many groups; None without groups."""
        return None if self.starts is None else self.starts.size

    @property
    def group_sizes(self) -> Floats:
        """r_g, prompts per cluster: of each group, or 1 per prompt without groups."""
        return self.per_cluster(np.ones(self.counts.size))

    @property
    def group_of(self) -> Ints:
        """Index of each prompt's cluster: its group, or itself without groups."""
        return self.per_prompt(np.arange(self.group_sizes.size))

    def per_cluster(self, values: Floats) -> Floats:
        """Sum over the prompts of each group, (..., prompts) -> (..., groups); the values themselves without groups."""
        return values if self.starts is None else np.add.reduceat(values, self.starts, axis=-1)

    def per_prompt(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per group repeated for its prompts, (..., groups) -> (..., prompts)."""
        if self.starts is None:
            return values
        return np.repeat(values, np.diff(self.starts, append=self.counts.size), axis=-1)


def _rows(
    losses: Any, prompts: Any, groups: Any
) -> tuple[Floats, Ints, pa.Array | None, tuple[Ints, pa.Array] | None]:
    """Checked losses, the prompt of each row, the prompts' labels, and the groups in the same way."""
    loss = finite_losses(losses)
    if prompts is None and loss.ndim != 2:
        raise InputError("give `prompts`, one per loss, or losses of shape (prompts, responses)")
    if prompts is not None and loss.ndim not in (1, 2):
        raise InputError(
            "with `prompts`, losses must be one-dimensional, or (rows, features) for vectors, not of shape "
            f"{loss.shape}"
        )
    if prompts is not None:
        prompt_of, labels = codes(prompts, len(loss), "prompts", "loss")
        return (
            loss,
            prompt_of,
            labels,
            None if groups is None else codes(groups, len(loss), "groups", "loss"),
        )
    n_prompts, per_prompt = loss.shape
    group = None
    if groups is not None:
        group_of, group_labels = codes(groups, n_prompts, "groups", "prompt")
        group = np.repeat(group_of, per_prompt), group_labels
    return loss.ravel(), np.repeat(np.arange(n_prompts), per_prompt), None, group


def _of_numbers(loss: Floats, prompt_of: Ints) -> tuple[Floats, Floats, Floats]:
    """Counts, means and squares within, in two passes from the mean outwards: losses far from zero lose no digits."""
    counts, centre = np.bincount(prompt_of).astype(np.float64), float(loss.mean())
    residuals = loss - centre  # in place from here on: it may be most of the memory
    means = np.bincount(prompt_of, weights=residuals) / counts
    residuals -= means[prompt_of]
    within = np.bincount(prompt_of, weights=np.square(residuals, out=residuals)).astype(
        np.float64, copy=False
    )
    return counts, means + centre, within


def copies(losses: Floats, prompt_of: Ints) -> int:
    """The largest number that divides how often each loss stands in its prompt; see `PromptSums`.

    Args:
        losses: (rows,).
        prompt_of: (rows,), the prompt of each row, 0, 1, ...
    """
    found = 0
    for first in (ENOUGH, 16 * ENOUGH, int(prompt_of.max()) + 1):  # most pilots are told by a few prompts
        rows = np.flatnonzero(prompt_of < first)
        order = rows[np.lexsort((losses[rows], prompt_of[rows]))]
        new_prompt = np.diff(prompt_of[order], prepend=-1) != 0
        starts = np.flatnonzero(new_prompt | (np.diff(losses[order], prepend=np.nan) != 0))
        found = int(np.gcd.reduce(np.diff(starts, append=order.size)))
        if found == 1:
            return 1
    different = np.bincount(prompt_of[order[starts]]) > 1
    return found if different.sum() >= ENOUGH else 1


def _of_vectors(vectors: Floats, prompt_of: Ints, sketched: bool) -> tuple[Floats, Floats, Floats]:
    """Counts, means (features, prompts) and squares of lengths within."""
    if vectors.shape[1] == 0 or (sketched and vectors.shape[1] < 2):
        raise InputError(
            "the vectors have no features" if not sketched else "a sketch has two dimensions or more"
        )
    order = np.argsort(prompt_of, kind="stable")
    counts = np.bincount(prompt_of).astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.int64)
    centre = vectors.mean(axis=0)
    # (rows, features), sorted by prompt
    residuals = vectors[order] - centre
    means = np.add.reduceat(residuals, starts, axis=0) / counts[:, None]
    residuals -= np.repeat(means, counts.astype(np.int64), axis=0)
    within = np.add.reduceat(np.einsum("rf,rf->r", residuals, residuals), starts)
    return counts, np.ascontiguousarray((means + centre).T), within


def finite_losses(losses: Any, name: str = "losses") -> Floats:
    """Losses as an array of any shape, checked to be finite numbers that can be squared.

    Raises:
        InputError: a loss is not a finite number or too large, or there are none.
    """
    try:
        loss = np.asarray(losses, dtype=np.float64)
    except (TypeError, ValueError) as error:
        table = "; of a table name the columns, or take read_pilot(table)" if _is_table(losses) else ""
        raise InputError(f"{name} must be numbers, one per response: {error}{table}") from None
    if loss.size == 0:
        raise InputError("the pilot is empty: give the losses of two or more prompts")
    largest = max(float(loss.max()), -float(loss.min()))
    if not np.isfinite(largest):
        bad = np.flatnonzero(~np.isfinite(loss))
        place = ", ".join(str(i) for i in np.unravel_index(bad[0], loss.shape))
        raise InputError(f"{name}[{place}] is {loss.flat[bad[0]]}: every loss must be a finite number")
    if largest > LARGEST:
        raise InputError(f"a loss of {largest:.3g} is too large to square: divide all losses by a constant")
    return loss


def _is_table(losses: Any) -> bool:
    return hasattr(losses, "column_names") or hasattr(losses, "columns")


def codes(labels: Any, rows: int, name: str, unit: str) -> tuple[Ints, pa.Array]:
    """Labels as integers 0, 1, ... in order of first appearance, and the label of each integer.

    Args:
        labels: one per unit, an array or an Arrow column.
        rows: how many there must be.
        name: of the argument, for messages.
        unit: what each label belongs to, for messages: "loss", "prompt".

    Raises:
        InputError: a label is missing, or their number is wrong.
    """
    import pyarrow as pa

    from mrtsim.tables.arrow_columns import as_arrow, as_numpy  # without the import of pandas

    if isinstance(labels, np.ndarray) and labels.shape == (rows,) and _numbered(labels):
        return labels, as_arrow(np.arange(int(labels.max()) + 1))
    try:
        if hasattr(labels, "__arrow_c_stream__") or hasattr(labels, "__arrow_c_array__"):
            column = pa.chunked_array(labels)
        elif isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.ndim == 1:
            column = as_arrow(np.ascontiguousarray(labels))
        else:  # not a list by way of NumPy, which would make one text of "7" and 7
            plain = isinstance(labels, list | tuple | range)
            column = pa.array(labels if plain else np.asarray(labels), from_pandas=True)
        column = _comparable(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"{name} must hold one label per {unit}, all text or all numbers: {error}") from None
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if len(column) != rows:
        raise InputError(
            f"{name} has {len(column)} labels for {rows} {'losses' if unit == 'loss' else 'prompts'}: "
            f"give one label per {unit}"
        )
    missing = column.null_count > 0
    if pa.types.is_floating(column.type) and not missing:
        missing = bool(np.isnan(as_numpy(column)).any())
    if missing:
        raise InputError(f"{name} has a missing label: every {unit} needs one")
    encoded = column.dictionary_encode()
    return as_numpy(encoded.indices).astype(np.int64), encoded.dictionary


def _numbered(labels: NDArray[Any]) -> bool:
    """Whether labels are 0, 1, ... in order of first appearance already, as those of files are."""
    if labels.dtype != np.int64 or not labels.size or labels[0] != 0 or labels.min() < 0:
        return False
    return bool((labels[1:] <= np.maximum.accumulate(labels)[:-1] + 1).all())


def _comparable(column: pa.Array | pa.ChunkedArray) -> Any:
    """Labels in one type for whole numbers and one for text, so that parts can be merged."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return column.cast(pa.int64())
    if pa.types.is_uint64(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # above 2^63
            return column
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.float64()) if pa.types.is_floating(kind) else column


def _union(parts: Sequence[Any], name: str) -> tuple[pa.Array, Ints]:
    """The labels of all parts once, and the place of each label of each part among them."""
    import pyarrow as pa

    from mrtsim.tables.arrow_columns import as_numpy

    for other in parts[1:]:
        if other.type != parts[0].type:
            raise InputError(
                f"{name} are {parts[0].type} in one part and {other.type} in the other: use one type for both"
            )
    encoded = pa.concat_arrays(parts).dictionary_encode()
    return encoded.dictionary, as_numpy(encoded.indices).astype(np.int64)


def _in_groups(sums: PromptSums, group_of: Ints, group_labels: pa.Array) -> PromptSums:
    """Sums with the prompts of a group one after another."""
    order = np.argsort(group_of, kind="stable")
    return replace(
        sums,
        counts=sums.counts[order],
        means=sums.means[..., order],
        within=sums.within[order],
        labels=None if sums.labels is None else sums.labels.take(order),
        starts=np.flatnonzero(np.diff(group_of[order], prepend=-1)),
        group_labels=group_labels,
    )


def given_prompts_error(
    means: Floats, samples: Sequence[PromptSums], population: int, candidates: int | None = None
) -> tuple[float, float]:
    """Squared standard error of the mean over a given set of P prompts, and its degrees of freedom.

    Of the n prompts at hand, drawn from the P or all of them, the share f = n / P is known:
    (1 - f) S^2 / n + f mean(sum s^2 / K) / n (Cochran 1977, section 10.3), with degrees of freedom by Satterthwaite's
    rule. Of given pools of n candidates 1 - K/n of a prompt's s^2 / K is left.

    Args:
        means: of each prompt, (prompts,); S^2 is their variance.
        samples: the responses that these rest on, of one model or of two.
        population: P.
        candidates: responses per prompt in given pools; None where responses are drawn.

    Raises:
        InputError: P is less than n, the prompts have groups, or one of them has one response only.
    """
    n = means.size
    if samples[0].starts is not None:
        raise InputError("a given set of prompts has no groups to draw: give population or groups")
    if not isinstance(population, int | np.integer):
        raise InputError(f"population must be a whole number, not {population!r}")
    if population < n:
        raise InputError(f"population = {population} is less than the {n} prompts: give how many the set has")
    single = max(int(np.sum(sums.counts < 2)) for sums in samples)
    if single:
        raise InputError(
            f"{single} prompts have one response: with given prompts only responses count, and each needs two"
        )
    known = n / population
    spread = float(np.var(means, ddof=1)) / n * (1 - known)
    noise = [(known / n**2 * s.within / (s.counts - 1) / s.counts, s.counts) for s in samples]
    if candidates is not None:
        noise = [(v * (1 - k / candidates), k) for v, k in noise]
    # v^2 is high by (K + 1) / (K - 1) for normal responses
    scatter = spread**2 / (n - 1) + sum(float((v**2 / (k + 1)).sum()) for v, k in noise)
    square = spread + sum(float(v.sum()) for v, _ in noise)
    return square, square**2 / scatter if scatter > 0 else 0.0


def check(sums: PromptSums) -> None:
    """Refuse a pilot that cannot tell V_x and V_{y|x} apart.

    Raises:
        InputError: there is one prompt or one group, no prompt has two responses, or all responses of every prompt
            agree.
    """
    counts, means, within = sums.counts, sums.means, sums.within
    if counts.size < 2:
        raise InputError("the pilot has one prompt: the variance between prompts needs at least two")
    if counts.max() == 1:
        raise InputError(
            "every prompt has one response, so V_x and V_y|x cannot be told apart: sample two or more for some"
        )
    largest = float((np.abs(means) + np.sqrt(within)).max())
    rounding = counts.sum() * (8 * np.finfo(float).eps * largest) ** 2
    if within.sum() <= rounding:
        if np.ptp(means, axis=-1).max() ** 2 <= rounding:
            raise InputError("all losses are equal: there is no variance to divide")
        raise InputError(
            "the responses of every prompt have the same loss, so V_y|x is estimated at 0: is the loss a property of "
            "the prompt, or is each response repeated?"
        )
    if sums.starts is not None and sums.starts.size < 2:
        raise InputError(
            "all prompts are in one group: the variance between groups needs at least two groups"
        )
    if sums.starts is not None and sums.starts.size == counts.size:
        raise InputError(
            "every group has one prompt, so V_g and V_x|g cannot be told apart: leave the groups out"
        )

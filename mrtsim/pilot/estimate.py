"""Estimates of the variance components of a pilot, with their intervals: ANOVA, ML and REML.

A pilot is a list of losses l_ij of response j = 1..K_i to prompt i, possibly with prompts in groups of near-duplicates:

    l_ij = mu + g_{group(i)} + a_i + e_ij,    Var g = V_g,  Var a = V_{x|g} (V_x without groups),  E Var e = V_{y|x}.

K_i must not depend on the losses: a pilot that drew more responses where they spread more gives biased estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from mrtsim.display import Display, plain
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.pilot.growth import Growth, mean_standard_error
from mrtsim.pilot.intervals import DEFAULT, interval_method
from mrtsim.pilot.mean_squares import weighted_mean_squares
from mrtsim.pilot.sums import PromptSums, check
from mrtsim.pilot.text import pilot_rows, pilot_text, warning_lines
from mrtsim.pilot.warnings import pilot_warnings
from mrtsim.variance import VarianceComponents

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    from mrtsim.pilot.crossed import CrossedEstimate
    from mrtsim.plan.allocate import Cost

    Floats = NDArray[np.float64]

Method = Literal["anova", "ml", "reml"]


@dataclass(frozen=True)
class PilotEstimate(Display):
    """Variance components of a pilot with their intervals; `print` it for the text of `mrtsim pilot`.

    Attributes:
        components: raw estimates; V_x may be negative with `method="anova"`.
        prompt: V_x, or V_{x|g} where the prompts come in groups, in squared units of the loss.
        response: V_{y|x}.
        group: V_g, or None without groups.
        ratio: V_{y|x} / (r V_g + V_{x|g}), which is V_{y|x} / V_x without groups: what K* rests on.
        icc: share of the variance that responses to one prompt have in common.
        mean: mean over prompts of the mean loss, with its standard error `standard_error`; of vectors the length of
            the mean vector, and the root of the mean squared length of its error.
        vectors: whether the components are traces, of vectors in place of losses (`docs/gradients.md`).
        redundancy: r, prompts per group that the ratio and K* are for; 1 without groups, 0 for the same groups.
        mean_group_size: prompts among which a group's cost is shared; 1 without groups.
        growth: "new" where groups are a sample, "same" where they are all there are (`mrtsim.pilot.growth`).
        warnings: what a reader must know before acting on the numbers.
    """

    components: VarianceComponents
    prompt: Estimate
    response: Estimate
    group: Estimate | None
    ratio: Estimate
    icc: Estimate
    mean: float
    standard_error: float
    n_prompts: int
    n_responses: int
    n_groups: int | None
    redundancy: float
    mean_group_size: Fraction
    growth: Growth
    vectors: bool
    method: Method
    confidence: float
    warnings: tuple[str, ...]

    @property
    def planning(self) -> VarianceComponents:
        """Components of one prompt of the corpus, r V_g + V_{x|g} and V_{y|x}: what an allocation needs.

        Source: Var = V_g / M + V_{x|g} / (M r) + V_{y|x} / (M r K) with N_p = M r (Cochran 1977, section 10.8).
        """
        return _planning(self.components, self.redundancy)

    def planning_at(self, end: Literal["low", "estimate", "high"]) -> VarianceComponents:
        """`planning` with V_x moved so that the ratio is at its estimate or at a limit; never negative.

        V_{y|x} stays at its estimate, so that V_x may lie outside its own interval. Where the ratio is 0 its sum with
        V_{y|x} is one variance between prompts: K = 1, and the variance of a response is the same. V_x is 0 where
        the ratio is infinite; a plan on that needs a cap on the responses per prompt.
        """
        ratio = float(self.ratio.value if end == "estimate" else getattr(self.ratio, end))
        if end == "estimate":
            return VarianceComponents(max(0.0, self.planning.prompt), self.components.response)
        if ratio == 0:
            return VarianceComponents(max(0.0, self.planning.prompt) + self.components.response, 0.0)
        return VarianceComponents(self.components.response / ratio, self.components.response)

    def cost_per_prompt(self, cost: Cost) -> Cost:
        """Costs with each prompt's share of its group, C_p + C_g / r_1; the same groups are paid for already."""
        from mrtsim.plan.allocate import Cost, exact_cost

        if cost.group is None:
            return cost
        group, prompt, response = exact_cost(cost)
        share = group / self.mean_group_size if self.growth == "new" else 0
        return Cost(prompt + share, response)  # pyright: ignore[reportArgumentType]

    def largest_regret(self, responses_per_prompt: int, cost: Cost) -> float:
        """How much a plan with this K could lose: excess variance over the best K at equal cost, as a share of it.

        The largest over the interval of the ratio, N_p and the best K (at least 1) not being whole. The variance at
        equal cost is proportional to (1 + ratio/K)(C_p + K C_r), least at K*, with (sqrt(C_p) + sqrt(ratio C_r))^2
        (Cochran 1977, section 10.6); it grows with the distance of K* from K, so that an end of the interval is worst.
        """
        cost = self.cost_per_prompt(cost)
        k, p, r = responses_per_prompt, float(cost.prompt), float(cost.response)
        if r == 0:  # the best K is infinite
            return self.ratio.high / k

        def regret(ratio: float) -> float:
            if math.isinf(ratio):
                return p / (k * r)
            best = max(1.0, math.sqrt(ratio * p / r))
            return (1 + ratio / k) * (p + k * r) / ((1 + ratio / best) * (p + best * r)) - 1

        return max(0.0, regret(self.ratio.low), regret(self.ratio.high))

    def k_star(self, cost: Cost) -> Estimate:
        """K* = sqrt(ratio * C_p / C_r) with the limits of the ratio.

        With a cost per group C_p is that of `cost_per_prompt`. Infinite where the ratio is, or where responses are
        free (C_r = 0); NaN where it is undetermined.
        """
        prompt = float(self.cost_per_prompt(cost).prompt)

        def root(ratio: float) -> float:
            top = ratio * prompt
            if cost.response == 0:
                return math.inf if top > 0 else math.nan
            return math.sqrt(top / cost.response)

        return Estimate(root(self.ratio.value), root(self.ratio.low), root(self.ratio.high))

    def _rows(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return pilot_rows(self)

    def __str__(self) -> str:
        return "\n".join([pilot_text(self), *warning_lines(self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        components = {"prompt": self.prompt, "response": self.response}
        if self.group is not None:
            components["group"] = self.group
        planning = {"prompt": self.planning.prompt, "response": self.planning.response}
        record = {"components": components, "ratio": self.ratio, "icc": self.icc, "planning": planning}
        record |= {"mean_loss": self.mean, "standard_error": self.standard_error}
        record |= {"n_prompts": self.n_prompts, "n_responses": self.n_responses}
        record |= {"method": self.method, "confidence": self.confidence, "warnings": self.warnings}
        if self.n_groups is not None:
            record |= {"n_groups": self.n_groups, "redundancy": self.redundancy}
        return plain(record)

    def plot(self) -> Axes:
        """Draw the components with their intervals, in a new figure of pyplot."""
        from mrtsim.plotting import plot_estimates

        _, rows = self._rows()
        estimates = (self.group, self.prompt, self.response)
        names = [row[0] for row in rows if row[0].startswith("V_")]
        return plot_estimates(
            list(zip(names, [e for e in estimates if e is not None], strict=True)),
            f"variance, in squared units of the loss, with {100 * self.confidence:g} % intervals",
        )


@overload
def estimate_components(
    losses: ArrayLike | PromptSums,
    prompts: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    judges: None = None,
    method: Method = "anova",
    confidence: float = 0.95,
    redundancy: float | None = None,
    growth: Growth = "new",
    interval: str = DEFAULT,
    population: int | None = None,
    sketched: bool = False,
) -> PilotEstimate: ...


@overload
def estimate_components(
    losses: ArrayLike,
    prompts: ArrayLike | None = None,
    *,
    judges: ArrayLike,
    fixed_judges: bool = False,
    confidence: float = 0.95,
) -> CrossedEstimate: ...


def estimate_components(
    losses: ArrayLike | PromptSums,
    prompts: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    judges: ArrayLike | None = None,
    fixed_judges: bool = False,
    method: Method = "anova",
    confidence: float = 0.95,
    redundancy: float | None = None,
    growth: Growth = "new",
    interval: str = DEFAULT,
    population: int | None = None,
    sketched: bool = False,
) -> PilotEstimate | CrossedEstimate:
    """Estimate V_x and V_{y|x} (with groups also V_g, with judges V_p, V_j, V_pj and V_r) from per-response losses.

    Args:
        losses: (rows,), one row per response in any order; or (prompts, responses) without `prompts`; or the
            `PromptSums` of a pilot, which hold prompts and groups already. Or (rows, features) with `prompts`, one
            vector (a gradient, say) per response: every component is then the trace of a covariance matrix.
        prompts: (rows,), which prompt each row belongs to: text or numbers.
        groups: (rows,), which group of near-duplicate prompts each row belongs to.
        judges: (rows,), which judge (seed, checkpoint) each row belongs to, where the same ones see every prompt; or
            (responses,), one per column, without `prompts`. See `mrtsim.pilot.crossed`.
        fixed_judges: whether the target is the mean over these judges; by default they are a sample.
        method: "anova" (Henderson's method I, unbiased, may be negative), "ml" or "reml" (normal likelihood, never
            negative); Searle, Casella and McCulloch 1992, chapters 3, 5 and 6.
        confidence: level of the intervals, which do not depend on `method`.
        redundancy: prompts per group in the corpus that the ratio is for; by default sum r_g^2 / sum r_g of the
            pilot's own groups.
        growth: "new" where groups (without any: prompts) are a sample of others; "same" where the corpus has these
            groups alone, so that V_g is no error: the ratio is then V_{y|x} / V_{x|g}.
        interval: name of the interval method, see `mrtsim.pilot.intervals`.
        population: P, where the mean over a given set of P prompts is meant, from which these were drawn or which they
            are: then its standard error knows the share of them (`given_prompts_error`).
        sketched: whether the vectors are random sketches of longer ones, normal of variance 1/features and the same
            for all rows: the intervals then allow for the sketch.

    Returns:
        The estimates, their intervals, and what to know before acting on them: a `CrossedEstimate` with judges, else
        a `PilotEstimate`.

    Raises:
        InputError: a loss is not finite, there is one prompt or one group, no prompt has two responses, all responses
            of every prompt agree, or an argument is out of range.
    """
    if judges is not None:
        from mrtsim.pilot.crossed import estimate_crossed

        if isinstance(losses, PromptSums):
            raise InputError("judges go with losses: sums per prompt no longer tell the judges apart")
        given = groups is not None or redundancy is not None
        if given or (method, growth, interval) != ("anova", "new", DEFAULT):
            raise InputError(
                "judges go with method='anova' alone, and without groups, redundancy, growth or interval"
            )
        if sketched:
            raise InputError("sketched is for vectors, which do not go with judges")
        if population is not None:
            raise InputError(
                "population does not go with judges: they are drawn, whichever prompts are given"
            )
        return estimate_crossed(losses, prompts, judges, fixed_judges=fixed_judges, confidence=confidence)
    if fixed_judges:
        raise InputError("fixed_judges needs judges")
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}; choose one of {', '.join(get_args(Method))}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    limits_by = interval_method(interval)
    if not isinstance(losses, PromptSums):
        pilot = PromptSums.of(losses, prompts, groups, sketched=sketched)
    elif prompts is None and groups is None and not sketched:
        pilot = losses
    else:
        raise InputError(
            "PromptSums hold prompts and groups already: give either sums, or losses with `prompts`"
        )
    check(pilot)
    if pilot.vectors and (method != "anova" or interval != DEFAULT or population is not None):
        raise InputError("vectors go with method='anova' and the default interval, and without population")
    if growth not in get_args(Growth):
        raise InputError(f"growth is {growth!r}; choose one of {', '.join(get_args(Growth))}")
    mean_group_size = Fraction(pilot.n_prompts, pilot.group_sizes.size)
    if growth == "same":
        if pilot.starts is None:
            raise InputError("growth='same' needs groups: without them there is nothing to stay the same")
        if redundancy is not None:
            raise InputError("redundancy is for new groups: leave it out for the same")
        redundancy = 0.0
    elif redundancy is None:
        redundancy = _redundancy(pilot)
    elif pilot.starts is None:
        raise InputError("redundancy needs groups: without them every prompt stands for itself")
    elif not (math.isfinite(redundancy) and redundancy >= 1):
        raise InputError(f"redundancy is {redundancy}; it counts the prompts of a group, so it is at least 1")
    else:
        mean_group_size = Fraction(repr(float(redundancy)))

    components = _anova(pilot) if method == "anova" else _likelihood(pilot, restricted=method == "reml")
    squares = weighted_mean_squares(pilot)
    limits = limits_by(pilot, confidence, redundancy)
    planning = _planning(components, redundancy)
    total = max(0.0, components.prompt + components.group)
    standard_error = mean_standard_error(pilot, growth=growth, population=population)
    return PilotEstimate(
        components=components,
        prompt=component_estimate(components.prompt, limits.prompt),
        response=component_estimate(components.response, limits.response),
        group=None if limits.group is None else component_estimate(components.group, limits.group),
        ratio=component_estimate(_ratio(planning), limits.ratio),
        icc=component_estimate(total / (total + components.response), limits.icc),
        mean=_mean(pilot),
        standard_error=standard_error,
        n_prompts=pilot.n_prompts,
        n_responses=int(pilot.counts.sum()),
        n_groups=pilot.n_groups,
        redundancy=redundancy,
        mean_group_size=mean_group_size,
        growth=growth,
        vectors=pilot.vectors,
        method=method,
        confidence=confidence,
        warnings=(
            *pilot_warnings(pilot, squares, planning, limits, confidence=confidence, redundancy=redundancy),
            *(
                ()
                if isinstance(losses, PromptSums) or prompts is not None
                else _columns(losses, standard_error)
            ),
        ),
    )


def _columns(losses: ArrayLike, standard_error: float) -> Iterator[str]:
    """Whether the columns of an array differ alike in all prompts, as the columns of common judges would."""
    from mrtsim.pilot.cells import Cells
    from mrtsim.pilot.common_judges import common_judge_warnings

    table = np.asarray(losses, dtype=np.float64)
    return common_judge_warnings(
        {"column": Cells.of_table(table)} if table.shape[1] > 1 else {},
        remedy=lambda _: f"give judges=range({table.shape[1]}), unless each prompt's losses were sorted",
        standard_error=standard_error,
    )


def _mean(pilot: PromptSums) -> float:
    """Mean over prompts of the mean loss, or the length of the mean vector."""
    if pilot.distances is not None:  # mean |g_i - g|^2 = mean |g_i|^2 - |g|^2
        return math.sqrt(max(0.0, float((pilot.means[0] ** 2 - pilot.distances).mean())))
    mean = pilot.means.mean(axis=-1)
    return float(np.linalg.norm(mean)) if pilot.vectors else float(mean)


def _planning(components: VarianceComponents, redundancy: float) -> VarianceComponents:
    """r V_g + V_{x|g} and V_{y|x}."""
    return VarianceComponents(
        prompt=components.prompt + redundancy * components.group, response=components.response
    )


def _ratio(planning: VarianceComponents) -> float:
    return planning.response / planning.prompt if planning.prompt > 0 else math.inf


def component_estimate(value: float, bounds: tuple[Floats, Floats]) -> Estimate:
    """A component cannot be negative, so the limits stop at 0; otherwise they hold the estimate.

    ML, REML and Henderson weigh unequal K_i differently from the limits, so that in a very unbalanced pilot the
    estimate may fall outside them.
    """
    low, high = (max(0.0, float(limit)) for limit in bounds)
    return Estimate(value, min(low, max(value, 0.0)), max(high, value))


def _redundancy(pilot: PromptSums) -> float:
    """Prompts per group as the variance feels them, N_p sum_g (r_g / N_p)^2: the size of equal groups."""
    if pilot.starts is None:
        return 1.0
    sizes = pilot.per_cluster(np.ones(pilot.counts.size))
    return float((sizes**2).sum() / sizes.sum())


# Point estimates


def anova_components(pilot: PromptSums) -> tuple[Floats, Floats, Floats]:
    """(V_g, V_x or V_{x|g}, V_{y|x}) by Henderson's method I, of the shape of the pilot's leading axes.

    Sums of squares are equated to their expectations (Searle et al. 1992, section 5.3). Without groups V_g is 0,
    V_{y|x} = MSW and V_x = (MSB - MSW) / k_0 with k_0 = (n - sum K_i^2 / n) / (P - 1). With groups the expected mean
    squares are those of the unbalanced nested design (Cochran 1977, section 10.8; Searle et al. 1992).
    """
    n = pilot.counts
    total, prompts = n.sum(), n.size
    response = pilot.within.sum(axis=-1) / (total - prompts)
    if pilot.starts is None:
        k0 = (total - (n**2).sum() / total) / (prompts - 1)
        between = (n * pilot.squares_about_mean(n)).sum(axis=-1) / (prompts - 1)
        return np.zeros_like(response), (between - response) / k0, response

    deviations = pilot.means - (n * pilot.means).sum(axis=-1, keepdims=True) / total
    size = pilot.per_cluster(n)
    group_means = pilot.per_cluster(n * deviations) / size
    groups = size.size
    nested = (pilot.per_cluster(n**2) / size).sum()
    ss_prompt = (n * pilot.squared(deviations - pilot.per_prompt(group_means))).sum(axis=-1)
    prompt = (ss_prompt - (prompts - groups) * response) / (total - nested)
    ss_group = (size * pilot.squared(group_means)).sum(axis=-1)
    group = (ss_group - (groups - 1) * response - (nested - (n**2).sum() / total) * prompt) / (
        total - (size**2).sum() / total
    )
    return group, prompt, response


def _anova(pilot: PromptSums) -> VarianceComponents:
    group, prompt, response = (float(v) for v in anova_components(pilot))
    return VarianceComponents(prompt=prompt, response=response, group=group)


def _likelihood(pilot: PromptSums, *, restricted: bool) -> VarianceComponents:
    """Maximum likelihood, or REML, of the normal random-effects model (Searle et al. 1992, chapter 6).

    V_{y|x} and the mean are profiled out, which leaves the ratios V_x / V_{y|x} and V_g / V_{y|x}, both at least 0.
    """
    from scipy import optimize

    objective = _profile(pilot, restricted)
    if pilot.starts is None:

        def slope(ratio: float) -> float:
            return objective(0.0, ratio)[1][1]

        # The deviance may have more than one valley when K_i differ much: bracket each on a grid, keep the deepest.
        grid = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 37)])
        slopes = [slope(r) for r in grid]
        candidates = [0.0] if slopes[0] >= 0 else []
        for i in range(grid.size - 1):
            if slopes[i] < 0 <= slopes[i + 1]:
                root = optimize.brentq(slope, grid[i], grid[i + 1], xtol=1e-300, rtol=1e-13)
                candidates.append(float(root))
        best = min(candidates or [float(grid[-1])], key=lambda r: objective(0.0, r)[0])
        ratios = (0.0, best)
    else:
        anova = _anova(pilot)
        scale = max(anova.response, 1e-300)
        starts = _valleys(lambda prompt, group: objective(prompt, group)[0])
        starts.append(tuple(np.maximum([anova.prompt / scale, anova.group / scale], 1e-3)))
        fits = [
            optimize.minimize(
                lambda x: objective(x[0], x[1])[:2],
                x0,
                jac=True,
                method="L-BFGS-B",
                bounds=[(0, None)] * 2,
                options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
            )
            for x0 in starts
        ]
        ratios = tuple(float(r) for r in min(fits, key=lambda fit: fit.fun).x)
    response = objective(*ratios)[2]
    if pilot.starts is None:
        return VarianceComponents(prompt=ratios[1] * response, response=response)
    return VarianceComponents(prompt=ratios[0] * response, response=response, group=ratios[1] * response)


def _valleys(function: Callable[[float, float], float]) -> list[tuple[float, float]]:
    """The four deepest local minima of a function of two ratios on a grid of 0 and 10^-3 to 10^3.

    The deviance of an unbalanced nested pilot may have several, and a search from one start finds one of them.
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 9)])
    depth = np.array([[function(prompt, group) for group in grid] for prompt in grid])
    padded = np.pad(depth, 1, constant_values=np.inf)
    around = [padded[i : i + 10, j : j + 10] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    minima = np.argwhere(depth <= np.min(around, axis=0))
    deepest = sorted(minima.tolist(), key=lambda place: depth[tuple(place)])[:4]
    return [(float(grid[i]), float(grid[j])) for i, j in deepest]


def _profile(pilot: PromptSums, restricted: bool) -> Callable[[float, float], tuple[float, Floats, float]]:
    """Deviance per response, its gradient and V_{y|x}, as a function of V_{x|g} / V_{y|x} and V_g / V_{y|x}.

    Without groups each prompt is its own group, and the second argument is V_x / V_{y|x}.
    """
    n = pilot.counts
    means = pilot.means - pilot.means.mean()
    within = float(pilot.within.sum())
    degrees = n.sum() - restricted

    def deviance(prompt: float, group: float) -> tuple[float, Floats, float]:
        w = n / (1 + prompt * n)
        size = pilot.per_cluster(w)
        centres = pilot.per_cluster(w * means) / size
        gaps = means - pilot.per_prompt(centres)
        u = size / (1 + group * size)
        total = u.sum()
        off = centres - (u * centres).sum() / total
        squares = within + (w * gaps**2).sum() + (u * off**2).sum()
        value = degrees * np.log(squares) + np.log1p(prompt * n).sum() + np.log1p(group * size).sum()

        d_size = -pilot.per_cluster(w**2)
        d_centre = -pilot.per_cluster(w**2 * gaps) / size
        d_u = d_size / (1 + group * size) ** 2
        d_squares = np.array(
            [
                -(w**2 * gaps**2).sum() + (d_u * off**2).sum() + 2 * (u * off * d_centre).sum(),
                -(u**2 * off**2).sum(),
            ]
        )
        gradient = degrees * d_squares / squares
        gradient += [w.sum() + (group * d_size / (1 + group * size)).sum(), total]
        if restricted:
            value += np.log(total)
            gradient += np.array([d_u.sum(), -(u**2).sum()]) / total
        return float(value / degrees), gradient / degrees, float(squares / degrees)

    return deviance

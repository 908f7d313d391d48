"""Growth of a corpus of groups: what a plan may add, the error of the mean then, and the best group size.

    new     new groups, of the pilot's sizes: N Var = r_2 V_g + V_{x|g} + V_{y|x}/K, a prompt costs C_p + C_g/r_1
    same    more prompts in the groups there are (proportional strata): N Var = V_{x|g} + V_{y|x}/K
    choose  new groups of the best size r

with r_1 = N/G, the mean size, which shares the group's cost, and r_2 = sum r_g^2 / sum r_g, which the variance feels
(Cochran 1977, sections 5.3 and 10.8).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from mrtsim.errors import InputError
from mrtsim.pilot.sums import given_prompts_error

if TYPE_CHECKING:
    from mrtsim.pilot.sums import PromptSums
    from mrtsim.plan.allocate import Cost
    from mrtsim.variance import VarianceComponents

Growth = Literal["new", "same"]


def mean_standard_error(
    sums: PromptSums,
    *,
    growth: Growth = "new",
    population: int | None = None,
    candidates: int | None = None,
    group_population: int | None = None,
) -> float:
    """Standard error of the mean over prompts of the mean loss, by what it is an estimate of.

    Clusters (groups, or prompts without groups) of sizes r_g: sum r_g^2 (y_g - y)^2 / (N^2 - sum r_g^2), which is
    unbiased where V_g = 0, and for equal sizes. The same groups: the mean square of prompt means within groups, over N.
    A given set of groups has a share f = G/M_tot of the second and 1 - f of the first. A given set of P prompts:
    `given_prompts_error`.

    Args:
        sums: the pilot.
        growth: whether groups are a sample ("new") or all there are ("same").
        population: P, of given prompts; needs a pilot without groups.
        candidates: responses per prompt in given pools; without `population` it changes nothing.
        group_population: M_tot, of given groups.

    Raises:
        InputError: there are fewer prompts, candidates or groups than in the pilot, or the options do not go together.
    """
    n, size = sums.n_prompts, sums.group_sizes
    if candidates is not None and sums.counts.max() > candidates:
        raise InputError(
            f"a prompt has {sums.counts.max():g} responses, more than the {candidates} candidates of its pool"
        )
    if population is not None:
        return math.sqrt(given_prompts_error(sums.means, [sums], population, candidates)[0])
    if sums.starts is None:
        return math.sqrt(float(sums.squares_about_mean(sums.counts * 0 + 1).sum()) / (n * (n - 1)))
    deviations = sums.per_cluster(sums.means - sums.means.mean(axis=-1, keepdims=True))
    between = float(sums.squared(deviations).sum() / (n**2 - (size**2).sum()))
    centres = sums.per_prompt(sums.per_cluster(sums.means) / size)
    within = float(sums.squared(sums.means - centres).sum()) / max(n - size.size, 1) / n
    if growth == "same":
        return math.sqrt(within)
    share = 0.0
    if group_population is not None:
        if group_population < size.size:
            raise InputError(
                f"the pilot has {size.size} groups, more than the {group_population} that there are"
            )
        share = size.size / group_population
    return math.sqrt((1 - share) * between + share * within)


def best_group_size(components: VarianceComponents, cost: Cost, max_group_size: int | None = None) -> float:
    """r* = sqrt(V_{x|g} C_g / (V_g C_p)), at least 1 and at most `max_group_size`, were it not whole.

    With a group's cost of 0 a group holds one prompt. Infinite where V_g <= 0 or prompts cost nothing, unless there is
    a cap: then a group's further prompts are worth as much as those of new groups, or are free.

    Args:
        components: V_g, V_{x|g} and V_{y|x}; estimates below 0 count as 0.
        cost: C_g, C_p and C_r; a group without a cost costs nothing.
        max_group_size: the largest r.
    """
    most = math.inf if max_group_size is None else max_group_size
    top = max(0.0, components.prompt) * (cost.group or 0.0)
    bottom = max(0.0, components.group) * cost.prompt
    if bottom == 0:
        endless = components.group <= 0 or top > 0
        return most if endless else 1.0
    return min(most, max(1.0, math.sqrt(top / bottom)))

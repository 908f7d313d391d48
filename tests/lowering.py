"""Lower every compiled unit that a test meets for the platforms that the machine lacks, by `jax.export`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.export
import pytest

from mrtsim import montecarlo

PLATFORMS = ("cuda", "tpu")
MEMORY = 2**34  # of the accelerator that blocks are made for
OURS = ("mrtsim.", "experiments.")
UNITS = type(eqx.filter_jit(abs)), type(jax.jit(abs))

# Units in float64: they lower for a TPU, which emulates float64, and may not compile there (eigh, betainc, sorts).
TPU_UNKNOWN = frozenset(
    {
        "experiments.adaptive.mean_losses",
        "experiments.bridge._pairs",
        "experiments.collapse._training_set",
        "experiments.lattice.mean_losses",
        "experiments.lattice.pilot_losses",
        "experiments.misalignment._expected",
        "experiments.redundancy.pilot_losses",
        "experiments.selection_guarantee.shares_of_best",
        "experiments.shared.mdn_training.true_nll.<locals>.<lambda>",
        "experiments.shared.reference_network.mean_losses",
        "mrtsim.diagnostics.problem._outputs_and_grams",
        "mrtsim.diagnostics.problem._rows_of",
        "mrtsim.diagnostics.problem._weighted",
        "mrtsim.diagnostics.problem.batch_gradients",
        "mrtsim.diagnostics.problem.in_parameters",
        "mrtsim.diagnostics.problem.values_of",
        "mrtsim.diagnostics.simulate._batch_of_trials",
        "mrtsim.distributions.exact_components._at",
        "mrtsim.distributions.exact_components.conditional_cumulants",
        "mrtsim.distributions.gaussian_modes.paper_centre",
        "mrtsim.distributions.quadrature.quadrature",
        "mrtsim.losses.mixture_nll",
        "mrtsim.models.initialise",
        "mrtsim.selection.select._keep_block",
    }
)


class Lowered:
    """Units by name, and whether any of the shapes they were met with holds float64."""

    def __init__(self) -> None:
        self.float64: dict[str, bool] = {}
        self._seen: set[Any] = set()

    @property
    def in_float64(self) -> set[str]:
        """Names of the units in float64."""
        return {name for name, wide in self.float64.items() if wide}

    def export(self, name: str, jitted: Any, arguments: tuple[Any, ...], given: list[Any]) -> None:
        """Lower a jitted function for every platform. The arrays given must keep their precision on the way in."""
        exported = jax.export.export(jitted, platforms=PLATFORMS)(*arguments)
        taken = {str(aval.dtype) for aval in exported.in_avals}
        if "float64" in {str(a.dtype) for a in given if hasattr(a, "dtype")}:
            assert "float64" in taken, (
                f"{name} is given float64 and takes {sorted(taken)}: enable_x64 or cast"
            )
        wide = re.search(r"\bf64\b|xf64\b", exported.mlir_module()) is not None
        self.float64[name] = self.float64.get(name, False) or wide

    def call(self, unit: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Lower a unit for the arguments of a call, then call it."""
        self.lower(unit, *args, **kwargs)
        return unit(*args, **kwargs)

    def lower(self, unit: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Lower a unit for the arguments of a call; inside of a trace it belongs to another unit."""
        name = unit_name(unit)
        dynamic, static = eqx.partition((args, kwargs), eqx.is_array)
        leaves, tree = jax.tree.flatten(dynamic)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            self.float64.setdefault(name, False)
            return

        def without_static(dynamic: Any) -> Any:
            args, kwargs = eqx.combine(dynamic, static)
            return eqx.filter(inspect.unwrap(unit)(*args, **kwargs), eqx.is_array)

        kind = (name, tree, str(jax.tree.leaves(static)), *((a.shape, str(a.dtype)) for a in leaves))
        if kind not in self._seen:
            self._seen.add(kind)
            self.export(name, jax.jit(without_static), (dynamic,), leaves)

    def block(self, plan: montecarlo.Plan) -> None:
        """Lower the block of replicates that an accelerator would run."""
        block = montecarlo.block_size(montecarlo.array_bytes(plan.call), plan.n, MEMORY)
        if (plan.call, block) not in self._seen:
            self._seen.add((plan.call, block))
            given = jax.tree.leaves(plan.dynamic)
            self.export(unit_name(plan.call.fn), *montecarlo.program(plan.call, block), given)


def unit_name(fn: Any) -> str:
    """Module and name of a unit's function."""
    fn = fn.func if isinstance(fn, partial) else inspect.unwrap(fn)
    return f"{fn.__module__}.{fn.__qualname__}"


def named_units() -> dict[str, Any]:
    """The units that are attributes of the imported modules, by name."""
    return {
        unit_name(value): value
        for name, module in list(sys.modules.items())
        if name.startswith(OURS)
        for value in vars(module).values()
        if isinstance(value, UNITS) and unit_name(value).startswith(OURS)
    }


@contextmanager
def lowering() -> Iterator[Lowered]:
    """Within it every unit is lowered before it is called: those of modules, made in functions, and of the engine."""
    met = Lowered()
    known = named_units()
    run_several = montecarlo.run_several

    def lowered_blocks(plans: Any, **options: Any) -> Any:
        met.block(plans[0])
        return run_several(plans, **options)

    def made_in_functions(jit: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(fn: Any = None, **options: Any) -> Any:
            module = sys._getframe(1).f_globals["__name__"]
            unit = jit(**options) if fn is None else jit(fn, **options)
            ours = module.startswith(OURS) and module != montecarlo.__name__ and not options
            return partial(met.call, unit) if ours else unit

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            for attribute, value in list(vars(module).items()) if name.startswith(OURS) else []:
                if isinstance(value, UNITS) and unit_name(value) in known:
                    patch.setattr(module, attribute, partial(met.call, value))
        patch.setattr(montecarlo, "run_several", lowered_blocks)
        patch.setattr(jax, "jit", made_in_functions(jax.jit))
        patch.setattr(eqx, "filter_jit", made_in_functions(eqx.filter_jit))
        yield met


def check(met: Lowered, every: set[str]) -> None:
    """Of the units met, `TPU_UNKNOWN` lists those in float64; of `every` unit it lists no other."""
    assert met.float64, "no unit was met"
    assert sorted(met.in_float64 - TPU_UNKNOWN) == []
    assert sorted(every & TPU_UNKNOWN - met.in_float64) == []

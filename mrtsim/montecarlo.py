"""The replicate engine: one function, many random keys, in fixed blocks over threads, devices and hosts.

Replicate i of `fn` sees the key `fold_in(key, i)`. The compiled unit is a plain jitted block: `fn` under `vmap` over
`block` consecutive replicates, without collectives. A block is handed whole to one device, so its bits do not depend on
how many devices, threads or hosts share the work, nor on the memory bound, which only limits how many blocks are in
flight. They do depend on the block size, which follows the kind of device, on the versions of JAX and its compiler, and
on the processor's instruction set and core count.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from mrtsim.devices import device_memory, on_cpu, usable_cores
from mrtsim.errors import InputError

_Sums = tuple[int, list[Any], list[Any]]  # count; mean and sum of squared deviations of each output

_CACHE_BYTES = 2**21  # a block's largest array should stay in the cache of a core


def replicate(
    fn: Callable[..., Any],
    key: jax.Array,
    n: int,
    *args: Any,
    block: int | None = None,
    memory: float | None = None,
    threads: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: str | None = None,
) -> Any:
    """Run fn(key_i, *args) for n keys.

    Floating-point results are float64. `jax.enable_x64` is respected. After `jax.distributed.initialize`, process
    p of P runs the blocks b = p mod P, and every process gets the whole answer.

    Args:
        fn: a pure function of a key and of `args` that returns a pytree of small arrays. It is compiled once for each
            shape of its arguments: pass what changes between settings as `args`, not in a new closure.
        key: replicate i gets `jax.random.fold_in(key, i)`.
        n: number of replicates.
        args: pytrees, the same for every replicate. Arrays and numbers are dynamic (new values do not recompile),
            everything else in them is static.
        block: replicates per compiled unit. By default `block_size`, from the shapes and the kind of device. Set it to
            make the first replicates of a long run equal, to the last bit, to those of a short one.
        memory: bound in bytes on the blocks in flight; by default half of the machine's (or the devices') memory.
        threads: blocks in flight; by default one thread per core on CPU, two per device elsewhere.
        devices: local devices to use in turn; by default all.
        progress: a label; shows a progress bar with rate and time left where standard error is a terminal.

    Returns:
        What `fn` returns, with each leaf stacked to a NumPy array of shape (n, ...).

    Raises:
        InputError: one block alone exceeds `memory`, or a number among the arguments is impossible.
    """
    plan = prepare(fn, key, n, *args, block=block, devices=devices)
    return assemble(plan, dict(run(plan, memory=memory, threads=threads, progress=progress)))


class Moments(NamedTuple):
    """Mean and variance over replicates (divisor n - 1), float64, shaped like one replicate's output."""

    n: int
    mean: Any
    variance: Any


def moments(
    fn: Callable[..., Any],
    key: jax.Array,
    n: int,
    *args: Any,
    block: int | None = None,
    memory: float | None = None,
    threads: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: str | None = None,
) -> Moments:
    """Mean and variance of fn(key_i, *args) over n keys, in memory that does not grow with n.

    Blocks merge in block order (Chan, Golub and LeVeque 1983), so that the bits do not depend on which thread or host
    computed a block. The arguments are those of `replicate`; the variance needs n >= 2 and is NaN otherwise.

    Args:
        fn: as for `replicate`.
        key: replicate i gets `jax.random.fold_in(key, i)`.
        n: number of replicates.
        args: pytrees, the same for every replicate.
        block: replicates per compiled unit.
        memory: bound in bytes on the blocks in flight.
        threads: blocks in flight.
        devices: local devices to use in turn.
        progress: a label; shows a progress bar.
    """
    plan = prepare(fn, key, n, *args, block=block, devices=devices)
    total = None
    summaries = {}
    for index, leaves in run(plan, memory=memory, threads=threads, progress=progress):
        kept = [np.asarray(leaf[: plan.count(index)], np.float64) for leaf in leaves]
        means = [leaf.mean(axis=0) for leaf in kept]
        squares = [np.square(leaf - mean).sum(axis=0) for leaf, mean in zip(kept, means, strict=True)]
        if jax.process_count() > 1:
            summaries[index] = [*means, *squares]
        else:
            total = _merge(total, plan.count(index), means, squares)
    if jax.process_count() > 1:
        specs = [(s.shape, np.dtype(np.float64)) for s in plan.outputs]
        for index, leaves in sorted(_gather(summaries, plan.n_blocks, specs * 2).items()):
            total = _merge(total, plan.count(index), leaves[: len(specs)], leaves[len(specs) :])
    assert total is not None
    _, means, squares = total
    variances = [square / (n - 1) if n > 1 else square * np.nan for square in squares]
    return Moments(n, *(jax.tree.unflatten(plan.out_tree, leaves) for leaves in (means, variances)))


def _merge(total: _Sums | None, count: int, means: list[Any], squares: list[Any]) -> _Sums:
    if total is None:
        return count, means, squares
    n = total[0] + count
    merged_means, merged_squares = [], []
    for mean, square, m, s in zip(total[1], total[2], means, squares, strict=True):
        shift = m - mean
        merged_means.append(mean + shift * (count / n))
        merged_squares.append(square + s + np.square(shift) * (total[0] * count / n))
    return n, merged_means, merged_squares


class Plan(NamedTuple):
    """A traced call of `replicate`: what `run` and `assemble` need to know."""

    call: _Call
    key: jax.Array
    dynamic: Any
    n: int
    block: int
    devices: tuple[Any, ...]
    outputs: list[jax.ShapeDtypeStruct]  # of one replicate, on the host
    out_tree: Any

    @property
    def program(self) -> Hashable:
        """The identity of the compiled program: plans that differ only in the values of arrays and numbers share it."""
        return self.call, self.block, self.devices

    @property
    def n_blocks(self) -> int:
        return -(-self.n // self.block)

    def rows(self, index: int) -> slice:
        """The replicates of a block."""
        return slice(index * self.block, index * self.block + self.count(index))

    def count(self, index: int) -> int:
        """Number of replicates in a block that count: the last block is padded."""
        return min(self.block, self.n - index * self.block)


def prepare(
    fn: Callable[..., Any],
    key: jax.Array,
    n: int,
    *args: Any,
    block: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Plan:
    """Check and trace a call of `replicate`.

    Args:
        fn: as for `replicate`.
        key: seeds the replicates.
        n: number of replicates.
        args: pytrees, the same for every replicate.
        block: replicates per compiled unit.
        devices: local devices to use in turn.
    """
    if not 1 <= n < 2**32:
        raise InputError(f"n (the number of replicates) must be between 1 and 2^32 - 1, got {n}")
    if block is not None and block < 1:
        raise InputError(f"block (replicates in a compiled unit) must be at least 1, got {block}")
    dynamic, static = eqx.partition(args, eqx.is_array_like)
    call = _signature(fn, key, dynamic, static)
    try:
        hash(call)
    except TypeError as error:
        raise InputError(
            f"what is static in fn and its arguments must be hashable ({error}): pass arrays as args, not inside fn"
        ) from None
    outputs, out_tree = _trace(call)
    devices = tuple(devices or jax.local_devices())
    if block is None:
        block = block_size(array_bytes(call), n, device_memory(devices[0]))
    return Plan(call, key, dynamic, n, block, devices, outputs, out_tree)


def run(
    plan: Plan,
    *,
    memory: float | None = None,
    threads: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield (block index, leaves of shape (block, ...)) in block order, for this process's blocks.

    Args:
        plan: what `prepare` returned.
        memory: bound in bytes on the blocks in flight; by default half of the machine's memory.
        threads: blocks in flight; by default as many as the hardware can use.
        progress: a label; shows a progress bar.
    """
    labels = None if progress is None else [progress]
    # Closed here, not by the garbage collector: who stops early leaves no thread behind.
    with closing(run_several([plan], memory=memory, threads=threads, progress=labels)) as blocks:
        for _, index, leaves in blocks:
            yield index, leaves


def run_several(
    plans: Sequence[Plan],
    *,
    done: Sequence[Collection[int]] | None = None,
    memory: float | None = None,
    threads: int | None = None,
    progress: Sequence[str] | None = None,
) -> Generator[tuple[int, int, list[np.ndarray]], None, None]:
    """Run plans that share a program (see `Plan.program`) as one queue, so that no core idles between two plans.

    Yields (number of the plan, block index, leaves) in that order, without the blocks in `done`. `progress` holds one
    label per plan.

    Args:
        plans: what `prepare` returned, all of one program.
        done: per plan the indices of blocks to leave out.
        memory: bound in bytes on the blocks in flight; by default half of the machine's memory.
        threads: blocks in flight; by default as many as the hardware can use.
        progress: labels, one per plan; shows a progress bar.
    """
    first = plans[0]
    mine = [
        (which, index)
        for which, plan in enumerate(plans)
        for index in range(jax.process_index(), plan.n_blocks, jax.process_count())
    ]
    todo = [(which, index) for which, index in mine if done is None or index not in done[which]]
    if not todo:
        return
    x64 = _x64()
    devices = first.devices[: len(todo)]
    executables = [_compile(first.call, first.block, device) for device in devices]
    in_flight = workers(first, memory, threads)

    def replicates(blocks: list[tuple[int, int]]) -> int:
        return sum(plans[which].count(index) for which, index in blocks)

    @lru_cache(maxsize=2 * len(devices))
    def placed(which: int, device: Any) -> Any:
        return jax.device_put((plans[which].key, plans[which].dynamic), device)

    def compute(executable: jax.stages.Compiled, index: int, arguments: Any) -> list[np.ndarray]:
        # The 64-bit mode belongs to a thread, and a float64 array must become NumPy inside it.
        with jax.enable_x64(x64):
            out = executable(np.uint32(index * first.block), *arguments)
            leaves = jax.tree.leaves(out)
            return [np.asarray(a, s.dtype) for a, s in zip(leaves, first.outputs, strict=True)]

    # Twice as many are queued, so that no thread waits for a slow block ahead of it; results leave in block order.
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="replicate")
    pending: deque[tuple[int, int, Future[list[np.ndarray]]]] = deque()
    upcoming = zip(todo, cycle(zip(devices, executables, strict=True)), strict=False)
    bar = tqdm(
        total=replicates(mine),
        initial=replicates(mine) - replicates(todo),
        unit=" replicates",
        disable=None if progress is not None and jax.process_index() == 0 else True,
    )
    try:
        while True:
            for (which, index), (device, executable) in islice(upcoming, 2 * in_flight - len(pending)):
                future = pool.submit(compute, executable, index, placed(which, device))
                pending.append((which, index, future))
            if not pending:
                return
            which, index, future = pending.popleft()
            if progress is not None:
                bar.set_description(progress[which], refresh=False)
            values = future.result()
            bar.update(plans[which].count(index))
            yield which, index, values
    finally:
        # After an error or Ctrl-C: drop what waits, let the blocks that run finish (they cannot be stopped).
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()


def assemble(plan: Plan, blocks: dict[int, list[np.ndarray]]) -> Any:
    """Join the blocks of every process, in block order, into the pytree that `replicate` returns."""
    blocks = _gather(blocks, plan.n_blocks, [((plan.block, *s.shape), s.dtype) for s in plan.outputs])
    joined = []
    for i, spec in enumerate(plan.outputs):
        out = np.empty((plan.n, *spec.shape), spec.dtype)
        for index in range(plan.n_blocks):
            out[plan.rows(index)] = blocks[index][i][: plan.count(index)]
        joined.append(out)
    return jax.tree.unflatten(plan.out_tree, joined)


def _gather(
    blocks: dict[int, list[np.ndarray]], n_blocks: int, specs: list[tuple[tuple[int, ...], np.dtype]]
) -> dict[int, list[np.ndarray]]:
    """The blocks of every process. They travel as bytes, so that no 64-bit number is cut to 32."""
    count = jax.process_count()
    if count == 1:
        return blocks
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in specs]
    mine = np.zeros((-(-n_blocks // count), sum(sizes)), np.uint8)
    for index in range(jax.process_index(), n_blocks, count):
        packed = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in blocks[index])
        mine[index // count] = np.frombuffer(packed, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    gathered = {}
    for index in range(n_blocks):
        parts = np.split(everyone[index % count, index // count], np.cumsum(sizes)[:-1])
        gathered[index] = [
            np.frombuffer(part.tobytes(), dtype).reshape(shape)
            for part, (shape, dtype) in zip(parts, specs, strict=True)
        ]
    return gathered


class _Call(NamedTuple):
    """Everything that a trace depends on: the key under which compiled programs are kept."""

    fn: Callable[..., Any]
    avals: tuple[Any, ...]  # of the key and of the dynamic arguments
    tree: Any
    static: tuple[Any, ...]
    static_tree: Any
    mode: tuple[Any, ...]  # thread-local settings of JAX

    def shapes(self, sharding: Any = None) -> Any:
        structs = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding, weak_type=a.weak_type)
            for a in self.avals
        ]
        return jax.tree.unflatten(self.tree, structs)

    def one(self, key: jax.Array, dynamic: Any) -> Any:
        """One replicate."""
        return self.fn(key, *eqx.combine(dynamic, jax.tree.unflatten(self.static_tree, self.static)))


def _signature(fn: Callable[..., Any], key: jax.Array, dynamic: Any, static: Any) -> _Call:
    leaves, tree = jax.tree.flatten((key, dynamic))
    static_leaves, static_tree = jax.tree.flatten(static)
    mode = (_x64(), jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
    return _Call(fn, tuple(map(jax.typeof, leaves)), tree, tuple(static_leaves), static_tree, mode)


@lru_cache(maxsize=128)
def _trace(call: _Call) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    """Outputs of one replicate, on the host, and their tree."""
    leaves, out_tree = jax.tree.flatten(_one(call).trace(*call.shapes()).out_info)
    return [jax.ShapeDtypeStruct(leaf.shape, _host_dtype(leaf.dtype)) for leaf in leaves], out_tree


@lru_cache(maxsize=128)
def array_bytes(call: _Call) -> list[int]:
    """Bytes of every array on the way of one replicate, those of inner loops and calls once."""
    return _array_bytes(_one(call).trace(*call.shapes()).jaxpr.jaxpr)


@lru_cache(maxsize=128)
def _one(call: _Call) -> Any:
    """One replicate; its function is traced once for `_trace` and for every block size and device."""
    return jax.jit(call.one, inline=True)


def program(call: _Call, block: int, sharding: Any = None) -> tuple[Any, tuple[Any, ...]]:
    """The compiled unit, jitted, and its shapes: those of the first replicate's number, the key and the arguments.

    Args:
        call: the function and its arguments.
        block: replicates per compiled unit.
        sharding: of the shapes; None leaves it open.
    """
    one = _one(call)

    def run_block(start, key, dynamic):
        indices = start + jnp.arange(block, dtype=jnp.uint32)
        return vmapped(lambda i: one(jax.random.fold_in(key, i), dynamic), indices)

    start = jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding)
    return jax.jit(run_block), (start, *call.shapes(sharding))


@lru_cache(maxsize=128)
def _compile(call: _Call, block: int, device: Any) -> jax.stages.Compiled:
    run_block, shapes = program(call, block, SingleDeviceSharding(device))
    # LLVM's first level takes a third of the default's time to compile a training program, and runs as fast.
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "1"} if on_cpu(device) else {}
    return run_block.lower(*shapes).compile(compiler_options=options)


def subkeys(key: jax.Array, n: int = 2) -> list[jax.Array]:
    """The keys of `jax.random.split(key, n)`; outside of a compiled function, one program serves every n."""
    return [jax.random.fold_in(key, np.uint32(i)) for i in range(n)]


def vmapped(fn: Callable[..., Any], *stacked: Any) -> Any:
    """`jax.vmap(fn)(*stacked)`, without a batch axis of 1: it slows the products of a training step by half."""
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.vmap(fn)(*stacked)
    return jax.tree.map(lambda a: a[None], fn(*jax.tree.map(lambda a: a[0], stacked)))


def block_bytes(plan: Plan) -> int:
    """Bytes of device memory that one block in flight takes, as the compiler reports it (0 where it does not)."""
    stats = _compile(plan.call, plan.block, plan.devices[0]).memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes if stats else 0


def workers(plan: Plan, memory: float | None = None, threads: int | None = None) -> int:
    """Number of blocks in flight: as many as the hardware can use and the memory bound allows.

    Args:
        plan: what `prepare` returned.
        memory: bound in bytes on the blocks in flight; by default half of the machine's memory.
        threads: blocks in flight; by default as many as the hardware can use.
    """
    if threads is None:
        threads = usable_cores() if on_cpu(plan.devices[0]) else 2 * len(plan.devices)
    if threads < 1:
        raise InputError(f"threads (blocks in flight) must be at least 1, got {threads}")
    if memory is None:
        memory = _available_memory(plan.devices)
    need = block_bytes(plan)
    if need > memory:
        raise InputError(
            f"one block of {plan.block} replicates needs {need / 2**20:.3g} MiB, above the memory bound of "
            f"{memory / 2**20:.3g} MiB: lower block, or raise memory"
        )
    return max(1, min(threads, int(memory // max(need, 1))))


def _available_memory(devices: Sequence[Any]) -> float:
    """Half of the machine's memory, or of the devices'."""
    memory = device_memory(devices[0])
    if memory is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return len(devices) * memory / 2


def block_size(sizes: Sequence[int], n: int, memory: int | None) -> int:
    """Replicates per compiled unit, by the kind of device.

    On a CPU a power of two, such that a block's largest array fits a core's cache and there are at least 8 blocks, so
    that all cores have work. On an accelerator all n replicates, or as large a power of two as fills its share of the
    memory with the arrays of a block: a quarter, since two blocks are in flight in half of the memory.

    Args:
        sizes: bytes of each array in one replicate.
        n: number of replicates.
        memory: bytes of an accelerator's memory (`device_memory`); None for a CPU. Rounded down to a power of two, so
            that what a driver keeps for itself does not change the block.
    """
    if memory is None:
        fits = _CACHE_BYTES // max([1, *sizes])
        return _power_of_two(min(fits, n // 8, 4096))
    fits = _power_of_two(memory) // 4 // max(sum(sizes), 1)
    return n if n <= fits else _power_of_two(fits)


def _power_of_two(number: int) -> int:
    """The largest power of two up to a number, at least 1."""
    return 2 ** (max(1, number).bit_length() - 1)


def _x64() -> bool:
    """Whether this thread is in 64-bit mode."""
    return jnp.result_type(float) == jnp.float64


def _host_dtype(dtype: Any) -> np.dtype:
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype)


def _array_bytes(jaxpr: Any) -> list[int]:
    sizes = []
    for equation in jaxpr.eqns:
        sizes += [v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "size")]
        for inner in jax.tree.leaves(list(map(_jaxprs, equation.params.values()))):
            sizes += _array_bytes(inner)
    return sizes


def _jaxprs(value: Any) -> list[Any]:
    """The jaxprs in one parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [inner for item in value for inner in _jaxprs(item)]
    inner = getattr(value, "jaxpr", value)
    return [inner] if hasattr(inner, "eqns") else []

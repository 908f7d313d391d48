"""Sweeps over settings, and results on disk: provenance, atomic append, resume.

A finished experiment is two files in `<out>/<preset>/<name>/`: `result.json` (config, seed, and every number that a
figure or the report needs; the same bytes for the same seed) and `run.json` (how and where it was made). An unfinished
one is `partial/blocks-<process>.bin` in that folder: checksummed records, one append per block, so that a killed run
loses the blocks in flight and no more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
from jax.experimental import multihost_utils

from experiments.harness.calibration import gigaflops
from experiments.harness.compilation_cache import instruction_set
from mrtsim import montecarlo
from mrtsim.devices import on_cpu, usable_cores
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate


class InMemory:
    """A sweep that stores nothing: for tests and notebooks."""

    def __init__(self, *, progress: bool = False, memory: float | None = None, threads: int | None = None):
        self.progress = progress
        self.memory = memory
        self.threads = threads
        self._labels: set[str] = set()

    def replicates(
        self, label: str, fn: Callable[..., Any], key: jax.Array, n: int, *args: Any, block: int | None = None
    ) -> Any:
        """`montecarlo.replicate` under a label that is unique in the sweep, such as "rkon/k=4".

        `block` is what suits a CPU: an accelerator takes `montecarlo.block_size`.
        """
        return self.grid(fn, key, n, {label: args}, block=block)[label]

    def grid(
        self,
        fn: Callable[..., Any],
        key: jax.Array,
        n: int,
        settings: Mapping[str, tuple[Any, ...]],
        *,
        block: int | None = None,
    ) -> dict[str, Any]:
        """`replicates` of many settings, label to arguments, with the same keys.

        Neighbours that share a program are one queue of blocks: no core waits for the last block of a setting.
        """
        if not on_cpu():
            block = None
        for label in settings:
            if label in self._labels:
                raise InputError(
                    f"the sweep already has replicates labelled {label!r}: labels must be unique"
                )
            self._labels.add(label)
        plans = {
            label: montecarlo.prepare(fn, key, n, *args, block=block) for label, args in settings.items()
        }
        results = {}
        for _, group in groupby(plans.items(), lambda item: item[1].program):
            labels, members = zip(*group, strict=True)
            blocks = [self._stored(label, plans[label]) for label in labels]
            for which, index, leaves in montecarlo.run_several(
                members,
                done=[found.keys() for found in blocks],
                memory=self.memory,
                threads=self.threads,
                progress=labels if self.progress else None,
            ):
                self._append(labels[which], members[which], index, leaves)
                blocks[which][index] = leaves
            for label, plan, found in zip(labels, members, blocks, strict=True):
                results[label] = montecarlo.assemble(plan, found)
        return results

    def _stored(self, label: str, plan: montecarlo.Plan) -> dict[int, list[np.ndarray]]:
        return {}

    def _append(self, label: str, plan: montecarlo.Plan, index: int, leaves: list[np.ndarray]) -> None:
        pass


class OnDisk(InMemory):
    """A sweep that appends every block to a file of its own process, and resumes from these files.

    `identity` says what is computed (experiment, config, seed): resuming under another one is refused.
    `environment` says what the low bits depend on: a change is kept in `changes`, to be reported.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        environment: dict[str, Any],
        *,
        resume: bool,
        **options: Any,
    ):
        super().__init__(**options)
        self.folder = folder
        self.changes: list[str] = []
        self.resumed_blocks = 0
        self._found: dict[str, dict[int, tuple[dict[str, Any], bytes]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        mine = self._file(jax.process_index())
        start = {"identity": identity, "environment": environment}
        if resume:
            for path in sorted(folder.glob("blocks-*.bin")):
                self._load(path, start)
            _cut_torn_tail(mine)
        else:
            mine.unlink(missing_ok=True)
            (folder / "finished").unlink(missing_ok=True)
            if jax.process_index() == 0:  # files of processes that no longer take part
                for path in folder.glob("blocks-*.bin"):
                    if int(path.stem.removeprefix("blocks-")) >= jax.process_count():
                        path.unlink(missing_ok=True)
        if not mine.exists() or not mine.stat().st_size or self.changes:
            _append_record(mine, start, b"")

    def _file(self, process: int) -> Path:
        return self.folder / f"blocks-{process}.bin"

    def _load(self, path: Path, start: dict[str, Any]) -> None:
        known = False
        for meta, payload in _records(path):
            if "identity" in meta:
                _refuse_other(self.folder, meta["identity"], start["identity"])
                known = True
                change = _difference(meta["environment"], start["environment"])
                if change and change not in self.changes:
                    self.changes.append(change)
            elif known:
                self._found.setdefault(meta["label"], {})[meta["index"]] = (meta, payload)

    def _stored(self, label: str, plan: montecarlo.Plan) -> dict[int, list[np.ndarray]]:
        blocks = {}
        for index, (meta, payload) in self._found.pop(label, {}).items():
            difference = _difference(
                {k: v for k, v in meta.items() if k not in ("label", "index")}, _call(plan)
            )
            if difference:
                raise InputError(
                    f"{self.folder} holds replicates {label!r} of another call ({difference}): the code has "
                    "changed since; start again without --resume"
                )
            blocks[index] = _unpack(plan, payload)
        self.resumed_blocks += len(blocks)
        return blocks

    def _append(self, label: str, plan: montecarlo.Plan, index: int, leaves: list[np.ndarray]) -> None:
        payload = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)
        _append_record(
            self._file(jax.process_index()), {"label": label, "index": index, **_call(plan)}, payload
        )

    def discard(self) -> None:
        """Remove this process's file: the result is safe."""
        self._file(jax.process_index()).unlink(missing_ok=True)


def _call(plan: montecarlo.Plan) -> dict[str, Any]:
    """What must be the same for stored blocks to be used again."""
    return {
        "key": np.asarray(jax.random.key_data(plan.key)).tolist(),
        "n": plan.n,
        "block": plan.block,
        "outputs": [[str(s.dtype), list(s.shape)] for s in plan.outputs],
    }


def _unpack(plan: montecarlo.Plan, payload: bytes) -> list[np.ndarray]:
    leaves, offset = [], 0
    for spec in plan.outputs:
        shape = (plan.block, *spec.shape)
        leaves.append(np.frombuffer(payload, spec.dtype, math.prod(shape), offset).reshape(shape))
        offset += leaves[-1].nbytes
    return leaves


# A record: length of the header, length of the payload, CRC-32 of both; then the header (JSON) and the payload.
_PREFIX = struct.Struct("<IQI")


def _append_record(path: Path, header: dict[str, Any], payload: bytes) -> None:
    head = json.dumps(header).encode()
    with path.open("ab", buffering=0) as stream:
        stream.write(
            _PREFIX.pack(len(head), len(payload), zlib.crc32(payload, zlib.crc32(head))) + head + payload
        )


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The whole records at the start of a file; what follows the first torn or damaged one does not count."""
    content = path.read_bytes()
    for begin, middle, end in _spans(content):
        yield json.loads(content[begin:middle]), content[middle:end]


def _spans(content: bytes) -> Iterator[tuple[int, int, int]]:
    position = 0
    while position + _PREFIX.size <= len(content):
        head, payload, checksum = _PREFIX.unpack_from(content, position)
        begin = position + _PREFIX.size
        position = begin + head + payload
        if position > len(content) or zlib.crc32(content[begin:position]) != checksum:
            return
        yield begin, begin + head, position


def _cut_torn_tail(path: Path) -> None:
    if path.exists():
        ends = [end for _, _, end in _spans(path.read_bytes())]
        os.truncate(path, ends[-1] if ends else 0)


def _refuse_other(folder: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    difference = _difference({k: before.get(k) for k in identity}, identity)
    if difference:
        raise InputError(
            f"{folder} belongs to an unfinished run with other settings ({difference}): resume it with its own, "
            "or start again without --resume, which discards it"
        )


def _difference(before: Any, now: Any, name: str = "") -> str:
    """What differs between two JSON values, for a message; empty where nothing does."""
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [
            _difference(before.get(k), now.get(k), f"{name}.{k}" if name else str(k))
            for k in dict.fromkeys([*before, *now])
        ]
        return ", ".join(part for part in parts if part)
    return "" if before == now else f"{name}: {before} there, {now} now"


def complete(
    name: str,
    run: Callable[..., dict[str, Any]],
    config: Any,
    seed: int,
    folder: Path,
    *,
    preset: str,
    resume: bool,
    warn: Callable[[str], None],
    **engine: Any,
) -> str:
    """Run one experiment into `folder` and return what was done, in words.

    `resume` goes on with an unfinished run; a command of several experiments calls `close` on all of them at its end,
    until when a finished one is skipped. Without one, everything is computed again. `engine`: `memory` and `threads`
    of `montecarlo.replicate`, and whether to show `progress`.

    **Raises:** `InputError` where `resume` finds an unfinished run of another config or seed.
    """
    identity = to_json({"experiment": name, "config": dataclasses.asdict(config), "seed": seed})
    finished = folder / "partial" / "finished"
    if resume and _agreed(finished.exists()):
        before = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        _refuse_other(folder / "partial", before, identity)
        return "finished before"
    here = environment()
    sweep = OnDisk(folder / "partial", identity, here, resume=resume, **engine)
    for change in sweep.changes:
        warn(f"{name} goes on from blocks made elsewhere, low bits may differ: {change}")
    begin, compiling = time.perf_counter(), CompileClock()
    with compiling:
        result = run(config, jax.random.key(seed), sweep)
    wall = time.perf_counter() - begin
    if jax.process_index() == 0:
        provenance = {
            **here,
            "python": platform.python_version(),
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "calibration_gigaflops": _calibration(),
            "resumed_blocks": sweep.resumed_blocks,
            "resumed_from": sweep.changes,
            "wall_seconds": wall,
            "compile_seconds": compiling.seconds,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / "run.json", provenance)
        write_json(folder / "result.json", {"preset": preset, **identity, "result": result})
        finished.touch()
    sweep.discard()
    return f"resumed with {sweep.resumed_blocks} blocks" if sweep.resumed_blocks else "done"


def close(folder: Path) -> None:
    """Forget that the experiment in `folder` was finished by an unfinished command: the command is finished too."""
    (folder / "partial" / "finished").unlink(missing_ok=True)
    with suppress(OSError):  # gone already, or another process still removes its file
        (folder / "partial").rmdir()


def _agreed(value: bool) -> bool:
    """The first process's answer, for all of them."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


@cache
def _calibration() -> float:
    return round(gigaflops(), 1)


def environment() -> dict[str, Any]:
    """What the low bits of a result depend on, beside its config and seed."""
    return {
        "versions": {
            p: version(p) for p in ("mrtsim", "jax", "jaxlib", "numpy", "scipy", "equinox", "optax")
        },
        "commit": _commit(),
        "code": _code(),
        "device": jax.devices()[0].device_kind,
        "instruction_set": instruction_set(),
        "cores": usable_cores(),
    }


def _code() -> str:
    """A digest of the package and the experiments as they are on disk, committed or not."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted([*(root / "mrtsim").rglob("*.py"), *(root / "experiments").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    """The checkout's commit, with a plus sign where tracked files differ from it; None outside a checkout."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


class CompileClock:
    """Counts the seconds that JAX spends on tracing and compiling while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON in one step: a reader sees the old file or the new one, never a part."""
    text = json.dumps(to_json(value), indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def to_json(value: Any) -> Any:
    """A result as JSON holds it: arrays and tuples as lists, infinite and undefined numbers as null."""
    if isinstance(value, Estimate):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"a result holds numbers, text, lists and dictionaries, not {type(value).__name__}")

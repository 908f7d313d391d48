"""Run the experiments, and write the report: python -m experiments list | run NAME... | report."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import gc
import importlib
import json
import math
import os
import pkgutil
import shlex
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import experiments
from mrtsim.errors import InputError

PRESETS = ("quick", "paper", "precise")


# What every experiment defines; `experiments/__init__.py` says what each is.
CONTRACT = ("CLAIMS", "Config", "PRESETS", "run", "predictions")


def find() -> dict[str, ModuleType]:
    """Every experiment by name: the modules of this package, each checked against the contract."""
    return {name: _module(name) for name in _module_names()}


def _module_names() -> list[str]:
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(i.name for i in found if not i.ispkg and not i.name.startswith("_"))


def _module(name: str) -> ModuleType:
    module = importlib.import_module(f"experiments.{name}")
    missing = [attribute for attribute in CONTRACT if not hasattr(module, attribute)]
    if missing:
        raise InputError(
            f"experiments/{name}.py lacks {', '.join(missing)}: an experiment defines {', '.join(CONTRACT)} "
            "(see CONTRIBUTING.md)"
        )
    return module


def _missing(module: ModuleType) -> str | None:
    """What an experiment needs and does not find here, by its optional `unavailable()`."""
    return module.unavailable() if hasattr(module, "unavailable") else None


def _named(names: list[str]) -> dict[str, ModuleType]:
    if names == ["all"]:
        everything = find()
        for name, module in everything.items():
            if missing := _missing(module):
                _warn(f"left out: {name}, {missing}; its stored result stays as it is")
        return {name: module for name, module in everything.items() if not _missing(module)}
    known, chosen = _module_names(), {}
    for name in names:
        key = name.replace("-", "_")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise InputError(f"no experiment is called {name!r}; {hint}")
        chosen[key] = _module(key)
        if missing := _missing(chosen[key]):
            raise InputError(f"{name} cannot run here: {missing}")
    return chosen


def _list() -> None:
    rows: list[tuple[str, ...]] = [("experiment", "claims", *PRESETS, "minutes", "")]
    for name, module in find().items():
        counts = [str(getattr(module.PRESETS[preset], "replicates", "-")) for preset in PRESETS]
        about = (module.__doc__ or "").strip().split("\n")[0]
        claims = ",".join(map(str, module.CLAIMS)) or "-"
        rows.append((name, claims, *counts, _minutes(name), about))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        print("  ".join([*cells, row[6]]).rstrip())
    print(
        "\nUnder a preset's name: its replicates. Minutes: what the committed run of the precise preset took."
    )


def _minutes(name: str) -> str:
    path = Path(__file__).parents[1] / "results" / "precise" / name / "run.json"
    return f"{json.loads(path.read_text())['wall_seconds'] / 60:.1f}" if path.exists() else "-"


def _run(args: argparse.Namespace) -> None:
    # Before NumPy is loaded: blocks and cells fill the cores, where threads of OpenBLAS would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    chosen = _named(args.names)
    configs = {}
    for name, module in chosen.items():
        config = module.PRESETS[args.preset]
        if args.replicates is not None:
            if not hasattr(config, "replicates"):
                if args.names != ["all"]:
                    raise InputError(f"--replicates: experiment {name} has no replicates to set")
            else:
                config = dataclasses.replace(config, replicates=args.replicates)
        configs[name] = config

    import jax

    from experiments.harness import report, store
    from experiments.harness.accelerator import ask_for_all_digits, ask_for_same_bits
    from experiments.harness.compilation_cache import enable_compilation_cache

    ask_for_same_bits()
    # Tracing makes many objects that live long: looking through them again and again takes a twentieth of a run.
    gc.freeze()
    gc.set_threshold(50_000)
    if not args.no_cache:
        enable_compilation_cache()
    if args.distributed:
        _join_hosts(args)
    ask_for_all_digits()
    for name, module in chosen.items():
        begin = time.perf_counter()
        folder = args.out / args.preset / name
        status = store.complete(
            name,
            module.run,
            configs[name],
            args.seed,
            folder,
            preset=args.preset,
            resume=args.resume,
            warn=_warn,
            progress=True,
            memory=None if args.memory is None else args.memory * 2**30,
            threads=args.threads,
        )
        if jax.process_index() == 0:
            print(f"{name}: {status}, {time.perf_counter() - begin:.1f} s, {folder}", file=sys.stderr)
    for name in chosen:
        store.close(args.out / args.preset / name)
    if jax.process_index() == 0:
        report.load(
            args.out / args.preset, list(chosen)
        )  # statements that cannot stand are an error here, too
        out = "" if args.out == Path("results") else f" --out {shlex.quote(str(args.out))}"
        print(f"next: python -m experiments report --preset {args.preset}{out}", file=sys.stderr)


def _warn(message: str) -> None:
    print(f"experiments run: {message}", file=sys.stderr)


def _join_hosts(args: argparse.Namespace) -> None:
    """Meet the other processes; where that takes longer than `--wait`, end with one message."""
    import jax

    others = "the other processes"
    if args.coordinator is not None:
        if not 0 <= args.process_id < args.num_processes:
            raise InputError(
                f"--process-id {args.process_id}: with --num-processes {args.num_processes} it must be from 0 to "
                f"{args.num_processes - 1}"
            )
        if args.process_id > 0:
            others = f"process 0 at the coordinator {args.coordinator}"
        else:
            others = f"processes 1 to {args.num_processes - 1} to join at {args.coordinator}"
    if args.num_processes != 1:
        _warn(f"waiting for {others}, at most {args.wait:g} s (--wait)")

    def give_up() -> None:
        # JAX itself would wait for minutes and then abort with a stack trace; nothing else can interrupt it.
        _warn(
            f"gave up after {args.wait:g} s waiting for {others}: start every process with the same --coordinator, "
            "reachable from all hosts, or wait longer with --wait SECONDS"
        )
        os._exit(2)

    watch = threading.Timer(args.wait, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.num_processes,
            args.process_id,
            initialization_timeout=math.ceil(args.wait) + 60,
        )
    except ValueError as error:
        raise InputError(
            "--distributed: no cluster environment (such as Slurm) was found; give --coordinator HOST:PORT, "
            f"--num-processes and --process-id ({error})"
        ) from None
    finally:
        watch.cancel()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _positive_number(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of {unit}, got {text!r}")
    return value


def _gibibytes(text: str) -> float:
    return _positive_number(text, "GiB")


def _seconds(text: str) -> float:
    return _positive_number(text, "seconds")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^32 - 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name, claims, replicates in each preset, and purpose")

    run = commands.add_parser("run", help="run experiments and store their results")
    run.add_argument("names", nargs="+", metavar="NAME", help="experiments (see list), or all")
    run.add_argument("--preset", choices=PRESETS, default="paper", help="size of the run (default: paper)")
    run.add_argument("--replicates", type=_positive, metavar="R", help="instead of the preset's")
    run.add_argument("--seed", type=_seed, default=0, metavar="S", help="default: 0")
    run.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    run.add_argument(
        "--resume", action="store_true", help="go on with an unfinished run, skip a finished one"
    )
    run.add_argument("--memory", type=_gibibytes, metavar="GIB", help="bound on the blocks in flight")
    run.add_argument(
        "--threads", type=_positive, metavar="T", help="blocks in flight (default: one per core)"
    )
    run.add_argument("--no-cache", action="store_true", help="compile afresh (also: MRTSIM_CACHE=off)")
    run.add_argument("--distributed", action="store_true", help="share the work with other processes")
    run.add_argument(
        "--coordinator", metavar="HOST:PORT", help="found by itself under Slurm, like the next two"
    )
    run.add_argument("--num-processes", type=_positive, metavar="N")
    run.add_argument("--process-id", type=int, metavar="I")
    run.add_argument(
        "--wait",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="for the other processes (default: 120 seconds)",
    )

    report = commands.add_parser("report", help="write the page and the figures from the stored results")
    report.add_argument(
        "--preset", choices=PRESETS, default="precise", help="default: precise, the root page"
    )
    report.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="where results are")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "run":
        cluster = (args.coordinator, args.num_processes, args.process_id)
        if any(value is not None for value in cluster) and not args.distributed:
            parser.error("--coordinator, --num-processes and --process-id need --distributed")
        if any(value is None for value in cluster) and any(value is not None for value in cluster):
            parser.error("give --coordinator, --num-processes and --process-id together, or none of them")
    try:
        if args.command == "list":
            _list()
        elif args.command == "run":
            _run(args)
        else:
            from experiments.harness import report

            written = report.write(args.preset, args.out)
            print(f"wrote {written.page}, {written.claims[0].parent}/ and {written.gallery}")
            if written.comparison:
                print(f"beside the committed page: {written.comparison}")
        sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's last flush
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except InputError as error:
        print(f"experiments {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        how = "--resume goes on from here" if args.command == "run" else "nothing but time is lost"
        print(f"experiments {args.command}: interrupted; {how}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

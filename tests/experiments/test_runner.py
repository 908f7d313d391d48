"""python -m experiments as a user meets it: output, errors, and the same result.json whatever happens on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

import experiments
from experiments.__main__ import PRESETS, find, main
from experiments.harness import store
from mrtsim import montecarlo

ROOT = Path(__file__).parents[2]
EXTRA = Path(__file__).parent / "extra"


# The runner, knowing the toy experiment; DIE="append 3" kills it while it writes its third record, DIE="write_json 2"
# before it writes its second file, DIE="interrupt 3" presses Ctrl-C at its third record.
DRIVER = f"""
import os, signal, sys
import experiments
experiments.__path__[:] = [{str(ROOT / "experiments")!r}, {str(EXTRA)!r}]
from experiments.harness import store
from experiments.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
where, _, moment = os.environ.get("DIE", "").partition(" ")
calls = 0
append, write_json = store._append_record, store.write_json

def count():
    global calls
    calls += 1
    return calls == int(moment)

def dying_append(path, *record):
    append(path, *record)
    if count():
        if where == "append":
            os.truncate(path, path.stat().st_size - 7)
        os.kill(os.getpid(), signal.SIGKILL if where == "append" else signal.SIGINT)

def dying_write_json(*arguments):
    if count():
        os.kill(os.getpid(), signal.SIGKILL)
    write_json(*arguments)

if where in ("append", "interrupt"):
    store._append_record = dying_append
if where == "write_json":
    store.write_json = dying_write_json
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """python -m experiments in a process of its own, which knows nothing of the cache of the tests."""
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed on standard error, once it has ended with this exit code."""
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return err


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def first_run(cache, tmp_path_factory) -> tuple[bytes, list[Path]]:
    """The result of the first run, which every other one follows, and what it left in the cache."""
    out = tmp_path_factory.mktemp("first")
    finish(command("run", "toy", "--out", str(out), MRTSIM_CACHE=cache))
    return result(out), list(Path(cache).glob("*/*-cache"))


@pytest.fixture(scope="module")
def reference(first_run) -> bytes:
    return first_run[0]


@pytest.fixture(scope="module")
def toy(cache, first_run):
    """Run the toy experiment."""

    def run(out: Path, *options: str, **env: str) -> subprocess.Popen[str]:
        return command("run", "toy", "--out", str(out), *options, **{"MRTSIM_CACHE": cache, **env})

    return run


@pytest.fixture
def toy_here(monkeypatch, capsys):
    """Run the toy experiment in this process; what it printed on standard error."""
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(EXTRA)])

    def run(out: Path, *options: str, code: int = 0) -> str:
        assert main(["run", "toy", "--out", str(out), "--no-cache", *options]) == code
        return capsys.readouterr().err

    yield run
    sys.modules.pop("experiments.toy", None)


def result(out: Path, preset: str = "paper") -> bytes:
    return (out / preset / "toy" / "result.json").read_bytes()


class TestSameBytes:
    def test_the_result_is_strict_json_and_says_what_was_run(self, reference):
        stored = json.loads(reference, parse_constant=lambda constant: pytest.fail(constant))
        assert stored["experiment"] == "toy"
        assert stored["seed"] == 0
        assert stored["config"] == {"replicates": 400, "scales": [1.0, 3.0], "steps": 2000}
        # The mean of 64 normal draws has variance 1/64; 400 replicates know it to 7 % (one standard error).
        assert stored["result"]["scale=1"]["variance"] == pytest.approx(1 / 64, rel=0.28)
        assert stored["result"]["scale=3"]["variance"] == pytest.approx(
            9 * stored["result"]["scale=1"]["variance"], rel=1e-5
        )

    def test_provenance_stands_beside_it(self, toy_here, tmp_path):
        toy_here(tmp_path, "--preset", "quick")
        run = json.loads((tmp_path / "quick" / "toy" / "run.json").read_text())
        assert run["versions"]["jax"]
        assert run["calibration_gigaflops"] > 0
        assert run["compile_seconds"] > 0
        assert run["wall_seconds"] > 0
        assert not (tmp_path / "quick" / "toy" / "partial").exists()

    @pytest.mark.parametrize("blocks", [1.5, 2.5, 100.0])
    def test_memory_bounds(self, reference, tmp_path, blocks):
        spec = importlib.util.spec_from_file_location("toy", EXTRA / "toy.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["toy"] = module
        spec.loader.exec_module(module)
        config = module.Config()
        plan = montecarlo.prepare(
            module._replicate, jax.random.key(0), config.replicates, 1.0, config.steps, block=4
        )
        store.complete(
            "toy",
            module.run,
            config,
            0,
            tmp_path / "paper" / "toy",
            preset="paper",
            resume=False,
            warn=pytest.fail,
            memory=blocks * montecarlo.block_bytes(plan),
            threads=4,
        )
        assert result(tmp_path) == reference

    def test_too_little_memory_says_so(self, toy_here, tmp_path):
        message = toy_here(tmp_path, "--preset", "quick", "--memory", "1e-9", code=2)
        assert "one block of 4 replicates needs" in message

    def test_eight_devices(self, toy, reference, tmp_path):
        finish(toy(tmp_path, JAX_NUM_CPU_DEVICES="8"))
        assert result(tmp_path) == reference

    def test_two_processes(self, toy, reference, tmp_path):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        cluster = (
            "--distributed",
            "--coordinator",
            f"localhost:{port}",
            "--num-processes",
            "2",
            "--process-id",
        )
        processes = [toy(tmp_path, *cluster, str(i)) for i in range(2)]
        for process in processes:
            finish(process)
        assert result(tmp_path) == reference
        assert not (tmp_path / "paper" / "toy" / "partial").exists()

    @pytest.mark.stress
    def test_two_processes_under_slurm(self, toy, reference, tmp_path):
        # JAX takes the port from the job's number.
        with socket.socket() as s:
            port = next(p for p in range(61440, 65536) if s.connect_ex(("localhost", p)) != 0)
        job = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        processes = [
            toy(tmp_path, "--distributed", SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **job) for i in range(2)
        ]
        for process in processes:
            finish(process)
        assert result(tmp_path) == reference

    def test_another_seed_gives_another_result(self, toy_here, reference, tmp_path):
        toy_here(tmp_path, "--seed", "1")
        assert json.loads(result(tmp_path))["result"] != json.loads(reference)["result"]

    def test_killed_and_resumed(self, toy, reference, tmp_path):
        for moment in ("append 3", "append 60", "write_json 2"):
            finish(toy(tmp_path, "--resume", DIE=moment), code=-signal.SIGKILL)
            assert not (tmp_path / "paper" / "toy" / "result.json").exists()
        assert "resumed with 200 blocks" in finish(toy(tmp_path, "--resume"))
        assert result(tmp_path) == reference

    @pytest.mark.stress
    def test_killed_at_twenty_random_moments(self, toy, reference, tmp_path):
        chance = random.Random(20)
        for trial in range(10):
            out = tmp_path / str(trial)
            for _ in range(2):
                process = toy(out, "--resume")
                while not (out / "paper" / "toy" / "partial").exists() and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.4))
                process.kill()
                process.communicate()
            finish(toy(out, "--resume"))
            assert result(out) == reference

    def test_interrupted_by_the_user(self, toy, tmp_path):
        assert "--resume goes on" in finish(toy(tmp_path, DIE="interrupt 5"), code=130)
        assert (tmp_path / "paper" / "toy" / "partial").exists()


class TestResume:
    def test_other_settings_are_refused_with_the_unfinished_run_kept(self, toy, tmp_path):
        finish(toy(tmp_path, DIE="append 5"), code=-signal.SIGKILL)
        before = (tmp_path / "paper" / "toy" / "partial" / "blocks-0.bin").read_bytes()
        message = finish(toy(tmp_path, "--resume", "--replicates", "7"), code=2)
        assert "config.replicates: 400 there, 7 now" in message
        assert "without --resume" in message
        assert len(message.splitlines()) == 1
        assert (tmp_path / "paper" / "toy" / "partial" / "blocks-0.bin").read_bytes() == before

    def test_a_finished_experiment_is_skipped_while_the_command_is_unfinished(self, toy, tmp_path):
        finish(toy(tmp_path))
        finished = tmp_path / "paper" / "toy" / "partial" / "finished"
        finished.parent.mkdir()
        finished.touch()
        before = (tmp_path / "paper" / "toy" / "run.json").read_bytes()
        assert "finished before" in finish(toy(tmp_path, "--resume"))
        assert (tmp_path / "paper" / "toy" / "run.json").read_bytes() == before
        # That command ended, so the next one starts anew.
        assert "toy: done" in finish(toy(tmp_path, "--resume"))


class TestCache:
    def test_on_by_default_and_the_answer_is_the_same_without(self, toy, reference, cache, tmp_path):
        assert list(Path(cache).glob("*/*-cache"))
        empty = tmp_path / "user"
        finish(toy(tmp_path, MRTSIM_CACHE="off", XDG_CACHE_HOME=str(empty)))
        assert result(tmp_path) == reference
        finish(toy(tmp_path, "--no-cache", MRTSIM_CACHE="", XDG_CACHE_HOME=str(empty)))
        assert not empty.exists()

    def test_torn_entries_are_made_again(self, toy, first_run, tmp_path):
        before, entries = first_run
        assert entries
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[:100])
        assert "Warning" not in finish(toy(tmp_path))
        assert result(tmp_path) == before
        assert all(entry.stat().st_size > 100 for entry in entries)

    @pytest.mark.stress
    def test_entries_with_nonsense_in_them_cost_a_warning(self, toy, reference, tmp_path):
        out, cache = tmp_path / "out", tmp_path / "cache"
        finish(toy(out, MRTSIM_CACHE=str(cache)))
        for entry in cache.glob("*/*-cache"):
            entry.write_bytes(b"nonsense" * 99)
        assert "persistent compilation cache" in finish(toy(out, MRTSIM_CACHE=str(cache)))
        assert result(out) == reference


class TestCommandLine:
    def test_a_closed_pipe_is_no_error(self):
        command = [sys.executable, "-m", "experiments", "list"]
        piped = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert piped.stdout is not None
        piped.stdout.close()
        assert piped.stderr is not None
        with piped.stderr:
            assert piped.stderr.read() == ""
        assert piped.wait() == 0

    def test_list_has_a_line_for_every_experiment(self, capsys):
        assert main(["list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["experiment", "claims", *PRESETS, "minutes"]
        assert [line.split()[0] for line in lines[1:-2]] == sorted(find())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run", "varience"], "no experiment is called 'varience'; did you mean variance?"),
            (["run", "zzz"], "no experiment is called 'zzz'; there are: "),
            (["run", "real_pool", "--replicates", "3"], "experiment real_pool has no replicates"),
            (["report", "--out", "no-such-folder"], "holds no results: first run"),
        ],
    )
    def test_wrong_input_gives_one_message(self, capsys, arguments, message):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run", "variance", "--replicates", "0"], "must be a whole number of at least 1, got '0'"),
            (["run", "variance", "--seed", "-1"], "--seed"),
            (["run", "variance", "--memory", "0"], "must be a positive number of GiB, got '0'"),
            (["run", "variance", "--preset", "huge"], "invalid choice: 'huge'"),
            (["run", "variance", "--coordinator", "localhost:1"], "need --distributed"),
            (["run", "variance", "--distributed", "--process-id", "0"], "together, or none"),
            (["run"], "NAME"),
            ([], "command"),
        ],
    )
    def test_wrong_arguments_end_with_2(self, capsys, arguments, message):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err

    def test_an_experiment_that_lacks_something_is_one_error(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "lacking.py").write_text(
            "class Config: pass\nPRESETS = {}\nrun = None\npredictions = None\n"
        )
        monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
        for arguments in (["list"], ["run", "lacking"], ["run", "all"]):
            assert main(arguments) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "experiments/lacking.py lacks CLAIMS" in line
        sys.modules.pop("experiments.lacking", None)

    def test_a_statement_on_an_unknown_claim_is_an_error_of_the_runner_too(
        self, tmp_path, monkeypatch, capsys
    ):
        text = (EXTRA / "toy.py").read_text().replace("CLAIMS = (2,)", "CLAIMS = (2, 12)")
        text = text.replace(
            "return []", 'return [Prediction("odd.a", 12, "q", number(1), below(2), Role.PRIMARY)]'
        )
        head = "from experiments.harness.statements import Prediction, Role, below, number\n"
        (tmp_path / "odd.py").write_text(text.replace("import jax\n", f"import jax\n{head}", 1))
        monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
        assert main(["run", "odd", "--preset", "quick", "--no-cache", "--out", str(tmp_path / "out")]) == 2
        assert (
            "'odd.a' is about claim 12, but claims.toml has 1, 2" in capsys.readouterr().err.splitlines()[-1]
        )
        sys.modules.pop("experiments.odd", None)

    def test_a_run_names_the_next_command(self, toy_here, tmp_path):
        message = toy_here(tmp_path, "--preset", "quick")
        assert (
            message.splitlines()[-1] == f"next: python -m experiments report --preset quick --out {tmp_path}"
        )

    @pytest.mark.parametrize(("process", "last"), [("5", "1"), ("-1", "1")])
    def test_a_bad_process_id_is_named(self, capsys, process, last):
        cluster = ["--distributed", "--coordinator", "127.0.0.1:9", "--num-processes", "2"]
        assert main(["run", "reported", *cluster, "--process-id", process]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--process-id {process}: with --num-processes 2 it must be from 0 to {last}" in line

    @pytest.mark.parametrize(
        ("process", "whom"), [("1", "process 0 at the coordinator"), ("0", "processes 1 to 1 to join")]
    )
    def test_where_nobody_answers_the_wait_is_announced_and_ends(self, toy, tmp_path, process, whom):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        cluster = ("--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id", process)
        message = finish(toy(tmp_path, "--distributed", *cluster, "--wait", "2"), code=2)
        first, last = [line for line in message.splitlines() if line.startswith("experiments run")]
        assert f"waiting for {whom}" in first
        assert "at most 2 s (--wait)" in first
        assert f"gave up after 2 s waiting for {whom}" in last

    def test_distributed_outside_a_cluster_says_what_to_give(self, toy, tmp_path):
        message = finish(toy(tmp_path, "--distributed"), code=2)
        assert "give --coordinator HOST:PORT, --num-processes and --process-id" in message


@pytest.mark.parametrize("name", sorted(find()))
class TestEveryExperiment:
    @pytest.mark.stress
    def test_two_processes_of_two_devices_write_the_same_bytes(self, name, cache, tmp_path):
        if hasattr(find()[name], "unavailable") and (missing := find()[name].unavailable()):
            pytest.skip(missing)
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        run = ("run", name, "--preset", "quick", "--out")
        finish(command(*run, str(tmp_path / "one"), MRTSIM_CACHE=cache))
        cluster = (
            "--distributed",
            "--coordinator",
            f"localhost:{port}",
            "--num-processes",
            "2",
            "--process-id",
        )
        processes = [
            command(
                *run, str(tmp_path / "two"), *cluster, str(i), MRTSIM_CACHE=cache, JAX_NUM_CPU_DEVICES="2"
            )
            for i in range(2)
        ]
        for process in processes:
            finish(process)
        one, two = ((tmp_path / run / "quick" / name / "result.json").read_bytes() for run in ("one", "two"))
        assert one == two


def test_importing_the_package_changes_no_setting_of_jax():
    code = (
        "import jax; before = dict(jax.config.values);"
        "import mrtsim.montecarlo, experiments.harness.compilation_cache, experiments.harness.store;"
        "assert dict(jax.config.values) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

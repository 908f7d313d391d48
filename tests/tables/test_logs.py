"""Logs of evaluation harnesses, in the layouts that the tools write: pilots of them equal a direct computation."""

import json
import zipfile

import numpy as np
import pytest

from mrtsim.cli import main
from mrtsim.errors import InputError
from mrtsim.tables.logs import read_log
from tests.tables.writers import write, zstd

RNG = np.random.default_rng(0)
SCORES = RNG.integers(0, 2, (8, 3)).astype(float)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        assert main(["pilot", *map(str, arguments), "--json"]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return run


def check(found, scores=SCORES):
    """Components of a balanced one-way layout, of loss = 1 - score."""
    losses = 1 - np.asarray(scores)
    within = losses.var(axis=1, ddof=1).mean()
    assert (found["n_prompts"], found["n_responses"]) == (losses.shape[0], losses.size)
    assert found["components"]["response"]["estimate"] == pytest.approx(within)
    between = losses.mean(axis=1).var(ddof=1) - within / losses.shape[1]
    assert found["components"]["prompt"]["estimate"] == pytest.approx(between)
    assert found["mean_loss"] == pytest.approx(losses.mean())


def lm_eval(path, scores, filters=("strict-match", "flexible-extract"), metrics=("exact_match",)):
    rows = [
        {
            "doc_id": i,
            "doc": {"question": f"q{i}", "answer": "4"},
            "target": "4",
            "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {}}},
            "resps": [["4", "5"]],
            "filtered_resps": ["4"],
            "filter": name,
            "metrics": list(metrics),
            "doc_hash": "a",
            **{m: float(s) if n == 0 else 1.0 for n, m in enumerate(metrics)},
        }
        for name in filters
        for i, s in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lm_eval(run, tmp_path):
    """Three runs of one task; each file has the filters as rows of their own."""
    for repeat in range(3):
        lm_eval(tmp_path / f"samples_gsm8k_2026-01-0{repeat + 1}T10-00-00.123.jsonl", SCORES[:, repeat])
    files = "samples_gsm8k_*.jsonl"
    check(run(files, "--log", "lm-eval", "--filter", "strict-match"))
    message = run(files, "--log", "lm-eval", code=2)
    assert "several filters (strict-match, flexible-extract); say --filter strict-match" in message
    message = run(files, "--log", "lm-eval", "--filter", "strict", code=2)
    assert "no filter 'strict' (there are: strict-match, flexible-extract)" in message
    worse = run(files, "--log", "lm-eval", "--filter", "strict-match", "--no-higher-is-better")
    assert worse["mean_loss"] == pytest.approx(SCORES.mean())


def test_lm_eval_with_several_metrics_and_tasks(run, tmp_path):
    for task in ("arc", "gsm8k"):
        for repeat in range(3):
            lm_eval(
                tmp_path / f"samples_{task}_2026-01-0{repeat + 1}T10-00-00.123.jsonl",
                SCORES[:, repeat],
                filters=("none",),
                metrics=("acc", "acc_norm"),
            )
    assert "several metrics (acc, acc_norm); say --metric acc" in run(
        "samples_*.jsonl", "--log", "lm-eval", code=2
    )
    found = run("samples_*.jsonl", "--log", "lm-eval", "--metric", "acc")
    assert (found["n_prompts"], found["n_responses"], found["n_groups"]) == (16, 48, 2)


def test_scores_per_repeat_in_one_row_are_responses(run, tmp_path):
    rows = [
        {"doc_id": i, "filter": "none", "metrics": ["acc"], "filtered_resps": ["a"], "acc": s.tolist()}
        for i, s in enumerate(SCORES)
    ]
    (tmp_path / "samples_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check(run("samples_x.jsonl", "--log", "lm-eval"))


def inspect_log(scores, scorer="match"):
    samples = [
        {
            "id": f"s{i}",
            "epoch": e + 1,
            "input": "q",
            "target": "4",
            "scores": {scorer: {"value": "C" if value else "I", "answer": "4"}},
        }
        for e in range(scores.shape[1])
        for i, value in enumerate(scores[:, e])
    ]
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "gsm8k", "model": "mockllm/model"},
        "samples": samples,
    }


def write_eval(path, log):
    """The zip of an `.eval` file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({k: v for k, v in log.items() if k != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))


def with_zstandard(path):
    """The same zip with its files compressed by Zstandard, method 93, as Inspect writes them; `zipfile` cannot."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: zstd(archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.find(mark)
        while start >= 0:
            data[start + at : start + at + 2] = (93).to_bytes(2, "little")
            start = data.find(mark, start + 4)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", [".json", ".eval", "zstandard"])
def test_inspect(run, tmp_path, kind):
    log = inspect_log(SCORES)
    path = tmp_path / f"2026-01-01_gsm8k{'.eval' if kind == 'zstandard' else kind}"
    if kind == ".json":
        path.write_text(json.dumps(log))
    else:
        write_eval(path, log)
        if kind == "zstandard":
            with_zstandard(path)
    check(run(path, "--log", "inspect"))
    check(run(tmp_path, "--log", "inspect"))


def test_an_unfinished_run_is_not_a_pilot(run, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**inspect_log(SCORES), "status": "error"}))
    assert "the run did not finish (status error): inspect eval-retry a.json" in run(
        "a.json", "--log", "inspect", code=2
    )


@pytest.mark.stress
def test_a_log_that_inspect_wrote(run, tmp_path, monkeypatch):
    """With its mock model and epochs: the same standard error, since both are over the questions' means."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.scorer import match

    answers = (ModelOutput.from_content("mockllm/model", "45"[int(i)]) for i in RNG.integers(0, 2, 1000))
    questions = [Sample(input=f"q{i}", target="4") for i in range(10)]
    task = inspect_ai.Task(dataset=questions, scorer=match())
    model = get_model("mockllm/model", custom_outputs=answers)
    (log,) = inspect_ai.eval(task, model=model, epochs=4, log_dir=str(tmp_path / "logs"), display="none")
    found = run("logs", "--log", "inspect")
    assert (found["n_prompts"], found["n_responses"]) == (10, 40)
    metrics = log.results.scores[0].metrics
    assert found["mean_loss"] == pytest.approx(1 - metrics["accuracy"].value)
    assert found["standard_error"] == pytest.approx(metrics["stderr"].value)


def test_inspect_with_several_scorers_and_keys(run, tmp_path):
    log = inspect_log(SCORES)
    for sample in log["samples"]:
        sample["scores"]["judge"] = {
            "value": {"tone": 0.5, "truth": sample["scores"]["match"]["value"] == "C"}
        }
    (tmp_path / "a.json").write_text(json.dumps(log))
    assert "several metrics (match, judge.tone, judge.truth)" in run("a.json", "--log", "inspect", code=2)
    check(run("a.json", "--log", "inspect", "--metric", "judge.truth"))
    del log["samples"][5]["scores"]
    (tmp_path / "a.json").write_text(json.dumps(log))
    message = run("a.json", "--log", "inspect", "--metric", "match", code=2)
    assert "sample 's5', epoch 1: no score" in message


def test_lighteval(run, tmp_path):
    for repeat in range(3):
        rows = [
            {
                "doc": {"query": f"q{i}", "id": str(i), "task_name": "gsm8k"},
                "metric": {"extractive_match": s},
            }
            for i, s in enumerate(SCORES[:, repeat])
        ]
        write(tmp_path / f"details_lighteval|gsm8k|0_2026-01-0{repeat + 1}T10-00-00.parquet", rows)
    check(run("details_*.parquet", "--log", "lighteval"))


@pytest.mark.parametrize("log", ["lm-eval", "inspect", "lighteval"])
def test_what_is_no_log(run, tmp_path, log):
    (tmp_path / "x.json").write_text('[{"prompt_id": 1, "loss": 2}]')
    message = run("x.json", "--log", log, code=2)
    assert "x.json" in message
    assert "no" in message
    with pytest.raises(InputError, match="no log 'helm'; there are lm-eval, inspect, lighteval"):
        read_log(tmp_path / "x.json", "helm")


def test_options_that_belong_to_a_log(run, tmp_path):
    (tmp_path / "x.csv").write_text("prompt_id,loss\na,1\na,2\nb,1\nb,3\n")
    assert "--filter belongs to a log" in run("x.csv", "--filter", "none", code=2)
    assert "--metric belongs to a log" in run("x.csv", "--metric", "acc", code=2)
    message = run("x.csv", "--log", "lm-eval", "--loss-column", "acc", code=2)
    assert "--loss-column does not go with --log" in message

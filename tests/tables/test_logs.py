"""Logs of evaluation harnesses, in the layouts that the tools write: pilots of them equal a direct computation."""

import json
import re
import zipfile
from types import SimpleNamespace

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


TWICE = {
    "id": ('"id": "s1"', '"id": "s1", "id": "s2"'),
    "epoch": ('"epoch": 1', '"epoch": 1, "epoch": 2'),
    "match": ('"scores": {"match": {', '"scores": {"match": {"value": "C"}, "match": {'),
    "value": ('"value": "C"', '"value": "I", "value": "C"'),
    "scores": ('"scores": ', '"scores": {}, "scores": '),
    "topic": ('"topic": "a"', '"topic": "a", "topic": "b"'),
    "model": ('"model": "mockllm/model"', '"model": "other", "model": "mockllm/model"'),
    "samples": ('"samples": ', '"samples": [], "samples": '),
}


@pytest.mark.parametrize("kind", [".json", ".eval"])
@pytest.mark.parametrize("field", TWICE)
def test_a_field_of_an_inspect_log_that_stands_twice_is_refused(run, tmp_path, kind, field):
    log = inspect_log(SCORES)
    for sample in log["samples"]:
        sample["metadata"] = {"topic": "a", "other": 1}
    text = json.dumps(log).replace(*TWICE[field], 1)
    assert text.count(TWICE[field][1]) == 1
    unused = json.dumps(log).replace('"other": 1', '"other": 1, "other": 2')
    for name, content in (("a", text), ("b", unused)):
        if kind == ".json":
            (tmp_path / f"{name}.json").write_text(content)
        elif field != "samples":
            samples = re.findall(r'\{"id": .*?"metadata": \{[^}]*\}\}', content)
            with zipfile.ZipFile(tmp_path / f"{name}.eval", "w") as archive:
                archive.writestr("header.json", content[: content.index(', "samples"')] + "}")
                for number, sample in enumerate(samples):
                    archive.writestr(f"samples/{number}.json", sample)
        else:
            return
    message = run(f"a{kind}", "--log", "inspect", "--group-column", "metadata.topic", code=2)
    assert f"field '{field}' stands twice in one object" in message
    assert f"a{kind}" in message
    check(run(f"b{kind}", "--log", "inspect"))


@pytest.mark.parametrize("samples", [[1], [{"scores": [1]}], [{"metadata": "x"}], [None]])
def test_samples_that_are_no_objects_are_a_message(run, tmp_path, samples):
    (tmp_path / "a.json").write_text(json.dumps({**inspect_log(SCORES), "samples": samples}))
    assert "a.json: not a log of Inspect: sample 1 is no object" in run("a.json", "--log", "inspect", code=2)


@pytest.mark.parametrize("field", ["doc_id", "exact_match", "filter", "doc.topic"])
def test_a_field_of_lm_evals_samples_that_stands_twice_is_refused(run, tmp_path, field):
    values = {"doc_id": 3, "exact_match": 1.0, "filter": "none", "doc.topic": "a"}
    name = field.split(".")[-1]
    for repeat in range(3):
        lm_eval(
            tmp_path / f"samples_gsm8k_2026-01-0{repeat + 1}T10-00-00.123.jsonl", SCORES[:, repeat], ["none"]
        )
    path = tmp_path / "samples_gsm8k_2026-01-02T10-00-00.123.jsonl"
    plain = path.read_text().replace('"answer": "4"', '"answer": "4", "topic": "a"')
    lines = plain.splitlines()
    written = f'"{name}": {json.dumps(values[field])}'
    index = next(i for i in reversed(range(len(lines))) if written in lines[i])
    lines[index] = lines[index].replace(written, f'"{name}": null, {written}')
    path.write_text("\n".join(lines))
    options = ["samples_*.jsonl", "--log", "lm-eval", *(["--group-column", field] if "." in field else [])]
    message = run(*options, code=2)
    assert f"{path.name}, line {index + 1}: field '{name}' stands twice in one object" in message
    first, rest = plain.split("\n", 1)
    path.write_text(f"{first}\n" + rest.replace('"arg_1": {}', '"arg_1": {}, "arg_1": {}'))  # is not used
    check(run("samples_*.jsonl", "--log", "lm-eval"))


def test_a_sample_of_lm_eval_without_its_number_is_a_message(run, tmp_path):
    lm_eval(tmp_path / "samples_a.jsonl", SCORES[:, 0], ["none"])
    with (tmp_path / "samples_a.jsonl").open("a") as file:
        file.write('{"filter": "none", "exact_match": 1}\n')
    assert "samples_a.jsonl, line 9: no doc_id" in run("samples_a.jsonl", "--log", "lm-eval", code=2)


def test_an_unfinished_run_is_not_a_pilot(run, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**inspect_log(SCORES), "status": "error"}))
    assert "the run did not finish (status error): inspect eval-retry a.json" in run(
        "a.json", "--log", "inspect", code=2
    )


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore")  # of the tool's own parts
def test_a_log_that_inspect_wrote(run, tmp_path, monkeypatch):
    """With its mock model and epochs: the same standard error, since both are over the questions' means."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.scorer import match

    # Its mock model counts tokens with an encoding that is fetched from the network.
    counter = SimpleNamespace(encode=lambda text, **_: text.split(), encode_ordinary=str.split)
    for name in ("get_encoding", "encoding_for_model"):
        monkeypatch.setattr(f"tiktoken.{name}", lambda *_: counter)
    answers = (ModelOutput.from_content("mockllm/model", "45"[int(i)]) for i in RNG.integers(0, 2, 1000))
    questions = [Sample(input=f"q{i}", target="4") for i in range(10)]
    task = inspect_ai.Task(dataset=questions, scorer=match())
    model = get_model("mockllm/model", custom_outputs=answers)
    (log,) = inspect_ai.eval(task, model=model, epochs=4, log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
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


def samples(path, scores, **columns):
    rows = [
        {"doc_id": i, "filter": "none", "metrics": ["acc"], "resps": [["a"]], "acc": s}
        | {name: value(i) for name, value in columns.items()}
        for i, s in enumerate(scores)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_logs_of_two_models_are_no_repeats(run, tmp_path):
    """lm-eval's results beside the samples name the model; a model without a name gets one at random in each run."""
    for model, random_name in (("a", "xqz7"), ("b", "k31p")):
        samples(
            tmp_path / model / "samples_x_2026-01-01T10-00-00.1.jsonl", SCORES[:, 0 if model == "a" else 2]
        )
        (tmp_path / model / "results_2026-01-01T10-00-00.1.json").write_text(
            json.dumps({"model_name": random_name, "config": {"model_args": {}}})
        )
    check(run(".", "--log", "lm-eval"), SCORES[:, [0, 2]])
    for model in "ab":
        (tmp_path / model / "results_2026-01-01T10-00-00.1.json").write_text(
            json.dumps({"model_name": model, "config": {"model_args": f"pretrained={model},dtype=auto"}})
        )
    message = run(".", "--log", "lm-eval", code=2)
    assert "is of model a" in message
    assert "give the logs of one model at a time" in message


def test_other_questions_of_the_same_ids_are_no_repeats(run, tmp_path):
    for name in "ab":
        samples(
            tmp_path / f"samples_x_2026-01-0{1 + (name == 'b')}T10.jsonl",
            SCORES[:, 0],
            doc_hash=lambda i, name=name: f"{name}{i}",
        )
    assert "question '0' of x is another one than at" in run("samples_*", "--log", "lm-eval", code=2)


def test_a_task_without_filters_stays_beside_one_with_several(run, tmp_path):
    """A filter that one task lacks does not leave its questions out; its only filter is taken."""
    for day in (1, 2, 3):
        lm_eval(tmp_path / f"samples_gsm8k_2026-01-0{day}T10-00-00.1.jsonl", SCORES[:, day - 1])
        lm_eval(
            tmp_path / f"samples_math_2026-01-0{day}T10-00-00.1.jsonl", SCORES[:, day - 1], filters=("none",)
        )
    found = run("samples_*", "--log", "lm-eval", "--filter", "strict-match")
    assert (found["n_prompts"], found["n_groups"]) == (16, 2)
    lm_eval(tmp_path / "samples_other_2026-01-01T10-00-00.1.jsonl", SCORES[:, 0], ("none",), ("acc",))
    message = run(
        "samples_*", "--log", "lm-eval", "--filter", "strict-match", "--metric", "exact_match", code=2
    )
    assert "the task other has no metric 'exact_match'" in message


def test_older_samples_of_lm_eval_name_no_metrics(run, tmp_path):
    """Before version 0.4.5: a JSON array, the metrics beside the other columns, no filter."""
    for day in (1, 2, 3):
        rows = [
            {
                "doc_id": i,
                "doc": {},
                "target": "4",
                "arguments": [],
                "resps": [["4"]],
                "filtered_resps": ["4"],
                "acc": s,
            }
            for i, s in enumerate(SCORES[:, day - 1])
        ]
        (tmp_path / f"samples_x_2026-01-0{day}T10-00-00.1.jsonl").write_text(json.dumps(rows, indent=2))
    check(run("samples_*", "--log", "lm-eval"))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_unscored_responses(run, tmp_path, value):
    scores = [list(map(float, row)) for row in SCORES]
    scores[2][1] = value
    for repeat in range(3):
        samples(tmp_path / f"samples_x_2026-01-0{repeat + 1}T10.jsonl", [row[repeat] for row in scores])
    message = run("samples_*", "--log", "lm-eval", code=2)
    assert "samples_x_2026-01-02T10.jsonl, line 3: no score of acc; run it again, or leave such" in message
    found = run("samples_*", "--log", "lm-eval", "--unscored", "drop")
    assert (found["n_prompts"], found["n_responses"]) == (8, 23)
    assert "1 response without a score of acc left out (--unscored drop)" in found["warnings"]


def test_scores_that_are_text(run, tmp_path):
    for repeat in range(3):
        samples(
            tmp_path / f"samples_x_2026-01-0{repeat + 1}T10.jsonl",
            [("False", "True")[int(s)] if repeat else str(s) for s in SCORES[:, repeat]],
        )
    check(run("samples_*", "--log", "lm-eval"))
    samples(tmp_path / "samples_x_2026-01-04T10.jsonl", ["good"] * 8)
    assert "'good' is not a score" in run("samples_*", "--log", "lm-eval", code=2)


@pytest.mark.parametrize(("responses", "wrong"), [(2, True), (3, False)])
def test_a_list_of_another_length_than_the_repeats_is_refused(run, tmp_path, responses, wrong):
    """Such as the parts of an answer, which ifeval scores one by one."""
    samples(
        tmp_path / "samples_x.jsonl", [row.tolist() for row in SCORES], resps=lambda i: [["a"] * responses]
    )
    if wrong:
        message = run("samples_x.jsonl", "--log", "lm-eval", code=2)
        assert "line 1: acc is a list of 3 for 2 response(s), not a score of each response" in message
    else:
        check(run("samples_x.jsonl", "--log", "lm-eval"))


def test_groups_from_a_path_in_the_log(run, tmp_path):
    for repeat in range(3):
        samples(
            tmp_path / f"samples_x_2026-01-0{repeat + 1}T10.jsonl",
            SCORES[:, repeat],
            doc=lambda i: {"subject": f"s{i // 2}"},
        )
    assert run("samples_*", "--log", "lm-eval", "--group-column", "doc.subject")["n_groups"] == 4
    assert "no group at doc.topic" in run(
        "samples_*", "--log", "lm-eval", "--group-column", "doc.topic", code=2
    )


def test_inspect_logs_that_were_retried_or_copied(run, tmp_path):
    """The retry of a failed run has its task_id, and all its samples; the same run in two files counts once or not."""
    log = inspect_log(SCORES)
    log["eval"] |= {"task_id": "t", "eval_id": "second"}
    failed = {
        **log,
        "status": "error",
        "eval": {**log["eval"], "eval_id": "first"},
        "samples": log["samples"][:5],
    }
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(failed))
    (folder / "b.json").write_text(json.dumps(log))
    (folder / "eval-set.json").write_text("{}")
    check(run("logs", "--log", "inspect"))
    write_eval(folder / "c.eval", log)
    assert "c.eval holds the same run as logs/b.json" in run("logs", "--log", "inspect", code=2)
    (folder / "c.eval").unlink()
    (folder / "d.json").write_text(
        json.dumps({**log, "eval": {"task": "gsm8k", "model": "other", "eval_id": "third"}})
    )
    assert "is of model mockllm/model, logs/d.json of other" in run("logs", "--log", "inspect", code=2)


def test_inspect_samples_that_failed(run, tmp_path):
    """With fail_on_error=False the run succeeds without them; its metrics leave them out, as `--unscored drop` does."""
    log = inspect_log(SCORES)
    log["samples"][3] |= {"scores": {}, "error": {"message": "out of memory", "traceback": "..."}}
    log["samples"][4]["scores"]["match"]["value"] = float("nan")
    (tmp_path / "a.json").write_text(json.dumps(log))
    assert "sample 's3', epoch 1: no score of match ('out of memory')" in run(
        "a.json", "--log", "inspect", code=2
    )
    assert run("a.json", "--log", "inspect", "--unscored", "drop")["n_responses"] == 22


def test_a_log_without_samples(run, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**inspect_log(SCORES), "samples": []}))
    assert "a.json holds no response; was the run cut short?" in run("a.json", "--log", "inspect", code=2)


def test_the_first_version_of_inspect_logs(run, tmp_path):
    log = inspect_log(SCORES)
    for sample in log["samples"]:
        sample["score"] = sample.pop("scores")["match"]
    (tmp_path / "a.json").write_text(json.dumps({**log, "version": 1}))
    check(run("a.json", "--log", "inspect"))


def test_older_details_of_lighteval(run, tmp_path):
    """Nested cells were text where their types differ between rows: Python's, not JSON."""
    for repeat in range(3):
        rows = [
            {"example": f"q{i}", "metrics": str({"em": s}) if i else f"{{'em': np.float64({s}), 'f1': nan}}"}
            for i, s in enumerate(SCORES[:, repeat])
        ]
        write(tmp_path / f"details_lighteval|gsm8k|0_2026-01-0{repeat + 1}T10-00-00.parquet", rows)
    check(run("details_*.parquet", "--log", "lighteval", "--metric", "em"))

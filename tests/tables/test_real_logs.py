"""Logs that the tools themselves wrote (`logs/README.md` says how): pilots of them, and the tools' own standard errors.

The numbers that a tool reported are in its results, which are not kept; they are restated here.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mrtsim.errors import InputError
from mrtsim.pilot.estimate import estimate_components
from mrtsim.tables.logs import read_log
from mrtsim.tables.pilots import read_pilot

LOGS = Path(__file__).parent / "logs"
# mean and standard error of `acc` in three runs of lm-eval, in the order of their files
LM_EVAL = [
    (0.3333333333333333, 0.14213381090374033),
    (0.5, 0.15075567228888181),
    (0.5833333333333334, 0.1486470975026408),
]
# the same of `em` in three runs of lighteval
LIGHTEVAL = [
    (0.4166666666666667, 0.1486470975026408),
    (0.75, 0.1305582419667734),
    (0.5, 0.15075567228888181),
]
INSPECT = {"match": (0.5, 0.12909944487358058), "clustered": (0.5, 0.14433756729740643)}


def components(pilot):
    return estimate_components(pilot.losses, pilot.prompts, groups=pilot.groups)


def lines(name):
    return [json.loads(line) for line in next(LOGS.glob(f"lm_eval/{name}_2026*")).read_text().splitlines()]


def check(pilot, scores):
    """What the components, the mean and its standard error are for loss = 1 - score, questions by repeats."""
    losses = 1 - np.asarray(scores, float)
    n, k = losses.shape
    found = components(pilot)
    within = losses.var(axis=1, ddof=1).mean()
    assert (found.n_prompts, found.n_responses) == (n, n * k)
    assert found.components.response == pytest.approx(within)
    assert found.components.prompt == pytest.approx(losses.mean(axis=1).var(ddof=1) - within / k)
    assert found.mean == pytest.approx(losses.mean())
    assert found.standard_error == pytest.approx(losses.mean(axis=1).std(ddof=1) / np.sqrt(n))


def test_runs_of_lm_eval():
    """Its standard error is that of one run; that of the mean of the runs is smaller."""
    files = sorted(LOGS.glob("lm_eval/samples_arith_choice_2026*"))
    runs = []
    for file, (mean, standard_error) in zip(files, LM_EVAL, strict=True):
        acc = np.array([json.loads(line)["acc"] for line in file.read_text().splitlines()])
        assert acc.mean() == pytest.approx(mean)
        assert acc.std(ddof=1) / np.sqrt(len(acc)) == pytest.approx(standard_error)
        runs.append(acc)
    pilot = read_log(files, "lm-eval", metric="acc")
    check(pilot, np.transpose(runs))
    assert components(pilot).standard_error < min(error for _, error in LM_EVAL)
    with pytest.raises(InputError, match=r"several metrics \(acc, acc_norm, brier_score\)"):
        read_log(files, "lm-eval")
    grouped = read_log(files, "lm-eval", metric="acc", group_column="doc.topic")
    assert components(grouped).n_groups == 4


def test_repeats_of_lm_eval():
    """A filter that keeps all repeats and a metric that scores each: a list in every line."""
    each = [row["correct"] for row in lines("samples_arith_each")]
    assert [len(row) for row in each] == [3] * 12
    check(read_log(next(LOGS.glob("lm_eval/samples_arith_each*")), "lm-eval"), each)


def test_filters_of_lm_eval_that_score_one_of_the_repeats():
    file = next(LOGS.glob("lm_eval/samples_arith_2026*"))
    with pytest.raises(InputError, match=r"several filters \(strict-match, flexible-extract, maj@3\)"):
        read_log(file, "lm-eval")
    with pytest.raises(InputError, match=r"every question has one score.*take_first"):
        read_log(file, "lm-eval", filter="flexible-extract")


def test_a_second_run_with_one_score_per_set_of_repeats_is_said(tmp_path):
    file = next(LOGS.glob("lm_eval/samples_arith_2026*"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[::2]:
        row["exact_match"] = 1 - row["exact_match"]
    other = tmp_path / "samples_arith_2026-11-27T08-04-45.022681.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pilot = read_log([file, other], "lm-eval", filter="maj@3")
    assert "exact_match is one score for 3 responses to a question" in pilot.notes[0]


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("arith_text", "word_perplexity", "word_perplexity is a log-likelihood and a length, not a score"),
        ("arith_choice", "brier_score", "brier_score is the right answer and probabilities, .*acc, acc_norm"),
    ],
)
def test_pairs_of_lm_eval_are_no_repeats(name, metric, message):
    with pytest.raises(InputError, match=message):
        read_log(next(LOGS.glob(f"lm_eval/samples_{name}_2026*")), "lm-eval", metric=metric)


def test_inspect():
    """Its standard error is over the questions' means, with clusters where it was given them: ours is the same."""
    file = next(LOGS.glob("inspect/*.eval"))
    for metric, (mean, standard_error) in INSPECT.items():
        pilot = read_log(file, "inspect", metric=metric)
        found = components(pilot)
        assert (found.n_prompts, found.n_responses) == (6, 12)
        assert found.mean == pytest.approx(1 - mean)
        assert found.standard_error == pytest.approx(standard_error)
        assert found.n_groups == (3 if metric == "clustered" else None)
    by_hand = read_log(file, "inspect", metric="match", group_column="metadata.topic")
    assert components(by_hand).standard_error == pytest.approx(INSPECT["clustered"][1])


@pytest.fixture
def lighteval(tmp_path):
    """The folders that lighteval makes; a bar in its file names is nothing for every file system."""
    for run in range(1, 4):
        date = f"2026-11-26T08-17-3{run}.000000"
        folder = tmp_path / "details" / "noisy" / date
        folder.mkdir(parents=True)
        shutil.copy(LOGS / "lighteval" / f"arith_{run}.parquet", folder / f"details_arith|0_{date}.parquet")
    return tmp_path


def test_lighteval(lighteval):
    runs = []
    for run, (mean, standard_error) in enumerate(LIGHTEVAL, 1):
        rows = pq.read_table(LOGS / "lighteval" / f"arith_{run}.parquet").to_pylist()
        em = np.array([row["metric"]["em"] for row in sorted(rows, key=lambda row: int(row["doc"]["id"]))])
        assert em.mean() == pytest.approx(mean)
        assert em.std(ddof=1) / np.sqrt(len(em)) == pytest.approx(standard_error)
        runs.append(em)
    check(read_log(lighteval, "lighteval"), np.transpose(runs))
    grouped = read_log(lighteval, "lighteval", group_column="doc.specific.topic")
    assert components(grouped).n_groups == 4


def test_averages_of_lighteval_have_no_spread_between_responses():
    with pytest.raises(InputError, match=r"every question has one score.*avg@n"):
        read_log(LOGS / "lighteval" / "arith_avg.parquet", "lighteval")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("inspect/*.eval", "is a log of Inspect: mrtsim pilot --log inspect"),
        ("inspect", "its logs of Inspect: mrtsim pilot --log inspect"),
        ("lighteval/arith_1.parquet", "of a log of lighteval: mrtsim pilot --log lighteval"),
        ("lm_eval/samples_arith_text_*", "of a log of lm-eval: mrtsim pilot --log lm-eval"),
    ],
)
def test_a_log_that_nobody_called_one_is_told(files, message):
    with pytest.raises(InputError, match=message):
        read_pilot(str(LOGS / files))


def test_a_json_log_of_inspect_that_nobody_called_one_is_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '{\n  "version": 2,\n  "status": "success",\n  "eval": {\n    "task": "arith"}, "samples": []}'
    )
    with pytest.raises(InputError, match="is a log of Inspect: mrtsim pilot --log inspect"):
        read_pilot(path)

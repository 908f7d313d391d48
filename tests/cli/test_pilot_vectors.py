"""`mrtsim pilot --vector-column`: traces, and a K* that is for training."""

import json

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.test_pilot import COSTS, PILOT, answer, refusal


@pytest.fixture
def gradients(tmp_path):
    """20 prompts x 4 responses x 6 features, one row per response; and the same as arrays."""
    rng = np.random.default_rng(1)
    rows = np.repeat(rng.normal(size=(20, 6)), 4, axis=0) + 1.5 * rng.normal(size=(80, 6))
    prompts = np.repeat(np.arange(20), 4)
    path = tmp_path / "gradients.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": int(p), "gradient": row.tolist(), "loss": "none"}) + "\n"
            for p, row in zip(prompts, rows, strict=True)
        )
    )
    return str(path), rows, prompts


def test_traces_and_a_plan(capsys, gradients):
    path, rows, prompts = gradients
    direct = mrt.estimate_components(rows, prompts)
    found = answer(capsys, path, "--vector-column", "gradient", *COSTS, "--budget", "400")
    assert found["components"]["prompt"] == pytest.approx(direct.prompt.to_dict())
    assert found["components"]["response"] == pytest.approx(direct.response.to_dict())
    assert found["k_star_for"] == "training"
    plan = mrt.allocate(direct.components, mrt.Cost(4.0, 1.0), budget=400)
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["responses_per_prompt"] == plan.responses_per_prompt
    wide = answer(capsys, path, "--vector-column", "gradient", "--sketched", *COSTS)
    assert wide["components"]["response"]["high"] > found["components"]["response"]["high"]
    assert answer(capsys, PILOT, *COSTS)["k_star_for"] == "evaluation"


def test_lists_of_vectors(capsys, gradients, tmp_path):
    path, rows, _ = gradients
    nested = tmp_path / "nested.jsonl"
    nested.write_text(
        "".join(
            json.dumps({"prompt_id": p, "gradient": rows[4 * p : 4 * p + 4].tolist()}) + "\n"
            for p in range(20)
        )
    )
    one = answer(capsys, path, "--vector-column", "gradient")
    other = answer(capsys, str(nested), "--vector-column", "gradient")
    assert one["components"] == other["components"]


def test_what_a_person_reads(capsys, gradients):
    assert main(["pilot", gradients[0], "--vector-column", "gradient", *COSTS]) == 0
    out = capsys.readouterr().out
    assert "length of the mean gradient" in out
    assert "K* is for training" in out
    assert "For an evaluation take a pilot of losses" in " ".join(out.split())


def test_what_is_refused(capsys, gradients, tmp_path):
    path, *_ = gradients
    vector = ["--vector-column", "gradient"]
    uneven = tmp_path / "uneven.jsonl"
    uneven.write_text(
        '{"prompt_id": 1, "gradient": [1, 2]}\n'
        '{"prompt_id": 1, "gradient": [1, 2, 3]}\n'
        '{"prompt_id": 2, "gradient": [1, 2]}\n'
    )
    for arguments, message in (
        ([path, "--sketched"], "--sketched is for --vector-column"),
        ([path, *vector, "--population", "99"], "--population is for losses"),
        ([path, *vector, "--method", "reml"], "vectors go with method='anova'"),
        ([path, *vector, "--loss-column", "nll"], "vectors or losses"),
        ([path, "--judge-column", "prompt_id", *vector], "--vector-column does not go with --judge-column"),
        ([path, "--vector-column", "grad"], "gradient"),
        ([path, "--log", "inspect", *vector], "--vector-column does not go with --log"),
        ([path, "--log", "inspect", "--judge-column", "j"], "--judge-column does not go with --log"),
        ([str(uneven), *vector], "a list of 3 features where others have 2"),
    ):
        assert message in refusal(capsys, *arguments), arguments

"""The commands of docs/files.md, each on a small imitation of the file that it names."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mrtsim.cli import main
from tests.tables.writers import rows_of, write

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(6, 4)).round(2)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def responses(prompt, score, **others):
    """One row per response: 6 prompts x 4."""
    return [
        {prompt: f"q{i}", **others, score: float(SCORES[i, j])}
        for i in range(len(SCORES))
        for j in range(SCORES.shape[1])
    ]


def ultrafeedback(folder):
    rows = [
        {
            "source": "sharegpt",
            "instruction": f"q{i}",
            "models": ["gpt-4", "llama", "falcon", "wizardlm"],
            "completions": [
                {
                    "model": m,
                    "response": f"r{m}",
                    "overall_score": float(SCORES[i, j]),
                    "annotations": {"helpfulness": {"Rating": "4", "Rationale": "so"}},
                }
                for j, m in enumerate("abcd")
            ],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
        for i in range(6)
    ]
    write(folder / "ultrafeedback.parquet", rows)


def nectar(folder):
    rows = [
        {
            "prompt": f"\n\nHuman: q{i}\n\nAssistant: ",
            "answers": [
                {"answer": "a", "model": m, "rank": float(r)}
                for m, r in zip("abcd", RNG.permutation(4) + 1, strict=True)
            ],
            "turns": 1,
            "num_responses": 4,
            "source": ["lmsys-chat-1m"],
            "good_natured": True,
        }
        for i in range(6)
    ]
    lines(folder / "nectar.jsonl", rows)


def mixinstruct(folder):
    rows = [
        {
            "id": f"unified_chip2/{i}",
            "instruction": "",
            "input": f"q{i}",
            "output": "o",
            "candidates": [
                {
                    "decoding_method": "top_p_sampling",
                    "model": m,
                    "text": "t",
                    "scores": {
                        "bleu": 0.1,
                        "bertscore": float(SCORES[i, j]),
                        "bartscore": -2.0 - float(SCORES[i, j]),
                    },
                }
                for j, m in enumerate("abcd")
            ],
            "cmp_results": '{"a,b": "A is better"}',
        }
        for i in range(6)
    ]
    lines(folder / "mixinstruct.jsonl", rows)


def helpsteer(folder):
    rows = [
        {
            "prompt": f"q{i // 2}",
            "response": "r",
            "helpfulness": int(RNG.integers(5)),
            "correctness": 3,
            "verbosity": 2,
        }
        for i in range(12)
    ]
    write(folder / "helpsteer.jsonl.gz", rows)


def batch_output(folder):
    choices = [
        {
            "index": j,
            "message": {"role": "assistant", "content": f"a{j}", "refusal": None},
            "finish_reason": "stop",
        }
        for j in range(4)
    ]
    rows = [
        {
            "id": f"batch_req_{i}",
            "custom_id": f"request-{i}",
            "response": {
                "status_code": 200,
                "request_id": "x",
                "body": {"id": "c", "choices": choices, "usage": {"total_tokens": 9}},
            },
            "error": None,
        }
        for i in range(6)
    ]
    lines(folder / "batch_output.jsonl", rows)


def simpo(folder):
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [
        {
            "prompt": f"q{i}",
            "all_generated_responses": list("abcd"),
            "all_rm_scores": SCORES[i].tolist(),
            "chosen": turn,
            "rejected": turn,
        }
        for i in range(6)
    ]
    (folder / "simpo.json").write_text(json.dumps(rows, indent=4))


def distilabel(folder):
    rows = [
        {
            "instruction": f"q{i}",
            "generations": list("abcd"),
            "generation_models": ["m1", "m2", "m3", "m4"],
            "ratings": [int(r) for r in RNG.integers(1, 6, 4)],
            "rationales": ["so"] * 4,
            "distilabel_metadata": {"raw_output": "text"},
        }
        for i in range(6)
    ]
    write(folder / "distilabel.parquet", rows)


def verl(folder):
    (folder / "verl").mkdir()
    for step in (1, 2, 10):
        lines(folder / "verl" / f"{step}.jsonl", responses("input", "score", output="a", gts="4", step=step))


def openrlhf(folder):
    lines(folder / "openrlhf.jsonl", responses("input", "reward", output="a"))


def trl(folder):
    (folder / "trl").mkdir()
    for step in (5, 10):
        rows = responses("prompt", "accuracy_reward", step=step, completion="c", advantage=0.5)
        write(folder / "trl" / f"completions_{step:05d}.parquet", rows)


def humaneval(folder):
    rows = [
        {
            "task_id": f"HumanEval/{i // 4}",
            "completion": "    return",
            "result": "passed",
            "passed": bool(RNG.integers(2)),
        }
        for i in range(24)
    ]
    lines(folder / "humaneval_results.jsonl", rows)


def qwen_math(folder):
    rows = [
        {
            "idx": i,
            "question": f"q{i}",
            "gt": "4",
            "code": list("abcd"),
            "pred": ["4", "5", "4", "6"],
            "report": [None] * 4,
            "score": [bool(s) for s in RNG.integers(0, 2, 4)],
        }
        for i in range(6)
    ]
    lines(folder / "qwen_math.jsonl", rows)


def annotations(folder):
    rows = [
        {
            "instruction": f"q{i // 3}",
            "output_1": "a",
            "generator_1": "text_davinci_003",
            "output_2": "b",
            "generator_2": "m",
            "annotator": f"gpt4_{i % 3}",
            "preference": float(RNG.integers(1, 3)) + round(float(RNG.random()), 3),
            "raw_completion": [{"name": "M"}],
        }
        for i in range(18)
    ]
    (folder / "annotations.json").write_text(json.dumps(rows, indent=4))


def chaosnli(folder):
    rows = [
        {
            "uid": f"u{i}",
            "label_counter": {"e": 60 + i, "n": 30, "c": 10 - i},
            "majority_label": "e",
            "entropy": 1.2,
        }
        for i in range(6)
    ]
    lines(folder / "chaosnli.jsonl", rows)


# What `pilot` must find: prompts and responses; and what `select` must keep.
LAYOUTS = {
    "UltraFeedback": (ultrafeedback, (6, 24), 12, ["completions", "models"]),
    "Nectar": (nectar, None, 12, ["answers"]),
    "MixInstruct": (mixinstruct, (6, 24), 12, ["candidates"]),
    "HelpSteer": (helpsteer, (6, 12), 6, []),
    "OpenAI batch output": (batch_output, None, 12, ["response.body.choices"]),
    "SimPO on-policy data": (simpo, (6, 24), 12, ["all_generated_responses", "all_rm_scores"]),
    "distilabel": (distilabel, (6, 24), 12, ["generation_models", "generations", "ratings", "rationales"]),
    "verl rollouts": (verl, (6, 72), 12, []),
    "OpenRLHF rollouts": (openrlhf, (6, 24), 12, []),
    "TRL": (trl, (6, 48), 12, []),
    "HumanEval results": (humaneval, (6, 24), 6, []),
    "Qwen-math outputs": (qwen_math, (6, 24), 12, ["code", "pred", "report", "score"]),
    "alpaca_eval annotations": (annotations, (6, 18), None, None),
    "ChaosNLI": (chaosnli, (6, 600), None, None),
}


def table():
    """layout -> its commands on the page."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[1].startswith("`"):
            name = re.split(r",| \(", cells[0])[0]
            found[name] = [cell.strip("`").replace("\\|", "|") for cell in cells[2:] if cell]
    return found


def test_the_page_has_every_layout():
    assert table().keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_commands_of_the_page(layout, tmp_path, monkeypatch, capsys):
    imitate, pilot, kept, cut = LAYOUTS[layout]
    imitate(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in table()[layout]:
        before, _, command = command.rpartition(" | ")
        if before:
            words = shlex.split(before)
            assert words[0] == "python"
            made = subprocess.run([sys.executable, *words[1:]], capture_output=True, check=True)
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(made.stdout)))
        program, *arguments = shlex.split(command)
        assert program == "mrtsim"
        assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
        found = json.loads(capsys.readouterr().out)
        if arguments[0] == "pilot":
            assert (found["n_prompts"], found["n_responses"]) == pilot
        else:
            assert found["kept"] == kept
            assert sorted(found["cut_columns"]) == cut
            out = Path(arguments[arguments.index("--out") + 1])
            files = sorted(out.iterdir()) if out.is_dir() else [out]
            assert any(pq.read_table(f).num_rows if f.suffix == ".parquet" else rows_of(f) for f in files)

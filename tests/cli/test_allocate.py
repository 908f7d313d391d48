"""`mrtsim allocate` as a user meets it: answers, messages, exit codes, hostile input."""

import math
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import mrtsim
from mrtsim.cli import main, strict_json, table
from mrtsim.plan.allocate import Cost, allocate
from mrtsim.variance import VarianceComponents
from tests.cli.shared import commands, strictly

TOY = ["--v-prompt", "0.187", "--v-response", "1.329"]
COSTS = ["--c-prompt", "4", "--c-response", "1"]
TOKENS = ["--prompt-tokens", "900", "--response-tokens", "250", "--price-in", "0.5", "--price-out", "1.5"]
KEYS = {
    "k_star",
    "n_prompts",
    "responses_per_prompt",
    "variance",
    "cost",
    "efficiency",
    "k_range_5pct",
    "k_range_10pct",
}


answer, refusal = commands("allocate")


def test_the_toy_problem(capsys):
    plan = answer(capsys, *TOY, *COSTS, "--budget", "400")
    assert plan.keys() >= KEYS
    assert (plan["n_prompts"], plan["responses_per_prompt"]) == (40, 6)
    assert plan["variance"] == pytest.approx(0.187 / 40 + 1.329 / 240)
    assert plan["cost"] == 400
    assert plan["k_star"] == pytest.approx(math.sqrt(1.329 * 4 / 0.187))
    assert plan["efficiency"] == pytest.approx((0.187 + 1.329) / 80 / plan["variance"])
    assert (plan["k_range_5pct"], plan["k_range_10pct"]) == ([4, 8], [3, 9])


def test_target_limits_and_fixed_numbers(capsys):
    plan = answer(
        capsys, *TOY, *COSTS, "--target-variance", "0.02", "--max-responses", "8", "--max-prompts", "500"
    )
    assert (plan["n_prompts"], plan["responses_per_prompt"], plan["efficiency"]) == (23, 5, None)
    assert answer(capsys, *TOY, *COSTS, "--budget", "400", "--fix-responses", "2")["n_prompts"] == 66
    assert answer(capsys, *TOY, *COSTS, "--budget", "400", "--fix-prompts", "30")["responses_per_prompt"] == 9
    whole = answer(capsys, *TOY, *COSTS, "--budget", "1e4", "--population", "20", "--candidates", "6")
    assert (whole["n_prompts"], whole["responses_per_prompt"], whole["variance"]) == (20, 6, 0)
    three = answer(capsys, *TOY, *COSTS, "--v-group", "0.4", "--redundancy", "3", "--budget", "400")
    assert three["k_star"] == pytest.approx(math.sqrt(1.329 * 4 / (0.187 + 1.2)))


def test_token_costs(capsys):
    shared = answer(capsys, *TOY, *TOKENS, "--budget", "10")
    assert (shared["c_prompt"], shared["c_response"]) == (0.00045, 0.000375)
    assert answer(capsys, *TOY, *TOKENS, "--shared-prefix", "--budget", "10") == shared
    apart = answer(capsys, *TOY, *TOKENS, "--no-shared-prefix", "--budget", "10")
    assert (apart["c_prompt"], apart["c_response"], apart["responses_per_prompt"]) == (0, 0.000825, 1)
    added = answer(capsys, *TOY, *TOKENS, "--c-response", "0.01", "--budget", "10")
    assert (added["c_prompt"], added["c_response"]) == (0.00045, 0.010375)


def test_undefined_numbers_are_null(capsys):
    plan = answer(capsys, "--v-prompt", "0", "--v-response", "1", *COSTS, "--budget", "400")
    assert (plan["k_star"], plan["n_prompts"], plan["responses_per_prompt"]) == (None, 1, 396)


def test_what_a_person_reads(capsys):
    assert main(["allocate", *TOY, *COSTS, "--budget", "400"]) == 0
    text = capsys.readouterr().out
    rows = {line[:22].strip(): line[22:].split() for line in text.splitlines()}
    assert rows["prompts"][0] == "40"
    assert rows["responses per prompt"][0] == "6"
    assert rows["limited by"] == ["budget"]
    assert rows["K within 5 %"][:3] == ["4", "to", "8"]
    assert rows["efficiency"][0] == "1.856"
    regret = [line.split() for line in text.splitlines() if line.endswith("%")]
    assert regret[0] == ["1", "80", "0.01895", "400", "+85.6", "%"]
    assert ["6", "40", "0.01021", "400", "+0.0", "%"] in regret
    assert (
        len({len(line) for line in text.splitlines() if line.endswith("%")}) == 1
    )  # the columns are aligned
    main(["allocate", *TOY, *TOKENS, "--no-shared-prefix", "--budget", "10"])
    assert "K = 1 is always best" in capsys.readouterr().out


def test_plot(capsys, tmp_path):
    path = tmp_path / "plan.png"
    assert answer(capsys, *TOY, *COSTS, "--budget", "400", "--plot", str(path))["n_prompts"] == 40
    assert path.read_bytes().startswith(b"\x89PNG")
    missing = str(tmp_path / "none" / "plan.png")
    assert "cannot write the figure" in refusal(capsys, *TOY, *COSTS, "--budget", "400", "--plot", missing)
    wrong = str(tmp_path / "plan.foo")
    assert "foo" in refusal(capsys, *TOY, *COSTS, "--budget", "400", "--plot", wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TOY, *COSTS], "one of the arguments --budget --target-variance --detect is required"),
        ([*TOY, *COSTS, "--budget", "400", "--target-variance", "1"], "not allowed with argument"),
        ([*TOY, "--budget", "400"], "give --c-prompt and --c-response, or --prompt-tokens"),
        ([*TOY, "--c-prompt", "4", "--budget", "400"], "give --c-prompt and --c-response"),
        ([*TOY, *COSTS, "--no-shared-prefix", "--budget", "400"], "give --c-prompt and --c-response, or"),
        ([*TOY, *TOKENS[:4], "--budget", "400"], "need --price-in and --price-out as well"),
        ([*COSTS, "--budget", "400"], "the following arguments are required: --v-prompt, --v-response"),
        (
            [*TOY, *COSTS, "--budget", "400", "--bugdet", "4"],
            "mrtsim allocate: unrecognized arguments: --bugdet 4 (see mrtsim allocate --help)",
        ),
        ([*TOY, *COSTS, "--budge", "400"], "--budget"),  # no abbreviations, so that options can be added
        ([*TOY, *COSTS, "--budget", "nan"], "argument --budget: must be a finite number, not 'nan'"),
        ([*TOY, *COSTS, "--budget", "1e999"], "argument --budget: must be a finite number, not '1e999'"),
        ([*TOY, *COSTS, "--budget", "inf"], "argument --budget: must be a finite number, not 'inf'"),
        ([*TOY, *COSTS, "--budget", "-400"], "argument --budget: must be above 0, not '-400'"),
        ([*TOY, *COSTS, "--budget", "many"], "argument --budget: must be a finite number, not 'many'"),
        (["--v-prompt", "-1", "--v-response", "1", *COSTS, "--budget", "9"], "must be 0 or above, not '-1'"),
        ([*TOY, *COSTS, "--budget", "4"], "the least budget is 5.0"),
        ([*TOY, *COSTS, "--budget", "400", "--max-responses", "0"], "a whole number of at least 1, not '0'"),
        (
            [*TOY, *COSTS, "--budget", "400", "--max-prompts", "2.5"],
            "a whole number of at least 1, not '2.5'",
        ),
        ([*TOY, "--c-prompt", "4", "--c-response", "0", "--budget", "400"], "set --max-responses"),
        (
            [*TOY, *COSTS, "--target-variance", "1e-9", "--max-prompts", "5"],
            "the least variance is above 0.037",
        ),
    ],
)
def test_refusals(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


number_text = st.one_of(
    st.floats().map(repr),
    st.floats(1e-3, 1e3).map(repr),
    st.integers(-2, 30).map(str),
    st.sampled_from(
        ["0", "-0.0", "1e999", "1e50", "1e-50", "1e-300", "", "x", "0x10", "1_0", "١", "9" * 5000, "%s"]
    ),
)
options = st.dictionaries(
    st.sampled_from(
        [
            "--c-prompt",
            "--c-response",
            "--v-group",
            "--c-group",
            "--max-group-size",
            "--redundancy",
            "--prompt-tokens",
            "--response-tokens",
            "--price-in",
            "--price-out",
            "--max-responses",
            "--max-prompts",
            "--fix-responses",
            "--fix-prompts",
            "--population",
            "--candidates",
        ]
    ),
    number_text,
)


@given(
    st.lists(number_text, min_size=5, max_size=5), st.sampled_from(["--budget", "--target-variance"]), options
)
def test_any_input_is_answered_or_refused(numbers, goal, extra):
    names = ["--v-prompt", "--v-response", "--c-prompt", "--c-response", goal]
    arguments = dict(zip(names, numbers, strict=True)) | extra
    for reader in ([], ["--json"]):
        with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as complained:
            try:
                code = main(["allocate", *(f"{name}={text}" for name, text in arguments.items()), *reader])
            except SystemExit as leaving:
                code = leaving.code
        out, err = printed.getvalue(), complained.getvalue()
        assert code in (0, 2)
        assert (out == "") == (code == 2)
        assert (err == "") == (code == 0)
    if code == 0:
        plan = strictly(out)
        assert plan["n_prompts"] >= 1
        assert plan["responses_per_prompt"] >= 1
        assert plan["variance"] >= 0
        assert plan["cost"] >= 0
        if goal == "--budget":
            assert plan["cost"] <= float(arguments[goal]) * (1 + 1e-15)
        else:
            assert plan["variance"] <= float(arguments[goal]) * (1 + 1e-15)


positive_sizes = st.floats(-49, 49).map(lambda exponent: 10**exponent)


@given(positive_sizes, positive_sizes, positive_sizes, positive_sizes, positive_sizes, st.booleans())
def test_any_size_of_number_is_planned(v_prompt, v_response, c_prompt, c_response, goal, by_budget):
    components, cost = VarianceComponents(v_prompt, v_response), Cost(c_prompt, c_response)
    aim = {"budget": (c_prompt + c_response) * max(goal, 1.001)} if by_budget else {"target_variance": goal}
    assume(aim.get("budget", 0.0) < 1e50)
    plan = allocate(components, cost, **aim)
    assert math.isfinite(plan.variance)
    assert math.isfinite(plan.cost)
    assert 0 <= plan.gap < 1e-6


def test_first_word(capsys):
    for argv, code in (([], 2), (["alocate"], 2), (["--version"], 0), (["allocate", "--help"], 0)):
        with pytest.raises(SystemExit) as leaving:
            main(argv)
        assert leaving.value.code == code
    out, err = capsys.readouterr()
    assert f"mrtsim {mrtsim.__version__}" in out
    assert "examples:" in out
    assert "invalid choice: 'alocate'" in err


def test_messages_name_options(capsys, tmp_path):
    """Where the library asks to set a parameter, but not in what a user wrote."""
    free = ["--v-prompt", "1", "--v-response", "1", "--c-prompt", "1", "--c-response", "0", "--budget", "10"]
    assert main(["allocate", *free]) == 2
    assert capsys.readouterr().err.endswith("a response costs nothing: set --max-responses\n")
    path = tmp_path / "max_responses.csv"
    path.write_text("prompt,max_responses\na,1\n")
    assert main(["pilot", str(path), "--prompt-column", "prompt", "--loss-column", "max_prompts"]) == 2
    told = capsys.readouterr().err
    assert "/max_responses.csv" in told
    assert "(there are: prompt, max_responses)" in told


def test_processes():
    """What only a process shows: the installed command's exit code, a closed pipe, and what is not imported."""
    command = "import sys; from mrtsim.cli import main; code = main(); "
    command += "heavy = {'jax', 'scipy', 'matplotlib', 'pyarrow', 'msgspec'}"
    command += "; print(*heavy & sys.modules.keys(), file=sys.stderr, end=''); sys.exit(code)"
    arguments = [sys.executable, "-c", command, "allocate", *TOY, *COSTS, "--budget", "400"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    short = [sys.executable, "-m", "mrtsim", "--version"]
    assert subprocess.run(short, capture_output=True, text=True).stdout == f"mrtsim {mrtsim.__version__}\n"
    piped = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert piped.stdout is not None
    piped.stdout.close()
    assert piped.stderr is not None
    with piped.stderr:
        assert piped.stderr.read() == ""
    assert piped.wait() == 0


def test_strict_json_and_tables():
    import numpy as np

    value = {
        "a": math.inf,
        "b": [math.nan, 1.5],
        "c": np.float64(2),
        "d": np.array([1, 2]),
        "e": (None, "x", True),
    }
    assert strictly(strict_json(value)) == {
        "a": None,
        "b": [None, 1.5],
        "c": 2.0,
        "d": [1, 2],
        "e": [None, "x", True],
    }
    assert table([("a", 1.0), ("bcd", 12345.6)], ("x", "y")) == "  x        y\n  a        1\n  bcd  12346"


THREE = [
    "--v-group",
    ".06378",
    "--v-prompt",
    ".1332",
    "--v-response",
    ".4926",
    "--c-prompt",
    "2",
    "--c-response",
    "1",
]


def test_three_levels(capsys):
    plan = answer(capsys, *THREE, "--c-group", "4", "--budget", "400")
    assert (plan["n_groups"], plan["prompts_per_group"], plan["responses_per_prompt"]) == (28, 2, 3)
    assert (plan["n_prompts"], plan["c_group"]) == (56, 4)
    assert plan["variance"] == pytest.approx(0.0075886, abs=5e-8)
    assert main(["allocate", *THREE, "--c-group", "4", "--budget", "400"]) == 0
    text = capsys.readouterr().out
    assert ["groups", "28", "M"] in [line.split() for line in text.splitlines()]
    assert "4 per group, 2 per prompt, 1 per response" in text
    for arguments, message in (
        (["--c-group", "4", "--budget", "400", "--redundancy", "3"], "leave redundancy out"),
        (["--budget", "400", "--max-group-size", "3"], "max_group_size needs a cost per group"),
        (["--c-group", "4", "--budget", "400", "--fix-prompts", "3"], "whole groups"),
    ):
        assert message in refusal(capsys, *THREE, *arguments)
    no_groups = ["--v-prompt", "1", "--v-response", "1", *COSTS, "--budget", "400"]
    assert "V_g = 0 would put all prompts" in refusal(capsys, *no_groups, "--c-group", "4")
    assert answer(capsys, *no_groups)["n_groups"] is None


def test_efficiency_compares_plans_with_the_same_fixed_prompts(capsys):
    """The K = 1 plan must keep to the number of prompts too: 30 questions are all there are."""
    questions = ["--v-prompt", ".1013", "--v-response", ".1449", "--c-prompt", "1", "--c-response", "1"]
    fixed = answer(capsys, *questions, "--budget", "1920", "--fix-prompts", "30")
    capped = answer(capsys, *questions, "--budget", "1920", "--max-prompts", "30")
    assert fixed["efficiency"] == capped["efficiency"] == pytest.approx(0.2462 / (0.1013 + 0.1449 / 63))


def test_limits_are_named_once(capsys):
    assert main(["allocate", *TOY, *COSTS, "--budget", "400", "--max-responses", "3"]) == 0
    assert "limited by            budget, max responses" in capsys.readouterr().out

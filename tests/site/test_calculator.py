"""The calculator page in a real browser: its plans are the library's, and people can use it."""

import json
import math
import re
import shlex
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mrtsim.cli import main
from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, allocate
from mrtsim.plan.power_search import allocate_for_power
from mrtsim.plan.rollouts import GradientComponents, best_group, dead_share
from mrtsim.variance import VarianceComponents

PAGE = (Path(__file__).parents[2] / "docs" / "calculator.html").as_uri()
COUNTS = ("max_responses", "max_prompts", "population", "candidates", "n_prompts", "responses_per_prompt")


@pytest.fixture
def page(new_page):
    return new_page(PAGE)


# -- the same plans ---------------------------------------------------------------------------------------------------


def random_case(rng):
    """Small round numbers, where ties are common, or any over many decades; caps, and zeros."""
    if rng.random() < 0.4:
        numbers = rng.integers(1, (60, 60, 8, 8)) * (0.01, 0.01, 0.1, 0.1)
        numbers = [float(f"{x:.2f}") for x in numbers * (rng.random(4) < 0.85)]
        goals = round(rng.integers(1, 90) * 0.1, 1), round(rng.integers(1, 400) * 0.001, 3)
        most = 1.1
    else:
        numbers = [float(f"{x:.{rng.integers(1, 6)}g}") for x in 10 ** rng.uniform(-4, 3, 4)]
        goals = sum(numbers[2:]) * 10 ** rng.uniform(-0.1, 7), sum(numbers[:2]) * 10 ** rng.uniform(-6, 0.1)
        numbers = [x * bool(rng.random() < 0.93) for x in numbers]
        most = 6
    name = ("budget", "target_variance")[rng.integers(2)]
    case = dict(zip(("v_prompt", "v_response", "c_prompt", "c_response"), numbers, strict=True))
    case[name] = float(f"{goals[name != 'budget']:.6g}")
    for count, chance in zip(COUNTS, (0.2, 0.2, 0.2, 0.2, 0.08, 0.08), strict=True):
        if rng.random() < chance:
            case[count] = int(10 ** rng.uniform(0, most))
    return case


def library(case):
    """The library's plan as the page writes it, or None where it refuses."""
    options = dict(case)
    components = VarianceComponents(options.pop("v_prompt"), options.pop("v_response"))
    cost = Cost(options.pop("c_prompt"), options.pop("c_response"))
    try:
        plan = allocate(components, cost, **options)
    except InputError:
        return None
    return {
        "n_prompts": str(plan.n_prompts),
        "responses_per_prompt": str(plan.responses_per_prompt),
        "variance": plan.variance,
        "cost": plan.cost,
        "k_star": repr(plan.k_star),
        "efficiency": repr(plan.efficiency),
        "k_range_5pct": list(map(str, plan.k_range_5pct)),
        "k_range_10pct": list(map(str, plan.k_range_10pct)),
        "bound_by": list(plan.bound_by),
        "gap": plan.gap,
    }


PLANS = """cases => cases.map((typed) => {
  try {
    const { problem, k_star, efficiency, ...found } = plan(typed);
    found.n_prompts = String(found.n_prompts);
    found.responses_per_prompt = String(found.responses_per_prompt);
    for (const range of ["k_range_5pct", "k_range_10pct"]) found[range] = found[range].map(String);
    return { ...found, k_star, efficiency };
  } catch (error) {
    if (!(error instanceof InputError) || !FIELDS[error.field] && error.field !== "target_variance") throw error;
    return null;
  }
})"""


def test_two_thousand_plans_are_those_of_the_library(page):
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(2000)]
    # what was hard before: three prompts of 0.1 in 0.3, ties, ends of the range, no variance, nothing to pay
    toy = {"v_prompt": 0.187, "v_response": 1.329, "c_prompt": 4.0, "c_response": 1.0}
    cases += [
        {"v_prompt": 1.0, "v_response": 0.0, "c_prompt": 0.05, "c_response": 0.05, "budget": 0.3},
        {"v_prompt": 1.0, "v_response": 2.0, "c_prompt": 1.0, "c_response": 0.5, "budget": 4.5},
        {**toy, "budget": 1e15},
        {**toy, "v_prompt": 1e-50, "budget": 1e12, "max_responses": 10**18},
        {**toy, "c_response": 0.0, "budget": 9.0},
        {**toy, "c_prompt": 0.0, "c_response": 0.0, "budget": 9.0, "max_prompts": 7, "max_responses": 3},
        {**toy, "target_variance": 0.0, "population": 20, "candidates": 6},
        {**toy, "v_prompt": 0.0, "v_response": 0.0, "target_variance": 0.0},
        {**toy, "budget": 1e6, "population": 20, "candidates": 6},
        {**toy, "budget": 9.0, "n_prompts": 3, "max_prompts": 2},
        {**toy, "budget": 4.999},
        {**toy, "v_prompt": 1e51, "budget": 400.0},
    ]
    typed = [{name: repr(value) for name, value in case.items()} for case in cases]
    refused = 0
    for case, found in zip(cases, page.evaluate(PLANS, typed), strict=True):
        expected = library(case)
        refused += expected is None
        if found is not None:
            for name in ("k_star", "efficiency"):  # playwright hands on what JSON does not hold
                found[name] = repr(float(found[name]))
        assert found == expected, case
    assert 200 < refused < 600


def test_typed_decimals_are_read_as_the_library_reads_them(page):
    texts = [
        "0.1",
        "1e-7",
        "123456789012345678",
        "0.30000000000000004",
        "1E5",
        ".5",
        "5.",
        "+2",
        "007",
        "1e-50",
    ]
    read = "texts => texts.map((t) => { const f = exact(t, 'budget'); return `${f.n}/${f.d}`; })"
    parts = page.evaluate(read, texts)
    assert [Fraction(part) for part in parts] == [Fraction(repr(float(text))) for text in texts]
    ratios = [(1, 3), (2, 3), (10**40 + 1, 10**40), (1, 10**60), (2**53 + 1, 1), (10**50, 7), (3, 2**200)]
    numbers = page.evaluate(
        "pairs => pairs.map(([n, d]) => new Fraction(BigInt(n), BigInt(d)).toNumber())",
        [[str(n), str(d)] for n, d in ratios],
    )
    assert numbers == [n / d for n, d in ratios]


def fill(page, **fields):
    for name, value in fields.items():
        page.locator(f"#{name}").fill(str(value))


def answer(page, tab="plan"):
    """What the live region says once the page has taken in the last number."""
    page.evaluate("update()")
    return page.locator(f"#answer-{tab}").inner_text()


def test_twenty_plans_through_the_form(page):
    rng = np.random.default_rng(1)
    page.get_by_text("Limits and given numbers").click()
    shown, done = {}, 0
    while done < 20:
        case = random_case(rng)
        expected = library(case)
        if "target_variance" in case or expected is None:
            continue
        done += 1
        wanted = dict.fromkeys(COUNTS, "") | case
        fill(page, **{name: value for name, value in wanted.items() if shown.get(name) != value})
        shown = wanted
        said = re.match(r"([\d.e]+) prompts? with ([\d.e]+) responses? each", answer(page))
        assert said, (case, answer(page))
        for text, name in zip(said.groups(), ("n_prompts", "responses_per_prompt"), strict=True):
            assert text == expected[name], case


def test_other_ways_to_say_the_same(page):
    page.get_by_label("token prices").check()
    page.get_by_label("0/1 scores: mean and icc").check()
    page.get_by_label("target error").check()
    fill(page, standard_error="0.02")
    cost = Cost.from_tokens(prompt_tokens=900, response_tokens=250, price_in=0.5, price_out=1.5)
    plan = allocate(VarianceComponents(0.4 * 0.6 * 0.3, 0.4 * 0.6 * 0.7), cost, target_variance=0.0004)
    assert answer(page).startswith(
        f"{plan.n_prompts} prompts with {plan.responses_per_prompt} responses each"
    )
    page.get_by_label("a prompt is read once for all its responses").uncheck()
    assert "with 1 response each" in answer(page)  # a prompt then costs nothing by itself
    assert "US dollars" in answer(page)


def test_the_command_it_shows_gives_the_same_plan(page, capsys):
    page.get_by_label("token prices").check()
    page.get_by_text("Limits and given numbers").click()
    fill(page, budget="20", max_responses="3", population="90000")
    for goal in ("budget", "target error", "a difference to detect", "between two models like this one"):
        page.locator("label", has_text=re.compile(f"^ *{goal}")).locator("input").first.check()
        fill(page, standard_error="0.05") if goal == "target error" else None
        said = answer(page)
        program, *arguments = shlex.split(page.locator("#command").inner_text())
        assert program == "mrtsim"
        assert main([*arguments, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert said.startswith(
            f"{plan['n_prompts']} prompts with {plan['responses_per_prompt']} responses each"
        ), goal


def test_plans_that_detect_a_difference_are_those_of_the_library(page):
    rng = np.random.default_rng(3)
    cases, plans = [], []
    while len(cases) < 40:
        a, b, p, r = (float(f"{x:.3g}") for x in 10 ** rng.uniform((-2, -2, -1, -1), (1, 1, 1, 1)))
        a, b, p = (x * bool(rng.random() < 0.9) for x in (a, b, p))
        options = {"power": float(rng.choice([0.8, 0.9])), "confidence": float(rng.choice([0.9, 0.95]))}
        detect = float(f"{math.sqrt(a + b + 0.01) * rng.uniform(0.1, 2):.3g}")
        if rng.random() < 0.4:
            options["correlation"] = round(float(rng.uniform(-1, 1)), 2)
        for name, chance in (("max_prompts", 0.2), (COUNTS[rng.integers(4, 6)], 0.3)):
            if rng.random() < chance:
                options[name] = int(10 ** rng.uniform(0.3, 2))
        numbers = {"v_prompt": a, "v_response": b, "c_prompt": p, "c_response": r, "detect": detect}
        try:
            plan = allocate_for_power(VarianceComponents(a, b), Cost(p, r), detect, **options)
        except InputError:
            plan = None
        cases.append({name: repr(value) for name, value in (numbers | options).items()})
        plans.append(plan)
    answers = page.evaluate(
        """cases => cases.map((typed) => {
          try {
            const plan = detectPlan(typed);
            const counts = [plan.n_prompts, plan.responses_per_prompt, ...plan.k_range_5pct, ...plan.k_range_10pct];
            return [counts.map(Number), plan.bound_by, [plan.cost, plan.variance, plan.detectable]];
          } catch (error) { if (!(error instanceof InputError)) throw error; return null; }
        })""",
        cases,
    )
    for case, plan, found in zip(cases, plans, answers, strict=True):
        assert (found is None) == (plan is None), case
        if plan is not None:
            counts, names, numbers = found
            ranges = [*plan.k_range_5pct, *plan.k_range_10pct]
            assert counts == [plan.n_prompts, plan.responses_per_prompt, *ranges], case
            assert tuple(names) == plan.bound_by, case
            assert numbers == pytest.approx([plan.cost, plan.variance, plan.detectable], rel=1e-9), case
    assert sum(plan is not None for plan in plans) > 25
    page.get_by_label("a difference to detect").check()
    fill(page, detect="0.3")
    assert answer(page).startswith("42 prompts with 5 responses each: cost 378")
    page.get_by_label("between two models like this one").check()
    assert answer(page).startswith("65 prompts with 5 responses each of each model")


# -- people -----------------------------------------------------------------------------------------------------------


def test_bad_input_gets_a_message_beside_its_field(page):
    page.get_by_text("Limits and given numbers").click()
    good = {
        "v_prompt": "0.187",
        "budget": "400",
        "max_responses": "",
        "n_prompts": "",
        "responses_per_prompt": "",
    }
    for changes, field, message in [
        ({"v_prompt": "much"}, "v_prompt", "Give a number such as 0.5"),
        ({"v_prompt": "-1"}, "v_prompt", "0 or a number above 0"),
        ({"v_prompt": ""}, "v_prompt", "Give a number"),
        ({"v_prompt": "0,187"}, "v_prompt", "Write 0.187, with a point"),
        ({"v_prompt": "1e60"}, "v_prompt", "Out of range"),
        ({"budget": "4.9"}, "budget", "the least budget is 5"),
        ({"max_responses": "2.5"}, "max_responses", "whole number"),
        ({"n_prompts": "3", "responses_per_prompt": "2"}, "responses_per_prompt", "leave one empty"),
        ({"n_prompts": "3", "max_prompts": "2"}, "n_prompts", "More than the 2"),
        ({"c_response": "0"}, "max_responses", "A response costs nothing"),
    ]:
        fill(page, **{**good, "max_prompts": "", "c_response": "1"} | changes)
        said = answer(page)
        box = page.locator(f"#{field}")
        assert message in page.locator(f"#{field}-error").inner_text(), changes
        assert box.get_attribute("aria-invalid") == "true"
        assert box.get_attribute("aria-describedby") == f"{field}-error"
        assert said.startswith("No plan"), changes
        assert page.locator("#result-plan").inner_text() == ""  # no stale plan
        assert page.locator("[aria-invalid]").count() == 1
    fill(page, c_response="1")
    assert answer(page).startswith("40 prompts with 6 responses each")
    assert page.locator("[aria-invalid]").count() == 0


def test_the_address_holds_the_case(page, new_page):
    page.get_by_label("token prices").check()
    fill(page, v_prompt="0.05", price_in="3", budget="10")
    said = answer(page)
    assert answer(new_page(page.url)) == said
    page.get_by_role("tab", name="RL group size").click()
    fill(page, mean="0.1")
    said = answer(page, "group")
    assert answer(new_page(page.url), "group") == said
    page.goto(PAGE + "#v_prompt=<img src=x onerror=alert(1)>&goal=nonsense")
    assert "not “<img" in page.locator("#v_prompt-error").inner_text()
    assert page.locator("img").count() == 0


STATES = (
    "",
    "#goal=detect&two_models=yes",
    "#max_responses=x",
    "#v_prompt=1e-9&budget=1e15",
    "#goal=error&variance=scores&costs=tokens",
)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(new_page, width):
    page = new_page(PAGE, width)
    for state in (*STATES, "#tab=group&best=yes", "#tab=group&rates=beta&alpha=-1"):
        page.goto(PAGE + state)
        page.evaluate("readState()")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert page.evaluate(
            "[...document.querySelectorAll('svg')].every((s) => s.clientWidth <= innerWidth)"
        )


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-plan"
    page.keyboard.press("Tab")  # the radio buttons of the variance
    page.keyboard.press("ArrowDown")
    assert page.get_by_label("0/1 scores: mean and icc").is_checked()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "v_prompt"
    page.keyboard.press("Control+A")
    page.keyboard.type("1.329")
    plan = allocate(VarianceComponents(1.329, 1.329), Cost(4.0, 1.0), budget=400.0)
    assert answer(page).startswith(f"{plan.n_prompts} prompts with {plan.responses_per_prompt} responses")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "v_prompt-slider"
    page.keyboard.press("Home")
    assert page.locator("#v_prompt").input_value() == "0.0001"
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or page.evaluate("document.activeElement === document.body")
    assert {"v_response", "v_response-slider", "c_prompt", "c_response", "budget", "SUMMARY"} <= reached
    page.locator("#tab-plan").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-group"
    assert page.locator("#panel-group").is_visible()
    assert not page.locator("#panel-plan").is_visible()


def test_what_a_screen_reader_is_told(page):
    page.goto(PAGE + "#max_responses=4")
    session = page.context.new_cdp_session(page)
    nodes = [n for n in session.send("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    roles = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node)
    for role in (
        "textbox",
        "slider",
        "radio",
        "checkbox",
        "radiogroup",
        "tab",
        "form",
        "image",
        "region",
        "table",
    ):
        for node in roles.get(role, []):
            assert node["name"]["value"].strip() or role == "table", (role, node)

    def names(role):
        return [node["name"]["value"] for node in roles[role]]

    assert names("tab") == ["Plan a budget", "RL group size"]
    assert names("tabpanel") == ["Plan a budget"]
    assert len(names("textbox")) == len(set(names("textbox"))) == 11
    assert "Between prompts, Vx (squared units of the loss)" in names("textbox")
    assert names("slider") == ["Between prompts, Vx, slider", "Between responses, Vy|x, slider"]
    assert "K = 4" in names("image")[0]
    (status,) = roles["status"]
    assert {p["name"]: p["value"]["value"] for p in status["properties"]}["live"] == "polite"
    assert page.evaluate("document.documentElement.lang") == "en"
    # every number of the picture is in the table beside it
    assert page.get_by_role("row", name="4 50 0.01039 400 +0.0 %").count() == 1


CONTRAST = """() => {
  const shown = "h1, p, label, small, legend, dt, dd, th, td, button, .error, svg text";
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3)
    .reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    const color = getComputedStyle(e).backgroundColor;
    return /, 0\\)$/.test(color) ? behind(e.parentElement) : color;
  };
  return [...document.querySelectorAll(shown)].filter((e) => e.getClientRects().length).map((e) => {
    const style = getComputedStyle(e);
    const pair = [light(e.tagName === "text" ? style.fill : style.color), light(behind(e))];
    const [a, b] = pair.sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(new_page, scheme):
    page = new_page(PAGE, scheme=scheme)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    for state in ("", "#max_responses=x", "#tab=group&best=yes"):
        page.goto(PAGE + state)
        page.evaluate("readState()")
        ratios = page.evaluate(CONTRAST)
        assert len(ratios) > 20
        assert min(ratios) >= 4.5  # WCAG 2, level AA


def test_nothing_is_asked_of_another_host(new_page):
    page = new_page(PAGE)
    page.get_by_role("tab", name="RL group size").click()
    page.get_by_label("find the best G").check()
    fill(page, signal="0.2")
    answer(page, "group")
    assert [url.split("#")[0] for url in page.asked] == [PAGE]


# -- group size for RL ------------------------------------------------------------------------------------------------


def test_dead_groups(page):
    # Beta(.6, 1.8): .735294, .520499, .359267, .243718; U(0, 1): 2/(G + 1); all rates .1819
    shares = "([rates, sizes]) => sizes.map((g) => deadShare(successRates(rates), g))"
    beta = page.evaluate(shares, [{"rates": "beta", "alpha": "0.6", "beta": "1.8"}, [2, 4, 8, 16]])
    assert beta == pytest.approx([0.735294, 0.520499, 0.359267, 0.243718], abs=5e-7)
    uniform = page.evaluate(shares, [{"rates": "beta", "alpha": "1", "beta": "1"}, [2, 4, 8, 16]])
    assert uniform == pytest.approx([2 / (g + 1) for g in (2, 4, 8, 16)], rel=1e-14)
    same = page.evaluate(shares, [{"rates": "mean", "mean": "0.1819", "icc": "0"}, [2, 4, 8, 16]])
    assert same == pytest.approx([0.7024, 0.4490, 0.2007, 0.0403], abs=5e-5)
    assert page.evaluate(shares, [{"rates": "mean", "mean": "0.3", "icc": "1"}, [2, 64]]) == [1, 1]


def test_best_group_is_that_of_the_library(page):
    page.get_by_role("tab", name="RL group size").click()
    page.get_by_label("Beta(alpha, beta)").check()
    page.get_by_label("find the best G").check()
    for signal, size in (("0.01", 11), ("0.05", 6), ("0.2", 4)):
        fill(page, signal=signal)
        assert answer(page, "group").startswith(f"Best group size G = {size},")
    rng = np.random.default_rng(2)
    cases = []
    for _ in range(200):
        mean, icc, coherence = (round(float(x), 2) for x in rng.uniform(0.01, 0.99, 3))
        signal = round(float(rng.random() ** 3), 3) or 0.001
        p, r = (int(x) for x in (rng.integers(0, 9), rng.integers(1, 4)))
        cases.append([mean, icc, signal, coherence, p, r, int(rng.integers(p + 2 * r, 3000))])
    found = page.evaluate(
        """cases => cases.map((numbers) => {
          const [mean, icc, signal, coherence, p, r, budget] = numbers.map((x) => exact(String(x), "budget"));
          const best = bestGroup(gradientParts({ mean, icc }, signal, coherence), { p, r, budget });
          return [Number(best.size), Number(best.prompts), best.variance, deadShare({ mean, icc }, Number(best.size))];
        })""",
        cases,
    )
    for case, (size, prompts, variance, dead) in zip(cases, found, strict=True):
        mean, icc, signal, coherence, p, r, budget = case
        components = GradientComponents.of(mean * (1 - mean) * (1 - icc), signal, coherence)
        plan = best_group(components, Cost(p, r), budget=budget)
        assert (size, prompts) == (plan.group_size, plan.n_prompts), case
        assert variance == pytest.approx(plan.variance, rel=1e-9)
        total = (1 - icc) / icc  # alpha + beta
        assert dead == pytest.approx(dead_share(mean * total, (1 - mean) * total, size), rel=1e-9)


def test_bad_groups_get_messages(page):
    for state, field in (
        ("mean=2", "mean"),
        ("rates=beta&alpha=0", "alpha"),
        ("best=yes&rl_budget=1", "rl_budget"),
        ("best=yes&icc=1", "icc"),
        ("best=yes&signal=1.5", "signal"),
        ("best=yes&signal=0", "signal"),
        ("best=yes&coherence=1", "coherence"),
        ("best=yes&rl_response=0", "rl_response"),
    ):
        page.goto(f"{PAGE}#tab=group&{state}")
        page.evaluate("readState()")
        assert page.locator(f"#{field}-error").is_visible(), state
        assert answer(page, "group").startswith("No answer"), state

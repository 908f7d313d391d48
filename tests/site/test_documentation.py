"""The documentation site: it builds strictly, is complete, and asks no other host for anything."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mrtsim

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
SITE = ROOT / "build" / "site"


@pytest.fixture(scope="module")
def site():
    """The site, built anew; needs the extra `docs`."""
    pytest.importorskip("zensical", reason="the documentation's tools are not installed: make docs")
    done = subprocess.run(
        [sys.executable, "docs/build.py"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SITE


@pytest.fixture
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_page_is_in_the_navigation():
    folders = [ROOT / "docs", ROOT / "docs" / "guides", ROOT / "docs" / "notebooks"]
    for page in [page for folder in folders for kind in ("*.md", "*.ipynb") for page in folder.glob(kind)]:
        name = page.relative_to(ROOT).with_suffix(".md").as_posix()
        assert re.search(rf": {re.escape(name)}$", CONFIG, re.M), name


@pytest.mark.xdist_group("site")
def test_the_site_is_whole_and_asks_no_other_host(site, served, new_page):
    # every public name has its entry
    inventory = site.joinpath("objects.inv").read_bytes()
    assert inventory.startswith(b"# Sphinx inventory version 2")
    reference = "".join(page.read_text(encoding="utf-8") for page in site.glob("docs/api/*.html"))
    for name in mrtsim.__all__:
        assert f'id="mrtsim.{name}"' in reference, name
    theory = site.joinpath("docs/theory.html").read_text(encoding="utf-8")
    assert "<sub>y|x</sub>" in theory
    assert theory.count("<math ") > 15  # its quoted formulas
    assert "<mi>\\" not in theory  # no LaTeX command was left as it is
    assert "<math " in site.joinpath("docs/guides/duplicates.html").read_text(encoding="utf-8")

    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for path in pages:  # nothing is loaded from elsewhere, whether or not a browser gets there
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]* src="([^"]*)"', text)
        loaded += re.findall(
            r'<link[^>]*rel="(?:stylesheet|icon|preconnect|preload)"[^>]*href="([^"]*)"', text
        )
        assert not [url for url in loaded if "//" in url], path

    page = new_page(served)
    for name in ("docs/start.html", "docs/api/plan.html", "docs/calculator.html", "paper_repro.html"):
        page.goto(served + name)
    page.goto(served + "docs/start.html")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Control+k")
    page.keyboard.type("redundant")
    page.get_by_text(re.compile(r"^[1-9]\d* results?$")).wait_for()
    page.get_by_text("Redundant corpora").first.wait_for()
    assert len(page.asked) > 10
    assert all(url.startswith((served, "data:", "blob:")) for url in page.asked)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "the spread V_x, and V_{y|x}.",
            "the spread <span>V<sub>x</sub></span>, and <span>V<sub>y|x</sub></span>.",
        ),
        ("S_1²/N_p", "<span>S<sub>1</sub></span>²/<span>N<sub>p</sub></span>"),
        ("`V_x` and n_prompts, k_star", "<code>V_x</code> and n_prompts, k_star"),
        ("[E_x](N_p.md)", '<a href="N_p.md"><span>E<sub>x</sub></span></a>'),
        ("between $5 and $6, or $HOME", "between $5 and $6, or $HOME"),
        ("`$x$` is $x$", None),
    ],
)
def test_formulas_become_mathml_and_symbols_get_subscripts(text, shown, monkeypatch):
    pytest.importorskip("latex2mathml", reason="the documentation's tools are not installed: make docs")
    markdown = pytest.importorskip("markdown")
    monkeypatch.syspath_prepend(ROOT / "docs")
    html = markdown.markdown(text, extensions=["mathml"])
    if shown is None:
        assert re.fullmatch(r"<p><code>\$x\$</code> is <math [^>]*><mrow><mi>x</mi></mrow></math></p>", html)
    else:
        assert html == f"<p>{shown}</p>"


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        (
            "Var L̂ = V_x / N_p + V_{y|x} / (N_p K)",
            r"\operatorname{Var} \hat{L} = V_x / N_p + V_{y|x} / (N_p K)",
        ),
        ("K\\* = √( (V_{y|x} / V_x) (C_p / C_r) )", r"K^* = \sqrt{ (V_{y|x} / V_x) (C_p / C_r) }"),
        ("K_eff = s²_kept κ₂₂, l_ijk − 1", r"K_{\text{eff}} = s^{2}_{\text{kept}} κ_{22},\quad l_{ijk} - 1"),
        (
            "Var = {V_x + E A} / N; f(a, b) ≤ K^−c",
            r"\operatorname{Var} = \{V_x + E A\} / N;\quad f(a, b) \leq  K^{-c}",
        ),
        ("rows weighted equally: Σ K_i", r"\text{ rows weighted equally: } \sum  K_i"),
    ],
)
def test_plain_formulas_become_latex(plain, latex, monkeypatch):
    pytest.importorskip("latex2mathml", reason="the documentation's tools are not installed: make docs")
    monkeypatch.syspath_prepend(ROOT / "docs")
    from mathml import latex_of

    assert latex_of(plain) == latex

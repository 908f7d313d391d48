"""Engines beyond one process: the same pilot and the same kept rows, where prompts stand across shards.

Each engine is a process of its own: with its own home, two workers, and warnings that are no errors.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mrtsim as mrt

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "engines.md"
PROMPTS, CANDIDATES, SHARDS = 40, 7, 6
RECIPES = dict(
    re.findall(r"^## (\w+)\n(?:(?!^## ).)*?^```py\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
)
# What a recipe's process prints at its end.
REPORT = """
import json
def rows_of(kept):
    kept = kept.to_pandas() if hasattr(kept, "to_pandas") else kept
    return sorted(zip(map(str, kept["prompt_id"]), map(int, kept["response_id"])))
print(json.dumps({"estimate": estimate.to_dict(), "kept": rows_of(kept)}))
"""
LISTS = """
lists = kept_lists.to_pandas()
print(json.dumps(sorted((p, int(r)) for p, rs in zip(lists["prompt_id"], lists["response_id"]) for r in rs)))
"""


@pytest.fixture
def pool(tmp_path):
    """Shards of a pool whose rows are shuffled within their prompt's order, so that every shard has parts of pools."""
    rng = np.random.default_rng(0)
    n = PROMPTS * CANDIDATES
    table = pa.table(
        {
            "prompt_id": [f"p{i // CANDIDATES}" for i in range(n)],
            "response_id": [i % CANDIDATES for i in range(n)],
            "loss": rng.gamma(2, size=n) + np.repeat(rng.normal(size=PROMPTS), CANDIDATES),
            "reward": rng.integers(0, 3, n).astype(float),  # with ties
            "embedding": list(rng.normal(size=(n, 4))),
        }
    )
    # every response of number r before those of number r + 1: the candidates of a prompt keep their order
    table = table.take(np.argsort(np.arange(n) % CANDIDATES, kind="stable"))
    (tmp_path / "pool").mkdir()
    size = -(-n // SHARDS)
    for shard in range(SHARDS):
        pq.write_table(
            table.slice(shard * size, size), tmp_path / "pool" / f"{shard}.parquet", row_group_size=20
        )
    return table


def kept_by_one(pool, strategy, k, **options):
    kept = mrt.select_table(pool, strategy, k, **options)
    return sorted(
        [p, r] for p, r in zip(kept["prompt_id"].to_pylist(), kept["response_id"].to_pylist(), strict=True)
    )


def close(found, pool):
    whole = json.loads(json.dumps(mrt.estimate_components(pool["loss"], pool["prompt_id"]).to_dict()))
    assert found["components"]["prompt"]["estimate"] == pytest.approx(
        whole["components"]["prompt"]["estimate"], rel=1e-12
    )
    assert found["components"]["response"]["estimate"] == pytest.approx(
        whole["components"]["response"]["estimate"], rel=1e-12
    )


def process(arguments, folder):
    """Run Python with its own home, and give what it printed."""
    environment = os.environ | {
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.stress
@pytest.mark.parametrize("strategy", ["rkon", "dbkon"])
def test_ray_data(pool, tmp_path, strategy):
    """Blocks of 10 rows, so that a prompt's rows are in several; the object store is capped."""
    pytest.importorskip("ray.data")
    options = "--cpus 2 --store-mb 100 --batch-size 10 --buckets 4 -k 3 --seed 5 --out kept --strategy"
    printed = process([ROOT / "examples" / "ray_data.py", "pool", *options.split(), strategy], tmp_path)
    close(json.loads(printed.splitlines()[-1]), pool)
    kept = pq.read_table(tmp_path / "kept")
    assert kept.schema.names == pool.schema.names
    rows = zip(kept["prompt_id"].to_pylist(), kept["response_id"].to_pylist(), strict=True)
    assert sorted(map(list, rows)) == kept_by_one(pool, strategy, 3, seed=5)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "module"), [("Spark", "pyspark"), ("Dask", "dask"), ("datasets", "datasets")]
)
def test_the_recipes_of_the_guide(pool, tmp_path, name, module):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    for file in (tmp_path / "pool").iterdir():  # the recipes select by reward alone
        pq.write_table(pq.read_table(file).drop_columns(["embedding"]), file)
    code = RECIPES[name] + REPORT + (LISTS if name == "datasets" else "")
    (tmp_path / "recipe.py").write_text(
        code if name == "Spark" else f"if __name__ == '__main__':\n{indented(code)}"
    )
    printed = process(["recipe.py"], tmp_path).splitlines()
    lines = [json.loads(line) for line in printed if line.startswith(("{", "["))]
    close(lines[0]["estimate"], pool)
    for kept in (lines[0]["kept"], *lines[1:]):
        assert kept == kept_by_one(pool, "bkon", 3)


def indented(code):
    return "".join(f"    {line}\n" if line else "\n" for line in code.splitlines())


def test_the_guide_has_the_recipes():
    assert set(RECIPES) == {"Spark", "Dask", "datasets"}
    for code in RECIPES.values():
        compile(code, "recipe", "exec")

import csv
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

import mrtsim as mrt
from mrtsim.cli import main
from mrtsim.errors import InputError
from mrtsim.selection import chooser
from mrtsim.selection.chooser import Chooser
from mrtsim.selection.select import _keep_block
from mrtsim.selection.select_file import Columns, select_file, select_table
from mrtsim.tables import chunks
from mrtsim.tables.cut import cut_record
from tests.tables.writers import rows_of, write

PROMPTS, N, D, K = 7, 9, 5, 4
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "pool_smollm2.parquet"


def candidates(seed=0, ragged=False):
    """Rows of PROMPTS pools, with a text column that needs quoting and ids that look like numbers."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(PROMPTS):
        for response in range(N - (prompt % 3 if ragged else 0)):
            rows.append(
                {
                    "prompt_id": f"{prompt:03d}",
                    "text": f'say "{response}",\nplease — é',
                    "reward": float(np.round(rng.normal(), 3)),
                    "embedding": [float(v) for v in np.round(rng.normal(size=D), 3)],
                    "loss": float(rng.gamma(2.0)),
                }
            )
    return rows


def read(path):
    """Records, with the numbers of CSV as numbers."""
    rows = rows_of(path)
    if path.suffix == ".csv":
        rows = [
            {**r, **{n: float(r[n]) for n in ("reward", "loss") if isinstance(r.get(n), str)}} for r in rows
        ]
    return rows


def lists(rows):
    """The same pools with one row per prompt."""
    out = {}
    for row in rows:
        pool = out.setdefault(
            row["prompt_id"],
            {"prompt_id": row["prompt_id"], "text": [], "reward": [], "embedding": [], "note": [1.5]},
        )
        for name in ("text", "reward", "embedding"):
            pool[name].append(row[name])
    return list(out.values())


def expected(rows, strategy):
    """Rows that `select` keeps, prompt by prompt."""
    kept = []
    for prompt in dict.fromkeys(r["prompt_id"] for r in rows):
        at = [i for i, r in enumerate(rows) if r["prompt_id"] == prompt]
        rewards = np.array([[rows[i]["reward"] for i in at]])
        embeddings = np.array([[rows[i]["embedding"] for i in at]], np.float32)
        needs = {"bkon": {"rewards": rewards}, "dkon": {"embeddings": embeddings}}.get(
            strategy, {"rewards": rewards, "embeddings": embeddings}
        )
        kept += [at[j] for j in mrt.select(strategy, K, **needs)[0]]
    return [rows[i] for i in sorted(kept)]


@pytest.mark.parametrize("strategy", ["bkon", "dbkon", "filtered-max-min"])
@pytest.mark.parametrize("layout", [list, lists])
def test_of_ranks_the_lowest_are_the_best(tmp_path, strategy, layout):
    """As if the rewards had the other sign, but for the report, which has them as they stand."""
    rows = candidates()
    for row in rows:
        row["rank"] = -row["reward"]
    best = expected(rows, strategy)
    pools = [pool | {"rank": [-r for r in pool["reward"]]} for pool in lists(rows)]
    path = write(tmp_path / "in.jsonl", rows if layout is list else pools)
    columns = Columns(reward="rank", lower_is_better=True)
    report = select_file(path, tmp_path / "out.jsonl", strategy, K, columns=columns)
    kept = rows_of(tmp_path / "out.jsonl")
    ranks = np.concatenate([np.atleast_1d(row["rank"]) for row in kept]).tolist()
    assert ranks == [row["rank"] for row in best]
    assert report.reward_kept == pytest.approx(np.mean(ranks))
    assert report.reward_kept < report.reward_pool
    assert report.notes == []


@pytest.mark.parametrize(
    ("column", "strategy", "lower", "told"),
    [
        ("answers.rank", "bkon", None, True),
        ("answers.rank", "bkon", False, False),
        ("answers.rank", "rkon", None, False),
        ("nll_per_token", "bkon", None, True),
        ("frank", "bkon", None, False),
    ],
)
def test_a_reward_column_that_sounds_like_a_loss_is_told(tmp_path, column, strategy, lower, told):
    outer, _, inner = column.partition(".")
    pool = [{inner: 1.0}, {inner: 2.0}] if inner else [1.0, 2.0]
    path = write(tmp_path / "in.jsonl", [{"prompt_id": f"p{i}", outer: pool} for i in range(3)])
    columns = Columns(reward=column, lower_is_better=lower)
    notes = select_file(path, tmp_path / "out.jsonl", strategy, 1, columns=columns).notes
    assert any("say --lower-is-better" in note for note in notes) == told


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("strategy", ["bkon", "dkon", "dbkon", "filtered-max-min"])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_file_keeps_what_select_keeps(tmp_path, suffix, strategy, ragged):
    rows = candidates(ragged=ragged)
    source, out = write(tmp_path / f"pool{suffix}", rows), tmp_path / f"kept{suffix}"
    report = select_file(source, out, strategy, K)
    assert read(out) == expected(rows, strategy)
    assert (report.prompts, report.candidates, report.kept) == (PROMPTS, len(rows), PROMPTS * K)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("strategy", ["bkon", "dbkon"])
@pytest.mark.parametrize("chunk", [3, 16384])
def test_prompts_scattered_over_the_file_and_small_chunks_change_nothing(
    tmp_path, monkeypatch, suffix, strategy, chunk
):
    monkeypatch.setattr(chunks, "ROWS", chunk)
    monkeypatch.setattr(chunks, "BYTES", chunk * 100)
    rows = candidates()
    together = write(tmp_path / f"pool{suffix}", rows)
    select_file(together, tmp_path / f"kept{suffix}", strategy, K)
    assert read(tmp_path / f"kept{suffix}") == expected(rows, strategy)
    # Interleaved prompts, each one's candidates still in their order.
    mixed = [row for j in range(N) for row in rows[j::N]]
    source = write(tmp_path / f"mixed{suffix}", mixed)
    report = select_file(source, tmp_path / f"kept-mixed{suffix}", strategy, K)
    kept = read(tmp_path / f"kept-mixed{suffix}")
    chosen = expected(rows, strategy)
    assert kept == [row for row in mixed if row in chosen]
    assert report.kept == PROMPTS * K
    assert not list(tmp_path.glob(".*")), "temporary files stay behind"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("strategy", ["bkon", "dbkon", "rkon"])
def test_a_row_a_prompt_keeps_the_row_and_cuts_its_lists(tmp_path, suffix, strategy):
    rows = candidates(ragged=True)
    source, out = write(tmp_path / f"pool{suffix}", lists(rows)), tmp_path / f"kept{suffix}"
    select_file(source, out, strategy, K)
    kept = read(out)
    assert [r["prompt_id"] for r in kept] == [f"{i:03d}" for i in range(PROMPTS)]
    for row in kept:
        assert row["note"] == [1.5]
        assert len(row["text"]) == len(row["reward"]) == len(row["embedding"]) == K
    if strategy != "rkon":
        flat = [
            (row["prompt_id"], *item)
            for row in kept
            for item in zip(row["text"], row["reward"], map(tuple, row["embedding"]), strict=True)
        ]
        assert flat == [
            (r["prompt_id"], r["text"], r["reward"], tuple(r["embedding"])) for r in expected(rows, strategy)
        ]


def test_fixed_width_lists_of_parquet_are_cut(tmp_path):
    rng = np.random.default_rng(0)
    vectors = pa.list_(pa.list_(pa.float32(), 3), 6)
    table = pa.table(
        {
            "prompt_id": ["a", "b"],
            "reward": pa.array(rng.normal(size=(2, 6)).tolist(), pa.list_(pa.float32(), 6)),
            "embedding": pa.array(rng.normal(size=(2, 6, 3)).tolist(), vectors),
            "profile": pa.array(rng.normal(size=(2, 4)).tolist(), pa.list_(pa.float32(), 4)),
        }
    )
    pq.write_table(table, tmp_path / "pool.parquet")
    select_file(tmp_path / "pool.parquet", tmp_path / "kept.parquet", "dbkon", 2)
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert [len(r) for r in kept["reward"].to_pylist()] == [2, 2]
    assert [len(e) for e in kept["embedding"].to_pylist()] == [2, 2]
    assert kept["profile"] == table["profile"]
    assert kept.schema.field("embedding").type == pa.list_(pa.list_(pa.float32(), 3))


def test_csv_and_jsonl_records_are_copied_byte_for_byte(tmp_path):
    text = (
        "\ufeffprompt_id,reward,note\r\n"
        '007,1.50,"a ""quoted"", cell\r\nof two lines"\r\n'
        "007,0.5e0,b\r\n"
        "7, 2.0,c\r\n"
        "\r\n"
        "7,1,d"
    )
    (tmp_path / "pool.csv").write_bytes(text.encode())
    select_file(tmp_path / "pool.csv", tmp_path / "kept.csv", "bkon", 1)
    assert (tmp_path / "kept.csv").read_bytes() == (
        '\ufeffprompt_id,reward,note\r\n007,1.50,"a ""quoted"", cell\r\nof two lines"\r\n7, 2.0,c\r\n'
    ).encode()
    lines = [
        b'{"prompt_id":7,"reward":1.0, "x":1e400,"big":123456789012345678901234567890}\n',
        b'{"reward":2.50,"prompt_id":7,"absent":null}\n',
        b'{"prompt_id":"007","reward":1}\r\n',
    ]
    (tmp_path / "pool.jsonl").write_bytes(b"".join(lines))
    select_file(tmp_path / "pool.jsonl", tmp_path / "kept.jsonl", "bkon", 1)
    assert (tmp_path / "kept.jsonl").read_bytes() == b"".join(lines[1:])


def test_a_cut_leaves_all_else_as_it_stands():
    text = '{ "a" : [ 1.50 , 2e0,3 ],"b":"[1,2,3]", "c":[[1],[2, 2],[3]], "d":{"e":[1,2,3]},"f":[1,2] }\n'
    keep = np.array([True, False, True])
    kept = cut_record(text, [["a"], ["c"]], keep, 0)
    assert kept == '{ "a" : [ 1.50 , 3 ],"b":"[1,2,3]", "c":[[1],[3]], "d":{"e":[1,2,3]},"f":[1,2] }\n'
    kept = cut_record(text, [["d", "e"], ["b"]], keep, 0)
    assert kept == text.replace('{"e":[1,2,3]}', '{"e":[1,3]}').replace('"[1,2,3]"', '"[1,3]"')


def test_random_strategies_repeat_and_are_nested(tmp_path):
    source = write(tmp_path / "pool.jsonl", candidates())
    kept = {}
    for k in (2, 3):
        select_file(source, tmp_path / f"{k}.jsonl", "rkon", k, seed=5)
        kept[k] = read(tmp_path / f"{k}.jsonl")
    assert all(row in kept[3] for row in kept[2])
    select_file(source, tmp_path / "again.jsonl", "rkon", 2, seed=5)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    select_file(source, tmp_path / "other.jsonl", "rkon", 2, seed=6)
    assert (tmp_path / "other.jsonl").read_bytes() != (tmp_path / "2.jsonl").read_bytes()


def test_the_report_adds_up(tmp_path):
    rows = candidates()
    source = write(tmp_path / "pool.jsonl", rows)
    report = select_file(source, tmp_path / "kept.jsonl", "dbkon", K, columns=Columns(loss="loss"))
    kept = read(tmp_path / "kept.jsonl")
    assert report.reward_pool == pytest.approx(np.mean([r["reward"] for r in rows]))
    assert report.reward_kept == pytest.approx(np.mean([r["reward"] for r in kept]))
    assert report.loss_kept == pytest.approx(np.mean([r["loss"] for r in kept]))

    def similarity(rows, size):
        units = np.array([r["embedding"] for r in rows]).reshape(PROMPTS, size, D)
        units /= np.linalg.norm(units, axis=-1, keepdims=True)
        gram = (1 + units @ units.swapaxes(1, 2)) / 2
        return (gram.sum((1, 2)) - size) / (size * (size - 1))

    assert report.similarity_pool == pytest.approx(similarity(rows, N).mean(), rel=1e-5)
    score = similarity(kept, K)
    assert report.similarity_kept == pytest.approx(score.mean(), rel=1e-5)
    assert report.similarity_score == pytest.approx((K / (1 + (K - 1) * score)).mean(), rel=1e-5)
    pool_score = K / (1 + (K - 1) * similarity(rows, N))
    assert report.similarity_score_rkon == pytest.approx(pool_score.mean(), rel=1e-5)


def test_shifts_have_the_standard_error_of_the_prompts_and_rkon_beside_them(tmp_path):
    rows = candidates()
    source = write(tmp_path / "pool.jsonl", rows)
    report = select_file(source, tmp_path / "kept.jsonl", "bkon", K, columns=Columns(loss="loss"))
    rewards = np.array([r["reward"] for r in rows]).reshape(PROMPTS, N)
    shift = np.sort(rewards, axis=1)[:, -K:].mean(axis=1) - rewards.mean(axis=1)
    error = shift.std(ddof=1) / np.sqrt(PROMPTS)
    assert report.reward_rkon == report.reward_pool
    assert report.reward_shift.value == pytest.approx(shift.mean())
    assert report.reward_shift.standard_error == pytest.approx(error)
    half = stats.t.ppf(0.975, PROMPTS - 1) * error
    assert report.reward_shift.low == pytest.approx(shift.mean() - half)
    # Of prompts that are dropped nothing is kept: what RKoN would keep leaves them out too.
    source = write(tmp_path / "ragged.jsonl", rows[:1] + rows[N:])
    report = select_file(source, tmp_path / "kept.jsonl", "bkon", K, short_pools="drop")
    assert report.reward_rkon == pytest.approx(rewards[1:].mean())
    assert report.reward_shift.value == pytest.approx(shift[1:].mean())


def test_a_random_choice_shifts_by_chance_only(tmp_path):
    source = write(tmp_path / "pool.jsonl", candidates())
    for seed in range(5):
        report = select_file(source, tmp_path / "kept.jsonl", "rkon", K, seed=seed)
        assert abs(report.reward_shift.value) < 4 * report.reward_shift.standard_error


def test_picks_that_add_nothing_are_counted_and_said(tmp_path, capsys):
    # The best candidate is like all others: whatever comes second adds nothing.
    rows = [
        {"prompt_id": str(i), "reward": float(j), "embedding": [1.0, 0.01 * j]}
        for i in range(3)
        for j in range(4)
    ]
    source = write(tmp_path / "pool.jsonl", rows)
    arguments = [
        "select",
        str(source),
        "--strategy",
        "dbkon",
        "-k",
        "2",
        "--out",
        str(tmp_path / "kept.jsonl"),
    ]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "3 of 6 picks added nothing to the objective: they follow the file's order\n" in shown
    assert [r["reward"] for r in read(tmp_path / "kept.jsonl")] == [0.0, 3.0] * 3
    assert main([*arguments, "--ties", "reward", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saturated_picks"] == 3
    assert [r["reward"] for r in read(tmp_path / "kept.jsonl")] == [2.0, 3.0] * 3
    assert main([*arguments, "--option", "ties=reward", "--option", "alpha=2"]) == 0
    assert "they follow --ties reward" in capsys.readouterr().out


@pytest.mark.parametrize("ties", ["reward", "diverse", "random"])
def test_but_for_index_the_order_of_the_rows_does_not_matter(tmp_path, ties):
    rows = candidates()
    kept = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        source = write(tmp_path / "pool.jsonl", [rows[i] for i in order] if seed else rows)
        select_file(source, tmp_path / "kept.jsonl", "dbkon", K, alpha=2.0, ties=ties)
        kept.append(sorted((r["prompt_id"], r["reward"]) for r in read(tmp_path / "kept.jsonl")))
    assert kept[0] == kept[1] == kept[2]


def test_short_pools_stop_are_kept_or_are_dropped(tmp_path):
    rows = candidates(ragged=True)
    source, out = write(tmp_path / "pool.csv", rows), tmp_path / "kept.csv"
    with pytest.raises(InputError, match="prompt '001' has 8 candidates, fewer than -k 9"):
        select_file(source, out, "bkon", 9)
    assert not out.exists()
    report = select_file(source, out, "bkon", 9, short_pools="keep")
    assert read(out) == rows
    report = select_file(source, out, "bkon", 9, short_pools="drop")
    assert {r["prompt_id"] for r in read(out)} == {"000", "003", "006"}
    assert report.short_pools == 4


@pytest.mark.parametrize(
    ("ids", "options", "why"),
    [
        (["a", "a", "b", "b"], {"short_pools": "drop"}, "every prompt has fewer than 3 candidates: lower k"),
        ([None] * 4, {"missing_ids": "drop"}, "every row misses an id"),
    ],
)
@pytest.mark.parametrize("scattered", [False, True])
def test_a_selection_that_keeps_nothing_is_refused(tmp_path, ids, options, why, scattered):
    rows = [{"prompt_id": p, "reward": i} for i, p in enumerate(ids[::2] + ids[1::2] if scattered else ids)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=rf"pool\.jsonl: nothing is left to keep: {why}"):
        select_file(tmp_path / "pool.jsonl", tmp_path / "kept.jsonl", "bkon", 3, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["pool.jsonl"]
    # A part of a table may have nothing to keep.
    table = pa.table({"prompt_id": pa.array(ids, pa.string()), "reward": [1.0, 2, 3, 4]})
    assert select_table(table, "bkon", 3, **options).num_rows == 0


def test_kept_rows_do_not_go_to_a_name_of_another_format(tmp_path):
    """Parquet in a file that is called .jsonl, of which the content counts."""
    pq.write_table(pa.table({"prompt_id": ["a", "a"], "reward": [1.0, 2.0]}), tmp_path / "pool.jsonl")
    with pytest.raises(
        InputError, match=r"kept rows stay in the input's format, parquet, so it must end in \.parquet"
    ):
        select_file(tmp_path / "pool.jsonl", tmp_path / "kept.jsonl", "bkon", 1)
    select_file(tmp_path / "pool.jsonl", tmp_path / "kept.parquet", "bkon", 1)
    assert pq.read_table(tmp_path / "kept.parquet").to_pylist() == [{"prompt_id": "a", "reward": 2.0}]


JSON_ROW = '{"prompt_id":"a","reward":1.0,"embedding":[1.0,0.0]}\n'
BAD = [
    ("pool.csv", b"", "is empty"),
    ("pool.csv", b"prompt_id,reward\n", "no rows"),
    ("pool.csv", b"id,reward\n1,2\n", r"no column 'prompt_id' \(there are: id, reward\).*--prompt-column"),
    ("pool.csv", b"prompt_id,score\n1,2\n", "no column 'reward'.*--reward-column"),
    ("pool.csv", b"prompt_id,reward\na,1\na,x\n", "line 3, column 'reward': 'x' is not a finite number"),
    ("pool.csv", b"prompt_id,reward\na,1\na,nan\n", "line 3, column 'reward': 'nan' is not a finite number"),
    ("pool.csv", b"prompt_id,reward\na,1\na\n", "line 3: 1 fields where the header has 2"),
    ("pool.csv", b'prompt_id,reward\na,1\n"a,2\n', "line 3: not CSV .a quoted field is never closed"),
    ("pool.csv", b"prompt_id,reward\n\xff,1\n", "line 2: not UTF-8"),
    ("pool.csv", b"prompt_id,reward,reward\na,1,2\n", "column 'reward' appears 2 times"),
    ("pool.csv", b"prompt_id,reward\n,1\n", "line 2, column 'prompt_id': no value"),
    ("pool.jsonl", b"", "is empty"),
    ("pool.jsonl", (JSON_ROW + "{").encode(), "line 2: not a JSON object on one line"),
    ("pool.jsonl", b"[1]\n", "line 1: expected a JSON object"),
    (
        "pool.jsonl",
        (JSON_ROW + '{"prompt_id":"a"}\n').encode(),
        "line 2, column 'reward': no reward",
    ),
    (
        "pool.jsonl",
        b'{"prompt_id":null,"reward":1}\n',
        "line 1, column 'prompt_id': no value",
    ),
    ("pool.jsonl", b'{"prompt_id":"a","reward":"yes"}\n', "'yes' is not a finite number"),
    (
        "pool.jsonl",
        b'{"prompt_id":"a","reward":1}\n{"prompt_id":"b","reward":2}\n',
        "every prompt has one candidate",
    ),
    ("pool.jsonl", b'{"prompt_id":"a","reward":1e999}\n', "is not a finite number"),
    ("pool.jsonl", b'{"prompt_id":"a","reward":[1,2]}\n{"prompt_id":"b","reward":3}\n', "line 2"),
    ("pool.jsonl", b'{"prompt_id":"a","reward":[]}\n', "line 1: an empty pool"),
    ("pool.parquet", b"PAR1", "not a Parquet file"),
    ("pool.txt", b"x", "has the ending '.txt', which names no format; say --format"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files_get_one_message_and_exit_code_2(tmp_path, capsys, name, content, message):
    source = tmp_path / name
    source.write_bytes(content)
    out = tmp_path / f"kept{source.suffix}"
    assert main(["select", str(source), "--strategy", "bkon", "-k", "1", "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    import re

    assert re.search(message, captured.err), captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


BAD_EMBEDDINGS = [
    ('{"prompt_id":"a","reward":1.0,"embedding":[0,0]}\n', "line 2.*no direction"),
    ('{"prompt_id":"a","reward":1.0,"embedding":[1,2,3]}\n', "line 2.*3 features where others have 2"),
    ('{"prompt_id":"a","reward":1.0,"embedding":[1,null]}\n', "line 2.*not a list of finite numbers"),
    ('{"prompt_id":"a","reward":1.0,"embedding":"x"}\n', "line 2.*not a list of finite numbers"),
    ('{"prompt_id":"a","reward":1.0}\n', "line 2.*None is not a list of finite numbers"),
]


@pytest.mark.parametrize(("line", "message"), BAD_EMBEDDINGS)
def test_bad_embeddings_are_named(tmp_path, line, message):
    source = tmp_path / "pool.jsonl"
    source.write_text(JSON_ROW + line)
    with pytest.raises(InputError, match=message):
        select_file(source, tmp_path / "kept.jsonl", "dbkon", 1)
    # A strategy that needs no embedding does without it.
    assert select_file(source, tmp_path / "kept.jsonl", "bkon", 1).kept == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"prompt_id": ["a", None], "reward": [1.0, 2.0]},
            "row 2, column 'prompt_id': no value",
        ),
        ({"prompt_id": [b"a", b"a"], "reward": [1.0, 2.0]}, "holds binary; expected one id per row"),
        ({"prompt_id": ["a", "a"], "reward": [1.0, None]}, "row 2, column 'reward'"),
        (
            {"prompt_id": ["a", "a"], "reward": ["1", "x"]},
            "row 2, column 'reward': 'x' is not a finite number",
        ),
        ({"prompt_id": ["a", "b"], "reward": [[1.0, 2.0], []]}, "row 2: an empty pool"),
        ({"prompt_id": [], "reward": []}, "no rows"),
        ({"prompt_id": ["a", "b"], "score": [1.0, 2.0]}, "no column 'reward'.*--reward-column"),
    ],
)
def test_bad_parquet_is_named(tmp_path, frame, message):
    pq.write_table(pa.table(frame), tmp_path / "pool.parquet")
    with pytest.raises(InputError, match=message):
        select_file(tmp_path / "pool.parquet", tmp_path / "kept.parquet", "bkon", 1)
    assert not (tmp_path / "kept.parquet").exists()


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (
            [[1.0, 0.0], [1.0, 0.0, 1.0]],
            "row 2, column 'embedding': a list of 3 features where others have 2",
        ),
        ([[1.0, 0.0], [0.0, 0.0]], "row 2, column 'embedding': an embedding of zeros has no direction"),
        ([[1.0, 0.0], [1e300, 0.0]], "row 2, column 'embedding': .*too large or too small to compare"),
        ([1.0, 2.0], "row 1, column 'embedding': double is not a list of numbers"),
        (["1", "2"], "row 1, column 'embedding': '1' is not a list of finite numbers"),
    ],
)
def test_bad_embeddings_of_parquet_are_named_only_where_they_are_needed(tmp_path, embedding, message):
    table = pa.table({"prompt_id": ["a", "a"], "reward": [1.0, 2.0], "embedding": embedding})
    pq.write_table(table, tmp_path / "pool.parquet")
    out = tmp_path / "kept.parquet"
    with pytest.raises(InputError, match=message):
        select_file(tmp_path / "pool.parquet", out, "dbkon", 1)
    assert not out.exists()
    report = select_file(tmp_path / "pool.parquet", out, "bkon", 1)
    assert pq.read_table(out).equals(table[1:])
    assert report.similarity_kept is None


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("reward", [["high", "low"], [1.0, None]], ids=["text", "missing"])
def test_rewards_that_are_not_needed_need_not_be_numbers(tmp_path, suffix, reward):
    """A strategy of embeddings alone keeps the rows, and says nothing about rewards that it cannot read."""
    rows = [
        {"prompt_id": "a", "reward": r, "embedding": e}
        for r, e in zip(reward, [[1.0, 0.0], [0.0, 1.0]], strict=True)
    ]
    source, out = write(tmp_path / f"pool{suffix}", rows), tmp_path / f"kept{suffix}"
    report = select_file(source, out, "dkon", 1)
    assert read(out) == rows[:1]  # both cover as much: the first
    assert report.reward_pool is None
    with pytest.raises(InputError, match="column 'reward'"):
        select_file(source, out, "bkon", 1)
    assert read(out) == rows[:1]  # what stood there still stands


def test_lists_of_other_lengths_are_told_from_the_pool(tmp_path):
    source, out = tmp_path / "pool.jsonl", tmp_path / "kept.jsonl"
    source.write_text('{"prompt_id":"a","text":["x","y"],"tags":["u","v","w"]}\n')
    write(tmp_path / "pool.parquet", [json.loads(source.read_text())])
    for path in (source, tmp_path / "pool.parquet"):
        target = out.with_suffix(path.suffix)
        with pytest.raises(
            InputError, match=r"cannot tell whether a row is a response or a prompt.*--layout"
        ):
            select_file(path, target, "rkon", 1)
        with pytest.raises(InputError, match=r"1: cannot tell the pool from its lists \(lengths \[2, 3\]\)"):
            select_file(path, target, "rkon", 1, layout="prompts")
        report = select_file(path, target, "rkon", 1, pool_columns=["text"])
        assert report.cut_columns == ["text"]
        assert [len(row["text"]) for row in read(target)] == [1]
        assert read(target)[0]["tags"] == ["u", "v", "w"]
    row = {"prompt_id": "a", "reward": [1.0, 3.0], "tags": ["u", "v", "w"], "loss": [0.5]}
    source.write_text(json.dumps(row) + "\n")
    select_file(source, out, "bkon", 1)
    assert read(out) == [{**row, "reward": [3.0]}]
    with pytest.raises(InputError, match="column 'loss': a list of 1 where the pool has 2 candidates"):
        select_file(source, out, "bkon", 1, columns=Columns(loss="loss"))


def test_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(tmp_path):
    (tmp_path / "pool.csv").write_bytes(b"\xef\xbb\xbfprompt_id,reward\na,1\na,2")
    select_file(tmp_path / "pool.csv", tmp_path / "kept.csv", "bkon", 1)
    assert (tmp_path / "kept.csv").read_bytes().removeprefix(b"\xef\xbb\xbf") == b"prompt_id,reward\na,2"
    (tmp_path / "pool.csv").write_bytes(b'prompt_id,reward\na,"1"x\n')
    with pytest.raises(InputError, match="line 2: not CSV"):
        select_file(tmp_path / "pool.csv", tmp_path / "kept.csv", "bkon", 1)


@pytest.mark.parametrize("scattered", [False, True])
def test_the_width_of_embeddings_is_one_over_the_whole_file(tmp_path, monkeypatch, scattered):
    """Also where the rows are read in pieces."""
    monkeypatch.setattr(chunks, "BYTES", 300)
    names = "ab" * 20 if scattered else "a" * 20 + "b" * 20
    rows = [{"prompt_id": name, "reward": 1.0, "embedding": [1.0, 0.5]} for name in names]
    rows[-1]["embedding"] = [1.0, 0.5, 2.0]
    source = write(tmp_path / "pool.jsonl", rows)
    with pytest.raises(InputError, match=r"line 40.* 3 features where others have 2"):
        select_file(source, tmp_path / "kept.jsonl", "dkon", 1)
    assert not (tmp_path / "kept.jsonl").exists()
    # A strategy that needs no embedding does without it.
    report = select_file(source, tmp_path / "kept.jsonl", "bkon", 1)
    assert (report.kept, report.similarity_kept) == (2, None)


@pytest.mark.parametrize("names", ["ab" * 20, "a" * 20 + "b" * 20])
def test_halves_of_a_file_that_differ_in_width_are_not_mixed(tmp_path, monkeypatch, names):
    """Each piece that is read is of one width."""
    monkeypatch.setattr(chunks, "BYTES", 300)
    rows = [
        {"prompt_id": name, "reward": 1.0, "embedding": [1.0] * (2 if i < 20 else 3)}
        for i, name in enumerate(names)
    ]
    with pytest.raises(InputError, match=r"line 2\d.* 3 features where others have 2"):
        select_file(write(tmp_path / "pool.jsonl", rows), tmp_path / "kept.jsonl", "dkon", 1)


def test_widths_that_add_up_by_accident_are_not_mixed(tmp_path, monkeypatch):
    """1 + 3 + 2 + 2 features fill four rows of two."""
    monkeypatch.setattr(chunks, "BYTES", 300)
    rows = [
        {"prompt_id": name, "reward": 1.0, "embedding": [1.0] * width}
        for name, width in zip("abab", (1, 3, 2, 2), strict=True)
    ]
    with pytest.raises(InputError, match=r"line 2.* 3 features where others have 1"):
        select_file(write(tmp_path / "pool.jsonl", rows), tmp_path / "kept.jsonl", "dkon", 1)


@pytest.mark.parametrize(("strategy", "limit"), [("bkon", "MAX_CANDIDATES"), ("dkon", "MAX_COMPARED")])
@pytest.mark.parametrize("chunk", [1 << 14, 16])
def test_a_pool_beyond_the_limit_asks_for_the_prompt_column(tmp_path, monkeypatch, strategy, limit, chunk):
    monkeypatch.setattr(chooser, limit, 30)
    monkeypatch.setattr(chunks, "BYTES", 60 * chunk)
    rows = [{"prompt_id": "a", "reward": 1.0, "embedding": [1.0, 0.5]} for _ in range(40)]
    with pytest.raises(InputError, match=r"prompt 'a' has too many candidates.*is the prompt column"):
        select_file(write(tmp_path / "pool.jsonl", rows), tmp_path / "kept.jsonl", strategy, 1)
    assert not (tmp_path / "kept.jsonl").exists()


def test_paths_that_cannot_be_are_refused(tmp_path):
    source = write(tmp_path / "pool.jsonl", candidates())
    (tmp_path / "folder.jsonl").mkdir()
    for given, out, message in (
        (tmp_path / "folder.jsonl", "kept.jsonl", "is a folder without a file"),
        (tmp_path / "absent.jsonl", "kept.jsonl", "No such file"),
        (source, "k" * 300 + ".jsonl", "File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            select_file(given, tmp_path / out, "bkon", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "nope", "-k", "1"], "no strategy 'nope'"),
        (["--strategy", "bkon", "-k", "0"], "whole number of at least 1"),
        (["--strategy", "dbkon", "-k", "1", "--alpha", "-1"], "alpha must be a finite number >= 0, got -1.0"),
        (["--strategy", "dbkon", "-k", "1", "--alpha", "x"], "alpha of dbkon must be a number, got 'x'"),
        (["--strategy", "dkon", "-k", "1", "--alpha", "1"], "dkon has no option 'alpha'; it has ties"),
        (
            ["--strategy", "dkon", "-k", "1", "--ties", "first"],
            "ties must be one of index, reward, diverse, random",
        ),
        (
            ["--strategy", "dbkon", "-k", "1", "--option", "alpha"],
            "--option alpha: write --option name=value",
        ),
        (
            ["--strategy", "dbkon", "-k", "1", "--option", "beta=1"],
            "dbkon has no option 'beta'; it has alpha, ties",
        ),
        (
            ["--strategy", "dbkon", "-k", "1", "--alpha", "1", "--option", "alpha=2"],
            "option alpha is given twice",
        ),
        (["--strategy", "bkon", "-k", "1", "--plugin", "absent.py"], "absent.py is not a file"),
    ],
)
def test_bad_arguments_exit_with_2(tmp_path, capsys, arguments, message):
    source = write(tmp_path / "pool.jsonl", candidates())
    try:
        code = main(["select", str(source), *arguments, "--out", str(tmp_path / "kept.jsonl")])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("out", ["pool.jsonl", "absent/kept.jsonl", "kept.csv", "folder.jsonl"])
def test_bad_destinations_are_refused(tmp_path, out):
    source = write(tmp_path / "pool.jsonl", candidates())
    (tmp_path / "folder.jsonl").mkdir()
    before = source.read_bytes()
    with pytest.raises(InputError):
        select_file(source, tmp_path / out, "bkon", 1)
    assert source.read_bytes() == before


def test_a_plugin_is_a_strategy_of_the_command_line(tmp_path, capsys):
    plugin = tmp_path / "last.py"
    plugin.write_text(
        "import jax.numpy as jnp\n"
        "from mrtsim import register_strategy\n"
        "@register_strategy('last-of-the-tests', needs=('rewards',))\n"
        "def last(key, pool, k):\n"
        "    return jnp.argsort(pool.rewards)[:k]\n"
    )
    rows = candidates()
    source = write(tmp_path / "pool.jsonl", rows)
    arguments = ["--strategy", "last-of-the-tests", "-k", "1", "--plugin", str(plugin), "--json"]
    assert main(["select", str(source), *arguments, "--out", str(tmp_path / "kept.jsonl")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == PROMPTS
    worst = [min(r["reward"] for r in rows if r["prompt_id"] == f"{i:03d}") for i in range(PROMPTS)]
    assert [r["reward"] for r in read(tmp_path / "kept.jsonl")] == worst


def test_a_killed_run_leaves_no_half_file(tmp_path):
    source = tmp_path / "pool.jsonl"
    rows = candidates()
    with source.open("w") as file:
        for i in range(400):
            for row in rows:
                file.write(json.dumps({**row, "prompt_id": f"{i}-{row['prompt_id']}"}) + "\n")
    out = tmp_path / "kept.jsonl"
    out.write_text("before\n")
    command = [
        sys.executable,
        "-c",
        "import sys; from mrtsim.cli import main; sys.exit(main())",
        "select",
        str(source),
        "--strategy",
        "bkon",
        "-k",
        "2",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".kept*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    # Either it was killed in time, and the old file stands, or it had finished, and the new one is whole.
    text = out.read_text()
    assert text == "before\n" or text.count("\n") == 400 * PROMPTS * 2


@pytest.mark.skipif(not SHARED.exists(), reason="the real pool is not beside the checkout")
@pytest.mark.parametrize("strategy", ["rkon", "bkon", "dkon", "dbkon", "filtered-max-min", "gumbel"])
def test_the_real_pool(tmp_path, strategy):
    report = select_file(SHARED, tmp_path / "kept.parquet", strategy, 4, columns=Columns(loss="loss"))
    kept, pool = pq.read_table(tmp_path / "kept.parquet"), pq.read_table(SHARED)
    assert kept.schema.equals(pool.schema, check_metadata=True)
    assert set(kept["prompt_id"].value_counts().field("counts").to_pylist()) == {4}
    everything = pool.to_pylist()
    assert kept.num_rows == 96 * 4
    assert all(row in everything for row in kept.slice(0, 50).to_pylist())
    assert report.reward_pool is not None
    assert report.reward_kept is not None
    assert report.similarity_pool is not None
    assert report.similarity_kept is not None
    if strategy == "bkon":
        assert report.reward_kept > report.reward_pool
    if strategy == "dkon":
        assert report.similarity_kept < report.similarity_pool


def test_strings_of_a_million_characters_are_fields(tmp_path):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["prompt_id", "reward", "text"])
    writer.writerow(["a", "1", "x" * 1_000_000])
    (tmp_path / "pool.csv").write_text(buffer.getvalue())
    assert select_file(tmp_path / "pool.csv", tmp_path / "kept.csv", "bkon", 1).kept == 1


@pytest.mark.stress
def test_memory_does_not_grow_with_scattered_rows(tmp_path):
    """A folder four times as large takes about the same memory: text is read twice, embeddings wait on disk."""
    program = "import sys; from mrtsim.cli import main; sys.exit(main())"
    memory = []
    for size in (20_000, 80_000):
        rng = np.random.default_rng(0)
        folder = tmp_path / str(size)
        folder.mkdir()
        for shard in range(4):
            ids = rng.integers(0, 4000, size // 4)
            vectors = rng.normal(size=(size // 4, 32)).round(3).tolist()
            with (folder / f"{shard}.jsonl").open("w") as file:
                for prompt, vector in zip(ids.tolist(), vectors, strict=True):
                    row = {"prompt_id": prompt, "reward": vector[0], "embedding": vector, "text": "x" * 2000}
                    file.write(json.dumps(row) + "\n")
        arguments = [
            "select",
            str(folder),
            "--strategy",
            "dkon",
            "-k",
            "1",
            "--out",
            str(tmp_path / f"{size}.jsonl"),
        ]
        measured = f"import resource, subprocess, sys; subprocess.run({[sys.executable, '-c', program, *arguments]!r}, "
        measured += "check=True, stdout=subprocess.DEVNULL)"
        measured += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        done = subprocess.run([sys.executable, "-c", measured], check=True, capture_output=True, text=True)
        memory.append(int(done.stdout) / 1024)
    assert memory[1] - memory[0] < 100, memory  # 145 MB more of text, 8 MB more of embeddings


def test_pieces_of_any_size_are_compiled_once():
    """A file's pieces hold as many prompts as fit: the smaller ones use what the largest was compiled for."""
    rng = np.random.default_rng(0)
    rewards, embeddings = rng.normal(size=60), rng.normal(size=(60, 3)).astype(np.float32)
    names, sizes = [f"p{i}" for i in range(15)], np.full(15, 4)

    def kept(*pieces):
        chooser = Chooser("dbkon", 2, 0, "error", {})
        edges = np.cumsum([0, *pieces])
        return np.concatenate(
            [
                chooser.keep(names[a:b], sizes[a:b], rewards[4 * a : 4 * b], embeddings[4 * a : 4 * b], None)
                for a, b in itertools.pairwise(edges)
            ]
        )

    whole = kept(15)
    compiled = _keep_block._cache_size()
    np.testing.assert_array_equal(kept(9, 1, 2, 3), whole)
    assert _keep_block._cache_size() == compiled

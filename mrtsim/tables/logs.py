"""Logs of evaluation harnesses as pilots: a question is a prompt, its repeat or epoch a response, a task a group.

Read by the documented layouts of lm-evaluation-harness (`samples_*.jsonl` of `--log_samples`), Inspect (`.eval`,
`.json`) and lighteval (details in Parquet), without these tools.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.formats import Tables, open_tables
from mrtsim.tables.pilots import Pilot, read_pilot
from mrtsim.tables.values import as_list, number, shown

ZSTANDARD = 93  # a method of zip
# Inspect's grades: correct, partially correct, incorrect, no answer.
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


class Score(NamedTuple):
    """A response's score, with the question and the task that it answers, and where it stands."""

    task: str
    question: str
    value: Any
    place: str


def read_log(
    sources: Tables,
    log: str,
    *,
    filter: str | None = None,
    metric: str | None = None,
    higher_is_better: bool = True,
) -> Pilot:
    """Read an evaluation log as a pilot, with loss = 1 - score.

    Args:
        sources: files, folders or patterns; several logs of one task are repeats of its questions.
        log: "lm-eval", "inspect" or "lighteval".
        filter: of lm-eval's filters, whose answers are scored apart; needed where there are several.
        metric: of the metrics or scorers; needed where there are several.
        higher_is_better: of the scores; else the scores are losses.

    Raises:
        InputError: it is no such log, or a filter or a metric must be named.
    """
    if log not in LOGS:
        raise InputError(f"no log {log!r}; there are {', '.join(LOGS)}")
    if filter is not None and log != "lm-eval":
        raise InputError(f"--filter belongs to --log lm-eval, not to {log}")
    scores = LOGS[log](sources, filter, metric)
    values = []
    for score in scores:
        value = GRADES.get(score.value, score.value) if isinstance(score.value, str) else score.value
        found = number(value)
        if not abs(found) < float("inf"):
            raise InputError(f"{score.place}: {shown(score.value)} is not a score")
        values.append(1 - found if higher_is_better else found)
    import pyarrow as pa

    several = len({score.task for score in scores}) > 1
    table = pa.table(
        {
            "question": [f"{s.task}: {s.question}" if several else s.question for s in scores],
            "task": [s.task for s in scores],
            "loss": values,
        }
    )
    return read_pilot(
        table, prompt_column="question", group_column="task" if several else None, layout="rows"
    )


def _one(name: str | None, present: Sequence[str], option: str, where: str, what: str) -> str:
    """The named one of those that are there, or the only one."""
    if name is not None and name in present:
        return name
    there = paths.listed(present)
    if name is not None:
        raise InputError(f"{where}: no {what} {name!r} (there are: {there}); name it with {option}")
    if len(present) != 1:
        raise InputError(
            f"{where}: several {what}s ({there}); say {option} {present[0] if present else what.upper()}"
        )
    return present[0]


def _lm_eval(sources: Tables, filter: str | None, metric: str | None) -> list[Score]:
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for table in open_tables(sources):
        columns = table.columns()
        if not {"doc_id", "metrics"} <= set(columns):
            raise InputError(
                f"{table.file.name} is no log of lm-evaluation-harness's samples: no columns doc_id and metrics; "
                "write one with --log_samples"
            )
        name = table.file.path.name
        task = re.sub(r"^samples_|(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl.*$", "", name)
        row = 0
        for records in table.records(None):
            values = {c: getattr(records.column(c), "values", None) for c in columns}
            values = {c: records.column(c).array.to_pylist() if v is None else v for c, v in values.items()}  # type: ignore[attr-defined]
            for index in range(len(records)):
                record = {c: v[index] for c, v in values.items()}
                rows.append((task, f"{table.file.name}, {table.unit} {row + index + 1}", record))
            row += len(records)
    where = rows[0][1].split(",")[0]
    filters = list(dict.fromkeys(str(record.get("filter", "none")) for _, _, record in rows))
    chosen = _one(filter, filters, "--filter", where, "filter")
    rows = [row for row in rows if str(row[2].get("filter", "none")) == chosen]
    metrics = list(dict.fromkeys(m for _, _, record in rows for m in as_list(record["metrics"]) or ()))
    name = _one(metric, metrics, "--metric", where, "metric")
    found = []
    for task, place, record in rows:
        value = as_list(record.get(name))
        for item in value if isinstance(value, list) else [value]:  # a list holds one score per repeat
            found.append(Score(task, str(record["doc_id"]), item, place))
    return found


def _inspect(sources: Tables, filter: str | None, metric: str | None) -> list[Score]:
    found: list[Score] = []
    for path in _files(sources, (".eval", ".json")):
        log, samples = _inspect_samples(path)
        if (status := log.get("status", "started")) != "success":
            raise InputError(f"{path}: the run did not finish (status {status}): inspect eval-retry {path}")
        task = str(log.get("eval", {}).get("task", path.stem))
        names = list(dict.fromkeys(n for s in samples for n in _inspect_scores(s)))
        name = _one(metric, names, "--metric", str(path), "scorer")
        for sample in samples:
            scores = _inspect_scores(sample)
            where = f"{path}, sample {shown(str(sample.get('id')))}, epoch {sample.get('epoch')}"
            if name not in scores:
                why = sample.get("error") or "the sample was not scored"
                raise InputError(
                    f"{where}: no score ({shown(why if isinstance(why, str) else 'an error')}); rerun it"
                )
            found.append(Score(task, str(sample.get("id")), scores[name], where))
    return found


def _inspect_samples(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An Inspect log's header and samples."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                header = json.loads(
                    _entry(archive, "header.json" if "header.json" in names else "_journal/start.json")
                )
                if "summaries.json" in names:
                    return header, json.loads(_entry(archive, "summaries.json"))
                inside = sorted(n for n in names if re.fullmatch(r"samples/.*\.json", n))
                return header, [json.loads(_entry(archive, n)) for n in inside]
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        raise InputError(f"{path}: not a log of Inspect ({shown(str(error))})") from None
    if not isinstance(log, dict) or not isinstance(log.get("samples"), list) or "eval" not in log:
        raise InputError(f"{path}: not a log of Inspect: no fields eval and samples")
    return log, log["samples"]


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip; Inspect compresses by Zstandard, which Python reads from 3.14 on."""
    info = archive.getinfo(name)
    if info.compress_type != ZSTANDARD:
        return archive.read(name)
    import pyarrow as pa

    file: Any = archive.fp
    file.seek(info.header_offset)
    name_length, extra_length = struct.unpack("<26xHH", file.read(30))
    file.seek(name_length + extra_length, 1)
    raw = file.read(info.compress_size)
    return pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read()


def _inspect_scores(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample's values by scorer; a scorer with several has one name each, `scorer.key`."""
    found: dict[str, Any] = {}
    for name, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            found[name] = value
    return found


def _lighteval(sources: Tables, filter: str | None, metric: str | None) -> list[Score]:
    found: list[Score] = []
    for table in open_tables(sources):
        columns = table.columns()
        scores = next((c for c in ("metric", "metrics") if c in columns), None)
        question = next((c for c in ("doc", "example", "full_prompt") if c in columns), None)
        if scores is None or question is None:
            raise InputError(f"{table.file.name} is no details file of lighteval: no columns metric and doc")
        task = re.sub(r"^details_|_\d{4}-\d\d-\d\dT.*$", "", table.file.path.stem)
        row = 0
        for records in table.records([scores, question]):
            values = records.column(scores).array.to_pylist()  # type: ignore[attr-defined]
            docs = records.column(question).array.to_pylist()  # type: ignore[attr-defined]
            for index, (value, doc) in enumerate(zip(values, docs, strict=True)):
                place = f"{table.file.name}, row {row + index + 1}"
                value = {k: v for k, v in (value or {}).items() if v is not None}
                name = _one(metric, list(value), "--metric", place, "metric")
                if isinstance(doc, dict):
                    doc = doc.get("id") or doc.get("query") or doc.get("instruction")
                items = value[name] if isinstance(value[name], list) else [value[name]]
                found += [Score(task, str(doc), item, place) for item in items]
            row += len(values)
    return found


def _files(sources: Any, endings: tuple[str, ...]) -> list[Path]:
    """Files of a log that is no table, by name, folder or pattern."""
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    found: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            found += sorted(p for p in name.iterdir() if p.suffix in endings)
        elif name.exists():
            found.append(name)
        else:
            matching = sorted(name.parent.glob(name.name)) if name.parent.is_dir() else []
            if not matching:
                raise InputError(f"cannot read {name}: No such file or folder")
            found += matching
    if not found:
        raise InputError(f"{names[0]} holds no file that ends in {', '.join(endings)}")
    return found


LOGS: dict[str, Callable[[Any, str | None, str | None], list[Score]]] = {
    "lm-eval": _lm_eval,
    "inspect": _inspect,
    "lighteval": _lighteval,
}

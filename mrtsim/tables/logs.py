"""Logs of evaluation harnesses as pilots: a question is a prompt, its repeat or epoch a response, a task a group.

Read by the documented layouts of lm-evaluation-harness (`samples_*.jsonl` of `--log_samples`), Inspect (`.eval`,
`.json`) and lighteval (details in Parquet), without these tools.
"""

from __future__ import annotations

import ast
import glob
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mrtsim.errors import InputError
from mrtsim.tables import paths
from mrtsim.tables.format import Format
from mrtsim.tables.formats import open_tables
from mrtsim.tables.json_fields import twice
from mrtsim.tables.json_values import from_pairs
from mrtsim.tables.paths import Path as Fields
from mrtsim.tables.pilots import Pilot, read_pilot
from mrtsim.tables.sources import Source
from mrtsim.tables.values import as_list, number, shown

Sources = Source | Sequence[Source]
Unscored = Literal["error", "drop"]

ZSTANDARD = 93  # a method of zip
# Inspect's grades: correct, partially correct, incorrect, no answer; and its words for 1 and 0.
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "no": 0.0}
# What is used of an Inspect log, and of each of its samples beside scores.
INSPECT_HEADER = [Fields("status"), Fields("results", ("scores",)), Fields("samples", ("id",))]
INSPECT_HEADER += [Fields("eval", (name,)) for name in ("task", "task_id", "eval_id", "model")]
INSPECT_SAMPLE = [Fields(name) for name in ("id", "epoch", "score", "error")]
# What an Inspect folder holds beside its logs.
NO_LOGS = ("eval-set.json", "logs.json", "listing.json")
# Columns of lm-eval's samples that are no metrics; its older versions have no column that names the metrics.
SAMPLE_COLUMNS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
# Metrics of lm-eval that are made of all questions together: what stands at each question is no score.
AGGREGATES = {
    **dict.fromkeys(("word_perplexity", "byte_perplexity", "bits_per_byte"), "a log-likelihood and a length"),
    **dict.fromkeys(("f1", "mcc"), "the right and the chosen answer"),
    "brier_score": "the right answer and probabilities",
    **dict.fromkeys(("bleu", "chrf", "ter"), "texts"),
}


class Answer(NamedTuple):
    """One row of a log: the scores of a response to a question.

    Attributes:
        task: that asks the question.
        question: its id in the task.
        scores: by metric; a list has one per repeat.
        where: it stands, for messages.
        log: the file.
        filter: the scored part of the response, where the harness has several.
        content: of the question, as far as the log tells it, so that another question of the same id is noticed.
        model: that responds, as far as the log tells it.
        group: the value that groups were asked to come from.
        clusters: by metric, the cluster that the harness takes for its own standard error.
        responses: how many the row scores, where the log tells it.
        error: that the response died of.
    """

    task: str
    question: str
    scores: Mapping[str, Any]
    where: Callable[[], str]
    log: str
    filter: str = ""
    content: str = ""
    model: str = ""
    group: Any = None
    clusters: Mapping[str, Any] = {}
    responses: int | None = None
    error: str = ""


def read_log(
    sources: Sources,
    log: str,
    *,
    filter: str | None = None,
    metric: str | None = None,
    group_column: str | None = None,
    higher_is_better: bool = True,
    unscored: Unscored = "error",
) -> Pilot:
    """Read an evaluation log as a pilot, with loss = 1 - score.

    Args:
        sources: files, folders or patterns; several logs of one task are repeats of its questions.
        log: "lm-eval", "inspect" or "lighteval".
        filter: of lm-eval's filters, whose answers are scored apart; needed where there are several.
        metric: of the metrics or scorers; needed where there are several.
        group_column: a dotted path in the log's samples (`doc.subject`, `metadata.topic`) whose values are groups of
            questions; by default the clusters of Inspect's standard error, else tasks where there are several.
        higher_is_better: of the scores; else the scores are losses.
        unscored: a response without a score is an error, or is dropped and counted ("drop").

    Raises:
        InputError: it is no such log, a filter or a metric must be named, or several models or questions are mixed.
    """
    if log not in LOGS:
        raise InputError(f"no log {log!r}; there are {', '.join(LOGS)}")
    if filter is not None and log != "lm-eval":
        raise InputError(f"--filter belongs to --log lm-eval, not to {log}")
    answers = list(LOGS[log](sources, group_column))
    if not answers:
        raise InputError(f"{_names(sources)[0]} holds no response; was the run cut short?")
    _one_model(answers)
    _same_questions(answers)
    answers = _filtered(answers, filter)
    name = _metric(answers, metric)
    several = len({answer.task for answer in answers}) > 1
    grouped = group_column is not None or any(name in answer.clusters for answer in answers)
    rows: dict[str, list[Any]] = {"question": [], "group": [], "loss": [], "run": []}
    missing, sets = 0, set[int]()  # sets of responses with one score
    for answer in answers:
        group = answer.task if not grouped else _group(answer, name, group_column)
        values = _values(answer, name)
        if len(values) < (answer.responses or 1):
            sets.add(answer.responses or 1)
        for value in values:
            if value is None or value != value:
                if unscored == "error":
                    raise InputError(
                        f"{answer.where()}: no score of {name}{answer.error and f' ({shown(answer.error)})'}; run it "
                        "again, or leave such responses out with --unscored drop"
                    )
                missing += 1
                continue
            found = number(value)
            if not abs(found) < float("inf"):
                raise InputError(f"{answer.where()}: {shown(value)} is not a score{_others(answer, name)}")
            rows["question"].append(f"{answer.task}: {answer.question}" if several else answer.question)
            rows["group"].append(f"{answer.task}: {group}" if several and grouped else group)
            rows["loss"].append(1 - found if higher_is_better else found)
            rows["run"].append(answer.log)
    if not rows["loss"]:
        raise InputError(f"{answers[0].log}: no response has a score of {name}")
    if len(rows["loss"]) == len(set(rows["question"])) > 1:
        raise InputError(
            f"{answers[0].log}: every question has one score, so the spread between responses is not in the log; "
            + ONE_EACH[log]
        )
    if len(set(rows["run"])) < 2:
        del rows["run"]
    pilot = _as_pilot(rows, several or grouped)
    if sets:
        pilot.notes.append(
            f"{name} is one score for {' or '.join(map(str, sorted(sets)))} responses to a question: a response in "
            "this report is such a set, or the one that the filter takes of it"
        )
    if missing:
        plural = "s" if missing > 1 else ""
        pilot.notes.append(f"{missing} response{plural} without a score of {name} left out (--unscored drop)")
    return pilot


def _as_pilot(rows: dict[str, list[Any]], grouped: bool) -> Pilot:
    import pyarrow as pa

    return read_pilot(
        pa.table(rows),
        prompt_column="question",
        group_column="group" if grouped else None,
        layout="rows",
    )


def _one_model(answers: Sequence[Answer]) -> None:
    first = answers[0]
    for answer in answers:
        if answer.model != first.model and answer.model and first.model:
            raise InputError(
                f"{first.log} is of model {first.model}, {answer.log} of {answer.model}: responses of two "
                "models are not repeats; give the logs of one model at a time"
            )


def _same_questions(answers: Sequence[Answer]) -> None:
    known: dict[tuple[str, str], Answer] = {}
    for answer in answers:
        before = known.setdefault((answer.task, answer.question), answer)
        if answer.content != before.content and answer.content and before.content:
            raise InputError(
                f"{answer.where()}: question {shown(answer.question)} of {answer.task} is another one than at "
                f"{before.where()}, so these are not repeats; give logs of the same questions"
            )


def _filtered(answers: list[Answer], filter: str | None) -> list[Answer]:
    """The answers of one filter of each task; the name is needed where a task has several."""
    by_task: dict[str, dict[str, None]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, {})[answer.filter] = None
    if filter is not None and not any(filter in present for present in by_task.values()):
        there = paths.listed(list(dict.fromkeys(f for present in by_task.values() for f in present)))
        raise InputError(
            f"{answers[0].log}: no filter {filter!r} (there are: {there}); name it with --filter"
        )
    logs = {answer.task: answer.log for answer in reversed(answers)}
    chosen = {
        task: _one(filter if filter in present or len(present) > 1 else None, present, "filter", logs[task])
        for task, present in by_task.items()
    }
    return [answer for answer in answers if answer.filter == chosen[answer.task]]


def _metric(answers: Sequence[Answer], metric: str | None) -> str:
    """The metric that is named, or the only one."""
    by_task: dict[str, dict[str, None]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, {}).update(dict.fromkeys(answer.scores))
    present = dict.fromkeys(name for names in by_task.values() for name in names)
    name = _one(metric, present, "metric", answers[0].log)
    lacking = [task for task, names in by_task.items() if name not in names]
    if lacking:
        raise InputError(
            f"{answers[0].log}: the task {lacking[0]} has no metric {name!r}; read its log apart"
        )
    return name


def _one(name: str | None, present: Mapping[str, None], what: str, where: str) -> str:
    """The named one of those that are there, or the only one."""
    if name is not None and name in present:
        return name
    there = paths.listed(list(present)) or "none"
    if name is not None:
        raise InputError(f"{where}: no {what} {name!r} (there are: {there}); name it with --{what}")
    if not present:
        raise InputError(f"{where}: no response has a {what}")
    if len(present) > 1:
        raise InputError(f"{where}: several {what}s ({there}); say --{what} {next(iter(present))}")
    return next(iter(present))


def _group(answer: Answer, metric: str, path: str | None) -> Any:
    group = answer.group if path is not None else answer.clusters.get(metric)
    if group is None or isinstance(group, list | dict):
        where = f"at {path}" if path is not None else "in the metadata"
        raise InputError(
            f"{answer.where()}: no group {where}; name where it stands with --group-column (doc.subject, "
            "metadata.topic)"
        )
    return str(group)


def _values(answer: Answer, name: str) -> list[Any]:
    """The score of the row's response, or those of its repeats.

    Raises:
        InputError: a list is no list of repeats.
    """
    value = as_list(answer.scores.get(name))
    if not isinstance(value, list | tuple):
        return [value]
    if name in AGGREGATES or answer.responses not in (None, len(value)):
        what = AGGREGATES.get(name, f"a list of {len(value)} for {answer.responses} response(s)")
        raise InputError(
            f"{answer.where()}: {name} is {what}, not a score of each response{_others(answer, name)}"
        )
    return list(value)


def _others(answer: Answer, name: str) -> str:
    others = [n for n in answer.scores if n != name]
    return f"; other metrics are {paths.listed(others)}" if others else ""


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; those of an object have one name each, `scorer.key`."""
    found: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            found[name] = value
    return found


def _at(record: Mapping[str, Any], path: str | None) -> Any:
    """What stands at a dotted path in a sample."""
    return None if path is None else paths.follow(record, path.split("."))


def _lm_eval(sources: Sources, group: str | None) -> Iterator[Answer]:
    for table in open_tables(_found(sources, "*.jsonl", "*.jsonl.gz", "*.jsonl.zst")):
        log = table.file.name
        if "doc_id" not in table.columns():
            raise InputError(
                f"{log} is no log of lm-evaluation-harness's samples: no column doc_id; write one with --log_samples"
            )
        unused = SAMPLE_COLUMNS - {"doc_id", "filter", "metrics", "resps", "doc_hash"}
        table.used = [Fields(name) for name in table.columns() if name not in unused]
        table.used += [_fields(group)] if group else []
        stamp = re.search(r"_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl", table.file.path.name)
        task = re.sub(r"^samples_|(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl.*$", "", table.file.path.name)
        model = _lm_eval_model(table.file.path.with_name(f"results_{stamp[1]}.json")) if stamp else ""
        for row, record in enumerate(_records(table)):
            if record.get("doc_id") is None:
                raise InputError(f"{_place(table, row)}: no doc_id, the number of the question")
            metrics = as_list(record.get("metrics"))
            if not isinstance(metrics, list):  # before version 0.4.5
                metrics = [name for name in record if name not in SAMPLE_COLUMNS]
            resps = as_list(record.get("resps"))
            one_request = isinstance(resps, list) and len(resps) == 1 and isinstance(resps[0], list)
            yield Answer(
                task,
                str(record["doc_id"]),
                _flat({name: record.get(name) for name in metrics}),
                partial(_place, table, row),
                log,
                filter=str(record.get("filter") or "none"),
                content=str(record.get("doc_hash") or ""),
                model=model,
                group=_at(record, group),
                responses=len(resps[0]) if one_request else None if resps is None else 1,
            )


def _lm_eval_model(results: Path) -> str:
    """The model's name in the results that lm-eval writes beside its samples; empty where it is not known."""
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
        name, arguments = str(found.get("model_name") or ""), json.dumps(found["config"].get("model_args"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return name if name in arguments else ""  # a model without a name gets one at random in each run


def _records(table: Format) -> Iterator[Mapping[str, Any]]:
    """The records of a file as objects, each with all of its own fields."""
    for records in table.records(None):
        rows = getattr(records, "rows", None)
        if rows is None:
            names = table.columns()
            columns: list[Any] = [records.column(name) for name in names]
            values = [c.values if hasattr(c, "values") else c.array.to_pylist() for c in columns]
            rows = (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))
        yield from rows


def _place(table: Format, row: int) -> str:
    return f"{table.file.name}, {table.place(row)}"


def _inspect(sources: Sources, group: str | None) -> Iterator[Answer]:
    logs = {path: _inspect_samples(path) for path in _found(sources, "*.eval", "*.json", other_than=NO_LOGS)}
    done = {log["eval"].get("task_id") for log, _ in logs.values() if log.get("status") == "success"}
    seen: dict[Any, Path] = {}
    for path, (log, samples) in logs.items():
        about = log["eval"]
        _each_once(log, INSPECT_HEADER, str(path))
        if (status := log.get("status", "started")) != "success":
            if about.get("task_id") in done - {None}:  # retried: the later log holds its samples too
                continue
            raise InputError(f"{path}: the run did not finish (status {status}): inspect eval-retry {path}")
        if about.get("eval_id") is not None and (twice := seen.setdefault(about["eval_id"], path)) != path:
            raise InputError(f"{path} holds the same run as {twice}; its samples would count twice")
        clusters = _inspect_clusters(log)
        for sample in samples:
            used = [Fields("scores", (name, "value")) for name in sample.get("scores") or ()]
            used += [Fields("metadata", (key,)) for key in set(clusters.values())]
            used += [_fields(group)] if group else []
            _each_once(sample, [*INSPECT_SAMPLE, *used], _sample(path, sample.get("id"), sample.get("epoch")))
            metadata = sample.get("metadata") or {}
            text = sample.get("input")
            error = sample.get("error") or ""
            yield Answer(
                str(about.get("task", path.stem)),
                str(sample.get("id")),
                _inspect_scores(sample),
                partial(_sample, path, sample.get("id"), sample.get("epoch")),
                str(path),
                content=text[:100] if isinstance(text, str) else "",  # a summary holds the beginning
                model=str(about.get("model") or ""),
                group=_at(sample, group),
                clusters={name: metadata.get(key) for name, key in clusters.items()},
                error=str(error.get("message") if isinstance(error, dict) else error),
            )


def _fields(path: str) -> Fields:
    column, *fields = path.split(".")
    return Fields(column, tuple(fields))


def _each_once(record: Any, used: Sequence[Fields], where: str) -> None:
    """InputError if a field that is used stands twice in one object."""
    message = twice(record, used)
    if message is not None:
        raise InputError(f"{where}: {message}")


def _sample(path: Path, sample: Any, epoch: Any) -> str:
    return f"{path}, sample {shown(str(sample))}, epoch {epoch}"


def _inspect_samples(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An Inspect log's header and samples."""
    log: Any = None
    samples: Any = None
    parsed = partial(json.loads, object_pairs_hook=from_pairs)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                log = parsed(
                    _entry(archive, "header.json" if "header.json" in names else "_journal/start.json")
                )
                if "summaries.json" in names:
                    samples = parsed(_entry(archive, "summaries.json"))
                else:
                    inside = sorted(n for n in names if re.fullmatch(r"samples/.*\.json", n))
                    samples = [parsed(_entry(archive, n)) for n in inside]
        else:
            log = parsed(path.read_text(encoding="utf-8"))
            samples = log.get("samples") if isinstance(log, dict) else None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        raise InputError(f"{path}: not a log of Inspect ({shown(str(error))})") from None
    if not isinstance(samples, list) or not isinstance(log.get("eval"), dict):
        raise InputError(f"{path}: not a log of Inspect: no fields eval and samples")
    for place, sample in enumerate(samples, 1):
        objects = isinstance(sample, dict) and [sample.get("scores"), sample.get("metadata")]
        if not objects or not all(isinstance(value or {}, dict) for value in objects):
            raise InputError(
                f"{path}: not a log of Inspect: sample {place} is no object with scores and metadata"
            )
    return log, samples


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


def _inspect_scores(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's numbers by scorer; version 1 had one `score`."""
    given = sample.get("scores") or {}
    if not given and sample.get("score") is not None:
        given = {"score": sample["score"]}
    values = {name: score.get("value") if isinstance(score, dict) else score for name, score in given.items()}
    return {
        name: GRADES.get(value, value) if isinstance(value, str) else value
        for name, value in _flat(values).items()
    }


def _inspect_clusters(log: Mapping[str, Any]) -> dict[str, str]:
    """By scorer, the key of the metadata that Inspect's standard error has clusters by."""
    found = {}
    for score in (log.get("results") or {}).get("scores") or ():
        scorer, name = score.get("scorer"), score.get("name")
        for metric in (score.get("metrics") or {}).values():
            given = metric.get("params") or metric.get("options") or {}
            if isinstance(given.get("cluster"), str):
                found |= dict.fromkeys((str(name), f"{scorer}.{name}"), given["cluster"])
    return found


def _lighteval(sources: Sources, group: str | None) -> Iterator[Answer]:
    for table in open_tables(_found(sources, "details_*.parquet")):
        log = table.file.name
        columns = table.columns()
        scores = next((c for c in ("metric", "metrics") if c in columns), None)
        question = next((c for c in ("doc", "example", "full_prompt") if c in columns), None)
        if scores is None or question is None:
            raise InputError(f"{log} is no details file of lighteval: no columns metric and doc")
        task = re.sub(r"^details_|_\d{4}-\d\d-\d\dT.*$", "", table.file.path.stem)
        for row, record in enumerate(_records(table)):
            value, doc = _literal(record[scores]), _literal(record[question])
            response = _literal(record.get("model_response"))
            texts = response.get("text") if isinstance(response, dict) else None
            doc = doc if isinstance(doc, dict) else {"query": doc}
            text = str(doc.get("query") or doc.get("instruction") or "")
            yield Answer(
                task,
                str(doc.get("id") or text),
                _flat({k: v for k, v in value.items() if v is not None}) if isinstance(value, dict) else {},
                partial(_place, table, row),
                log,
                content=text,
                model=_lighteval_model(table.file.path),
                group=_at(record, group),
                responses=None if texts is None else len(texts),
            )


def _literal(value: Any) -> Any:
    """What a cell holds; lighteval writes nested values as Python text where their types differ between rows."""
    found = as_list(value)
    if not isinstance(found, str) or found[:1] not in ("{", "["):
        return found
    try:
        return ast.literal_eval(re.sub(r"\bnp\.\w+\(([^()]*)\)|\b(nan|inf)\b", _plain, found))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _plain(match: re.Match[str]) -> str:
    return match[1] if match[1] is not None else {"nan": "None", "inf": "1e999"}[match[2]]


def _lighteval_model(path: Path) -> str:
    """The model's name, which lighteval has in its folders: details/MODEL/DATE/details_TASK_DATE.parquet."""
    parts = path.absolute().parts[:-1]
    if "details" not in parts:
        return ""
    inside = parts[len(parts) - parts[::-1].index("details") :]
    return "/".join(part for part in inside if not re.match(r"\d{4}-\d\d-\d\dT", part))


def _names(sources: Sources) -> list[Source]:
    return [sources] if isinstance(sources, str | os.PathLike) else list(sources)


def _found(sources: Sources, *patterns: str, other_than: Sequence[str] = ()) -> list[Path]:
    """The files of logs by name, folder (with the folders inside it) or pattern, each once."""
    found: dict[Path, None] = {}
    for name in _names(sources):
        path = Path(name)
        if str(name) == "-":
            found[path] = None
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in other_than)
            logs = [p for p in inside if any(fnmatch(p.name, pattern) for pattern in patterns)]
            if not logs:
                raise InputError(f"{path} holds no file {' or '.join(patterns)}")
            found |= dict.fromkeys(logs)
        elif path.exists():
            found[path] = None
        else:
            matching = sorted(map(Path, glob.glob(os.fspath(name), recursive=True)))
            if not matching:
                raise InputError(f"cannot read {name}: No such file or folder")
            found |= dict.fromkeys(matching)
    return list(found)


LOGS: dict[str, Callable[[Sources, str | None], Iterator[Answer]]] = {
    "lm-eval": _lm_eval,
    "inspect": _inspect,
    "lighteval": _lighteval,
}
# What to do where every question has one score.
ONE_EACH = {
    "lm-eval": "give the logs of several runs with temperature above 0, or write one score per repeat (the "
    "default filter, take_first, scores the first repeat alone)",
    "inspect": "run it with --epochs 2 or more",
    "lighteval": "give the details of several runs (its metrics over samples, such as avg@n and pass@k, have one "
    "number per question)",
}

"""Search quality on collections made by rule, against bm25s on the same documents.

    pip install bm25s PyStemmer
    python -m benchmarks.serving.retrieval [--t0 t0.parquet] [--wikitext wiki.txt] [--store STORE] [--half 1]

- `--t0`, a table of `task`, `prompt` and `completion` (T0/P3): questions → the paragraph that they were asked
  about, and the first five content words of a summary → its article.
- `--wikitext`, a file of WikiText-2: title and heading of a section → its paragraphs (grade 2) and those of
  the same article (grade 1).
- `--store`, a finished stage `clean`: headlines → their article without its title, and five words from the
  middle of an article → the article.

The queries are halved by their hash: tune on half 0, report half 1. docs/log.md says what was tuned on.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from headwater.cluster.runtime.session import Session
from headwater.cluster.runtime.stage import execute
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.corpus import iter_documents
from headwater.data_pipeline.documents import Document, to_table
from headwater.llm.grounding.sentences import FUNCTION_WORDS
from headwater.serving.retrieval.index import Index, IndexConfig
from headwater.serving.retrieval.search import PassageIndex

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
ASKED = re.compile(
    r"[Qq]uestion:? \"?(?P<q>[^\n\"]+\?)\"?.*?\n?\s*Context: \"?(?P<c>.{200,}?)\"?\s*(?:Answer:\s*)?$", re.S
)
HEADING = re.compile(r"(=(?: =)*) (.+?) =(?: =)*")
TOP = 10


@dataclass
class Collection:
    name: str
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Title and text by id."""
    queries: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    """Query, and grades by id."""


def named(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def first_words(text: str, count: int) -> str:
    return " ".join([word for word in WORD.findall(text) if word.lower() not in FUNCTION_WORDS][:count])


def from_t0(path: str) -> list[Collection]:
    questions, summaries = Collection("questions"), Collection("summaries")
    seen = set()
    for row in pq.read_table(path).to_pylist():
        task, prompt, completion = row["task"], row["prompt"], row["completion"].replace("<|endoftext|>", "")
        if task in ("xsum_DOC_tldr", "xsum_DOC_write_summary_of_above"):
            text = re.split(r"\n\n(?:TL;DR|===)", prompt)[0].strip()
            if named(text) not in summaries.documents:
                summaries.documents[named(text)] = ("", text)
                summaries.queries.append((first_words(completion, 5), {named(text): 1}))
        elif task.startswith(("adversarial_qa", "quoref")) and (found := ASKED.search(prompt)):
            question, text = found["q"].strip(), found["c"].strip()
            if "mentioned" not in question and (question, text) not in seen:  # "what is mentioned first?"
                seen.add((question, text))
                questions.documents[named(text)] = ("", text)
                questions.queries.append((question, {named(text): 1}))
    questions.documents |= summaries.documents  # more to choose from
    return [questions, summaries]


def from_wikitext(path: str) -> Collection:
    made = Collection("sections")
    places: dict[str, tuple[str, str]] = {}
    article = section = ""
    for line in map(str.strip, Path(path).read_text(encoding="utf-8").split("\n")):
        if found := HEADING.fullmatch(line):
            level = found[1].count("=")
            article, section = (found[2], "") if level == 1 else (article, section)
            section = found[2] if level == 2 else section
        elif len(line.split()) >= 25:
            text = re.sub(r" @(.)@ ", r"\1", line).replace("<unk>", "")
            made.documents[named(text)] = ("", text)
            places[named(text)] = (article, section)
    for title, heading in sorted({place for place in places.values() if place[1]}):
        grades = {i: 2 if p == (title, heading) else 1 for i, p in places.items() if p[0] == title}
        made.queries.append((f"{title} {heading}", grades))
    return made


def from_store(location: str, count: int) -> list[Collection]:
    headlines, middle = Collection("headlines"), Collection("five words")
    for row in sorted(iter_documents(Store(location).find("clean", "")), key=lambda row: named(row["id"])):
        headlines.documents[row["id"]] = ("", row["text"])
        middle.documents[row["id"]] = (row["title"] or "", row["text"])
        said = row["text"].split()
        if row["title"] and len(said) > 60 and len(middle.queries) < count:
            headlines.queries.append((row["title"], {row["id"]: 1}))
            middle.queries.append((" ".join(said[len(said) // 2 :][:5]), {row["id"]: 1}))
    return [headlines, middle]


def ndcg(ranked: Sequence[str], grades: dict[str, int]) -> float:
    """nDCG@10 with gains 2^grade - 1 (Burges et al. 2005)."""

    def gain(values: Sequence[int]) -> float:
        return sum((2**value - 1) / math.log2(place + 2) for place, value in enumerate(values[:TOP]))

    best = gain(sorted(grades.values(), reverse=True))
    return gain([grades.get(each, 0) for each in ranked]) / best if best else 0.0


def ours(made: Collection, folder: str) -> Callable[[str], list[str]]:
    store = Store(folder)
    clean = store.artifact("clean", named(made.name))
    rows = [Document(i, f"https://c.example/{i}", title, text) for i, (title, text) in made.documents.items()]
    with clean.create("kept/0.parquet") as stream:
        pq.write_table(to_table(rows), stream)
    stage = Index(IndexConfig(questions=0))
    index = PassageIndex(execute(stage, {"clean": clean}, Session(store, max_workers=0))[0].location)
    return lambda query: [p.document_id for p in index.search(query, TOP, 1, min_relevance=0)]


def theirs(made: Collection, stemmed: bool) -> Callable[[str], list[str]]:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english") if stemmed else None

    def tokens(texts: list[str]) -> list[list[str]]:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False)

    index, ids = bm25s.BM25(), list(made.documents)
    index.index(tokens([f"{title}\n{text}" for title, text in made.documents.values()]), show_progress=False)

    def search(query: str) -> list[str]:
        asked = tokens([query])[0]
        if not asked:
            return []
        return [ids[n] for n in np.argsort(-index.get_scores(asked), kind="stable")[:TOP]]

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--t0", default="")
    parser.add_argument("--wikitext", default="")
    parser.add_argument("--store", default="")
    parser.add_argument("--half", type=int, default=1)
    parser.add_argument("--queries", type=int, default=400)
    given = parser.parse_args()
    collections = from_t0(given.t0) if given.t0 else []
    collections += [from_wikitext(given.wikitext)] if given.wikitext else []
    collections += from_store(given.store, given.queries) if given.store else []
    for made in collections:
        chosen = [q for q in made.queries if int(named(q[0]), 16) % 2 == given.half][: given.queries]
        with tempfile.TemporaryDirectory() as folder:
            searches = {
                "headwater": ours(made, folder),
                "bm25s": theirs(made, stemmed=False),
                "bm25s, stemmed": theirs(made, stemmed=True),
            }
            told = []
            for name, search in searches.items():
                lists = [(search(query), grades) for query, grades in chosen]
                first = np.mean([bool(r) and grades.get(r[0], 0) > 0 for r, grades in lists])
                told.append(f"{name} {np.mean([ndcg(*each) for each in lists]):.3f} (hit@1 {first:.3f})")
        sizes = f"{len(chosen)} queries, {len(made.documents)} documents"
        print(f"{made.name} ({sizes}): nDCG@10 " + "; ".join(told), flush=True)


if __name__ == "__main__":
    main()

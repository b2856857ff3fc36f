"""Does the search tell questions that its corpus can answer from those that it cannot?

    python -m benchmarks.serving.refusals STORE [--headlines 400] [--questions FILE]

STORE holds the finished stages `clean` and `index` of one recipe (`headwater run recipes/quickstart.yaml`).
On the corpus: the question about each of so many headlines, half of them of held-out documents. Off it: the
questions of `off_corpus_questions.txt`, which news of 2016 and 2017 do not answer. Where no passage is found
the endpoint says so, with no citation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from headwater.cluster.storage.artifact import Artifact
from headwater.cluster.storage.store import Store
from headwater.data_pipeline.corpus import read_documents
from headwater.data_pipeline.split import document_fraction
from headwater.llm.examples.conversations import HELDOUT_SHARE, clean_title, question_about
from headwater.serving.retrieval.search import MIN_RELEVANCE, PassageIndex

OFF_CORPUS = Path(__file__).with_name("off_corpus_questions.txt")


def headline_questions(clean: Artifact, count: int) -> list[str]:
    """Questions about `count` headlines in the order of the documents' hashes, half of them held out."""
    titles = sorted(
        (document_fraction(row["id"]), title)
        for batch in read_documents(clean, ["id", "url", "title"])
        for row in batch.to_pylist()
        if (title := clean_title(row["title"] or "", row["url"] or ""))
    )
    held_out = [title for fraction, title in titles if fraction < HELDOUT_SHARE]
    others = [title for fraction, title in titles if fraction >= HELDOUT_SHARE]
    return [question_about(title) for title in held_out[: count // 2] + others[: count // 2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--headlines", type=int, default=400)
    parser.add_argument("--questions", type=Path, default=OFF_CORPUS)
    given = parser.parse_args()
    store = Store(given.store)
    index = PassageIndex(store.find("index", "").location)
    on = headline_questions(store.find("clean", ""), given.headlines)
    off = given.questions.read_text(encoding="utf-8").splitlines()
    print(f"{index.description['passages']} passages, least relevance {MIN_RELEVANCE}")
    unanswered = [question for question in on if not index.search(question)]
    answered = {question: found[0].title for question in off if (found := index.search(question))}
    print(f"on the corpus: {len(on) - len(unanswered)} of {len(on)} answered", *unanswered, sep="\n  ")
    print(f"off the corpus: {len(off) - len(answered)} of {len(off)} refused")
    for question, title in answered.items():
        print(f"  {question} → {title}")


if __name__ == "__main__":
    main()

"""From new rankings to a better served model, or to the reason why not: the steps of `headwater improve`.

The rankings are split by prompt. One side trains a judge, a reward model of its own; the other side trains
the candidate. The judge tells whether new rankings follow the rule of trusted ones. Then it learns from
the new ones, too, and tells whether the candidate or the served model answers better. Rankings are trusted
once a model that learnt from them was promoted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from headwater import pipeline, promotion
from headwater.cluster.errors import HeadwaterError
from headwater.cluster.runtime.session import Session
from headwater.cluster.storage.artifact import Artifact, Folder
from headwater.cluster.storage.store import Store
from headwater.comparison import Comparison, remotely
from headwater.llm.examples import rankings
from headwater.llm.examples.rankings import Kept
from headwater.llm.model.dial import learning_rate
from headwater.llm.rankings import gate, judge
from headwater.llm.rankings.aside import set_aside
from headwater.llm.rankings.gate import EVERYBODY, Finding
from headwater.llm.rankings.pairs import pair_lines, pairs_in
from headwater.llm.rankings.raters import FEW
from headwater.llm.stages.data.preference_pairs import PairConfig
from headwater.llm.stages.models import newest
from headwater.llm.stages.reward import RewardConfig
from headwater.promotion import Promotion
from headwater.recipe import Recipe

FOLDER = "improved"
"""Folder of a store with a record of every attempt, and the pairs that were trained on."""
LEARNING = ("dpo", "reward")
"""Stages that learn from rankings."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt, and why."""

    verdict: Literal["promoted", "refused", "waiting"]
    new: int
    """Rankings that no promoted model has learnt from."""
    trusted: int
    findings: list[Finding] = field(default_factory=list)
    model: str = ""
    """`STAGE/KEY` of the candidate, if one was trained."""
    promotion: Promotion | None = None
    set_aside: int = 0
    """Rankings of raters who cannot be believed, which nothing learns from any more."""

    @property
    def reasons(self) -> list[str]:
        return [finding.told for finding in self.findings if not finding.passed]


def improve(recipe: Recipe, session: Session) -> Outcome:
    """Train on new rankings and promote the result if it passes the gate. Every attempt leaves a record.

    Raises HeadwaterError if nothing is promoted, if the recipe learns nothing from rankings, or if a stage
    before those that learn has not finished.
    """
    attempt = _Attempt(recipe, session)
    outcome = attempt.outcome()
    if outcome.verdict != "waiting":
        attempt.record(outcome)
    return outcome


class _Attempt:
    def __init__(self, recipe: Recipe, session: Session) -> None:
        self.recipe, self.session, self.store = recipe, session, session.store
        self.config = recipe.improve
        _check_learns(recipe)
        served = promotion.current(self.store, recipe.name)
        if served is None:
            raise HeadwaterError(
                "no model is served that a better one could be compared with",
                where=recipe.name,
                fix="promote one: headwater promote RECIPE",
            )
        self.served = served
        self.kept = rankings.read(self.store)
        known = _trusted_names(self.store, recipe.name, served)
        self.trusted = [each for each in self.kept if each.name in known]
        self.new = [each for each in self.kept if each.name not in known]

    def outcome(self) -> Outcome:
        counts = len(self.new), len(self.trusted)
        if len(self.new) < self.config.min_rankings:
            return Outcome("waiting", *counts)
        before = dict.fromkeys((*LEARNING, "rl", "evaluate"))  # nothing else is trained: it would take hours
        pipeline.finished(self.recipe.model_copy(update=before), self.session)
        findings = gate.check_raters(self.new, self.trusted, self.config) or self._judged()
        if not all(finding.passed for finding in findings):
            return Outcome("refused", *counts, findings, set_aside=self._set_aside(findings))
        model, measured = self._candidate()
        findings += measured
        if not all(finding.passed for finding in findings):
            return Outcome("refused", *counts, findings, promotion.name_of(model))
        return Outcome(
            "promoted", *counts, findings, promotion.name_of(model), self._promote(model, findings)
        )

    # -- the rankings --------------------------------------------------------------------------
    def _judged(self) -> list[Finding]:
        """Train the judge, and compare new rankings with it."""
        share = self.config.judge_share
        judges, others = judge.split(self.trusted, share)
        settled = sum(1 for each in others for _ in each.ranking.pairs()) >= FEW
        asked, known = self.new, others
        if not settled:  # the first time: the judge learns from new rankings, too
            judges, asked = judge.split(self.kept, share)
            known = []
        self.judge = self._train_judge(judges)
        limit = _judging(self.recipe, "").max_length
        by_rater, trusted = (
            remotely(self.session, judge.margins, self.judge, each, limit) if each else {}
            for each in (asked, known)
        )
        return gate.check_agreement(by_rater, [margin for one in trusted.values() for margin in one])

    def _train_judge(self, kept: Sequence[Kept]) -> Folder:
        config = _judging(self.recipe, self._pairs_file(kept))
        alone = {"reward": config, "dpo": None, "rl": None, "evaluate": None}
        results = pipeline.run(self.recipe.model_copy(update=alone), self.session, until="reward")
        return Folder(results[-1].artifact, "model")

    def _set_aside(self, findings: Sequence[Finding]) -> int:
        names = {finding.rater for finding in findings if not finding.passed}
        moved = [each for each in self.new if {each.ranking.rater, EVERYBODY} & names]
        set_aside(self.store, moved)
        return len(moved)

    # -- the candidate -------------------------------------------------------------------------
    def _candidate(self) -> tuple[Artifact, list[Finding]]:
        held_out, own = judge.split(self.kept, self.config.judge_share)
        self.judge = self._train_judge(held_out)  # now that they are believed, it learns from new ones, too
        chain = _learning(self.recipe, self._pairs_file(own))
        artifacts = {result.name: result.artifact for result in pipeline.run(chain, self.session)}
        model = newest(artifacts)
        earlier = promotion.promotions(self.store, self.recipe.name)
        if before := [each for each in earlier if each.model == promotion.name_of(model)]:
            told = f"the same model was promoted before, as number {before[0].number}"
            return model, [Finding("model", False, told)]
        served, _ = promotion.artifacts_of(self.store, self.served)
        compared = Comparison(
            self.recipe,
            self.session,
            artifacts,
            candidate=Folder(model, "model"),
            served=Folder(served, "model"),
            judge=self.judge,
            max_length=_judging(self.recipe, "").max_length,
            writes=self.served.answer == "write",
        )
        return model, compared.findings([each.ranking for each in held_out])

    def _promote(self, model: Artifact, findings: Sequence[Finding]) -> Promotion:
        _, index = promotion.artifacts_of(self.store, self.served)
        return promotion.promote(
            self.store,
            self.recipe.name,
            model,
            index,
            self.served.answer,
            kind="improve",
            why=f"{len(self.new):,} new rankings",
            gate={each.name: {"told": each.told} | each.figures for each in findings},
            rankings=rankings.fingerprint([each.name for each in self.kept])
            | {"judge": f"reward/{self.judge.artifact.key}"},
            after=self.served.number,
        )

    # -- shared --------------------------------------------------------------------------------
    def _pairs_file(self, kept: Sequence[Kept]) -> str:
        """Location of these rankings' pairs, in a file that is written once: training resumes by its name."""
        text = "".join(pair_lines(kept)).encode()
        name = f"pairs-{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
        folder = self.store.folder(f"{FOLDER}/{self.recipe.name}")
        if not folder.exists(name):
            folder.write_bytes(name, text)
        return folder.path(name)

    def record(self, outcome: Outcome) -> None:
        folder = self.store.folder(f"{FOLDER}/{self.recipe.name}")
        number = len([name for name in folder.files(suffix=".json") if name[:6].isdigit()]) + 1
        content = asdict(outcome) | {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "served": self.served.number,
            "promotion": outcome.promotion.number if outcome.promotion else None,
            "names": [each.name for each in self.kept] if outcome.promotion else [],
        }
        folder.write_json(f"{number:06}.json", content)


def _check_learns(recipe: Recipe) -> None:
    told = {name: section for name in LEARNING if (section := getattr(recipe, name)) and section.rankings}
    if not told or ("dpo" not in told and recipe.rl is None):
        raise HeadwaterError(
            "the recipe learns nothing from rankings",
            where=recipe.name,
            fix="add a section `dpo`, or `reward` and `rl`, with `rankings: true`",
        )


def _trusted_names(store: Store, recipe: str, served: Promotion) -> set[str]:
    """Files of the rankings that the served model has learnt from and was measured by."""
    folder = store.folder(f"{FOLDER}/{recipe}")
    for name in reversed(folder.files(suffix=".json")):
        record = folder.read_json(name)
        if record["promotion"] == (served.restores or served.number):
            return set(record["names"])
    return set()


def _learning(recipe: Recipe, file: str) -> Recipe:
    """The recipe with this file of pairs in the place of the store's rankings."""
    changed: dict[str, Any] = {"evaluate": None}
    for name in LEARNING:
        section: PairConfig | None = getattr(recipe, name)
        if section is not None and section.rankings:
            data = (*(section.data or ()), pairs_in(file))
            changed[name] = section.model_copy(update={"rankings": False, "data": data})
    if recipe.rl is not None and recipe.rl.rankings is True:
        changed["rl"] = recipe.rl.model_copy(update={"rankings": file})
    return recipe.model_copy(update=changed)


def _judging(recipe: Recipe, file: str) -> RewardConfig:
    """The settings of the judge: the recipe's reward model, or one of dpo's size, on these rankings alone."""
    own = {"rankings": False, "corpus_pairs": 0, "model_pairs": 0}
    section = recipe.reward
    if section is None:
        assert recipe.dpo is not None, "checked by `_check_learns`"
        shared = recipe.dpo.model_dump(include=set(RewardConfig.model_fields))
        fresh = {} if recipe.base else {"learning_rate": learning_rate("reward", recipe.depth)}
        section = RewardConfig.model_validate(shared | fresh | own)
    source = (pairs_in(file),) if file else None
    return section.model_copy(update=own | {"data": source})

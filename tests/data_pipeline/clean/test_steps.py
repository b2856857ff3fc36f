"""A field of `CleanConfig` is all that a filter needs to take part in scores, funnel and decisions."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pytest

from headwater.data_pipeline.clean import rescore
from headwater.data_pipeline.clean.funnel import StepCount
from headwater.data_pipeline.clean.score_documents import Measurer
from headwater.data_pipeline.clean.scores import Signer, schema, score_row
from headwater.data_pipeline.clean.select_documents import own_verdicts
from headwater.data_pipeline.clean.steps import CleanConfig
from headwater.data_pipeline.documents import Document
from headwater.data_pipeline.filters.filter import FilterConfig, Measure, Measured
from headwater.data_pipeline.verdict import Rule, Scores
from tests.data_pipeline.corpora import article


class CapitalsConfig(FilterConfig):
    """Cuts the text to `most_characters`, and rejects it if too many of them are capitals."""

    measured_with: ClassVar[frozenset[str] | None] = frozenset({"most_characters"})
    rewrites: ClassVar[bool] = True
    max_capitals: float = 0.3
    most_characters: int = 400

    def measurer(self) -> Measure:
        def cut(found: Measured) -> Scores:
            found.document.text = found.document.text[: self.most_characters]
            return {"capitals": sum(map(str.isupper, found.document.text)) / self.most_characters}

        return cut

    def rules(self) -> list[Rule]:
        return [Rule("capitals", "capitals", most=self.max_capitals)]


class MoreSteps(CleanConfig):
    capitals: CapitalsConfig = CapitalsConfig()


def test_a_field_of_the_settings_makes_a_step() -> None:
    config = MoreSteps()
    assert config.own_steps() == [*CleanConfig().own_steps(), "capitals"]
    measure, sign = Measurer(config), Signer(config)
    quiet, loud = (measure(Document("1", "", "", text)) for text in (article(1), article(2).upper()))
    assert len(quiet.document.text) == quiet.characters["capitals"] == 400
    rows = [score_row(found, sign(found.document.text)) for found in (quiet, loud)]
    table = pa.Table.from_pylist(rows, schema(config))
    counts = {step: StepCount(step) for step in config.own_steps()}
    loose = CleanConfig.model_validate({"gopher_quality": {"enabled": False}})
    verdicts = own_verdicts(table, config.model_copy(update=dict(loose)), counts)
    assert list(verdicts.step) == [None, "capitals"] and list(verdicts.reason) == [None, "capitals"]
    assert counts["capitals"].characters_out == 400 and counts["capitals"].documents_in == 2


def test_only_a_filter_that_leaves_texts_and_later_steps_alone_can_be_switched_off_afterwards() -> None:
    config = MoreSteps()
    separable = {name for name in MoreSteps.model_fields if rescore._is_separable(config, name)}
    assert separable == {
        "licence", "gopher_repetition", "gopher_quality", "fineweb", "quality_classifier", "toxicity",
        "decontaminate", "exact_dedup", "minhash_dedup",
    }  # fmt: skip


OTHER = {
    "languages": ("de",),
    "top_ngrams": ((2, 0.5), (3, 0.5), (4, 0.5)),
    "duplicate_ngrams": tuple((n, 0.5) for n in range(5, 11)),
}
"""Other values for settings that are not numbers."""
STARTED = {"toxicity": {"languages": ("en",)}, "decontaminate": {"sets": (__file__,), "min_words": 3}}


def changes() -> list[tuple[str, str]]:
    """Every setting that a filter says its scores do not depend on."""
    pairs = []
    for step, field in CleanConfig.model_fields.items():
        known = getattr(field.annotation, "measured_with", None)
        if known is not None and step != "quality_classifier":  # needs a trained model
            pairs += [(step, s) for s in type(field.default).model_fields if s not in {*known, "enabled"}]
    return pairs


@pytest.mark.parametrize(("step", "setting"), changes())
def test_scores_do_not_depend_on_settings_that_may_change_after_cleaning(step: str, setting: str) -> None:
    before = CleanConfig.model_validate({step: STARTED.get(step, {})}).filter(step)
    assert before is not None
    value = OTHER.get(setting) or getattr(before, setting) * 2 + 1
    after = before.model_copy(update={setting: value})
    for text in (
        article(1),
        f"# {article(2)}...\n- Buy now buy now!\n\nBuy now buy now!",
        "",
        "Das ist ein Satz.",
    ):
        found = [step.measurer()(Measured(Document("1", "", "", text), {})) for step in (before, after)]
        assert found[0] == found[1]
    assert before.rules() != after.rules()

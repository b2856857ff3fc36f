"""How unlikely answers are to a model."""

from __future__ import annotations

import pytest

from headwater.cluster.storage.artifact import Folder
from headwater.llm.examples.chat import encode_answer, encode_prompt
from headwater.llm.inference import load_engine
from headwater.llm.rankings.judge import Judged
from headwater.llm.rankings.surprise import surprises
from tests.llm.models import save_model

PROMPT = [{"role": "user", "content": "What is the news?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return save_model(tmp_path_factory.mktemp("model"))


def test_the_figure_is_the_mean_over_tokens_and_a_long_answer_is_cut(model: Folder) -> None:
    engine = load_engine(model.local())
    prompt = encode_prompt(engine.tokenizer, PROMPT)
    answer, more = (encode_answer(engine.tokenizer, text)[:-1] for text in ("The rain.", "It is news."))
    both = [engine.score([prompt], [ids])[0] for ids in (answer, more)]
    rain = Judged(PROMPT, "The rain.")
    one, two = surprises(model, [rain], [rain, Judged(PROMPT, "It is news.")])
    assert one == pytest.approx(-sum(both[0]) / len(answer), rel=1e-5)
    assert two == pytest.approx(-sum(map(sum, both)) / (len(answer) + len(more)), rel=1e-5)
    (cut,) = surprises(model, [Judged(PROMPT, "rain " * 2 * engine.context)])
    assert cut > 0
    assert surprises(model, []) == [0]

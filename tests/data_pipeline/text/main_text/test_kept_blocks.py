"""Tables, code and formulas that stay readable through extraction."""

from __future__ import annotations

import pytest

from headwater.data_pipeline.text.main_text.extract import ExtractConfig, main_text
from headwater.data_pipeline.text.main_text.kept_blocks import with_blocks, with_words
from headwater.data_pipeline.text.normalise import normalise
from headwater.data_pipeline.verdict import Rejection
from tests.data_pipeline.corpora import article

TABLE = (
    "<table><thead><tr><th>river</th><th>km</th></tr></thead>"
    "<tbody><tr><td>Rhine <math alttext='r'/></td><td>1,233</td></tr></tbody></table>"
)
LAYOUT = f"<table><tr><td>{article(7)}</td><td>x</td></tr><tr><td>{article(8)}</td><td>y</td></tr></table>"
CODE = "<pre><code>if a &lt; b:\n    <span>return</span> c<br>end</code></pre>"
MATH = (
    "<span class='katex'><span class='katex-mathml'><math><mi>a</mi>"
    "<annotation encoding='application/x-tex'>a^2 + b</annotation></math></span>"
    "<span class='katex-html'>a2+b</span></span>"
)
WIKIPEDIA = "<math alttext='{\\displaystyle x_1}'><mi>x</mi><mn>1</mn></math>"
PAGE = (
    "<html><head><title>t</title></head><body><nav><a href='/'>Home</a></nav><article><h1>Rivers</h1>"
    f"<p>{article(1)}</p>{TABLE}<p>{article(2)} So {MATH} and {WIKIPEDIA} hold.</p>"
    f"{CODE}<p>{article(3)}</p>{LAYOUT}</article></body></html>"
)


@pytest.mark.parametrize("setting", ["quality", "fast"])
def test_what_is_kept_stands_at_its_place_in_the_text(setting: str) -> None:
    config = ExtractConfig.model_validate({"setting": setting, "keep": ["tables", "code", "formulas"]})
    found = main_text(PAGE.encode(), "", config)
    assert not isinstance(found, Rejection)
    text = normalise(found[1])
    assert "\nriver | km\nRhine $r$ | 1,233\n" in text
    assert "\n```\nif a < b:\n    return c\nend\n```\n" in text
    assert "So $a^2 + b$ and $x_1$ hold." in text
    assert text.index(article(1)) < text.index("river | km") < text.index(article(2)) < text.index("```")
    assert article(7) in text and f"{article(7)} |" not in text and "Home" not in text
    assert "keptblock" not in text


def test_without_the_setting_texts_and_keys_are_as_before() -> None:
    assert with_words(PAGE, []) == (PAGE, {})
    assert "keep" not in ExtractConfig().model_dump()


def test_a_word_of_a_page_is_no_block_of_another() -> None:
    html, blocks = with_words(PAGE, ["tables"])
    word = next(iter(blocks))
    other, _ = with_words(f"<p>{word}</p>{TABLE}", ["tables"])
    assert other.count(word) == 1 and word in html
    assert with_blocks(f"{word}1 {word}", {word: "$x$"}) == f"{word}1 $x$"

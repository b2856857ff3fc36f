"""Write data_pipeline/text/words/languages.tsv from FineWeb-2's configurations and datatrove's splitters.

    git clone https://github.com/huggingface/fineweb-2 && python docs/generate_languages.py fineweb-2

Both are Apache-2.0. The table is part of the package; this is how it was made and is brought up to date.
"""

from __future__ import annotations

import csv
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from datatrove.utils._import_utils import ASSETS_PATH

TABLE = Path(__file__).parents[1] / "data_pipeline/text/words/languages.tsv"
HEADER = """\
# Languages: their names in lid.176 and GlotLID, and their limits in FineWeb-2 (Penedo et al. 2025).
# Source: https://github.com/huggingface/fineweb-2 at {commit}, configs/*.yml; word splitters:
# datatrove {version}, assets/tokenizer_assignment.csv. Both Apache-2.0.
# Written by docs/generate_languages.py.
# Limits are left out where the splitter that they were found with is not one of ours.
"""
COLUMNS = (
    "code", "label", "words", "language_score", "dup_line_frac", "top_2", "top_3", "top_4",
    "dup_5", "dup_6", "dup_7", "dup_8", "dup_9", "dup_10", "line_punct_thr", "new_line_ratio",
    "min_avg_word_length", "max_avg_word_length", "max_non_alpha_words_ratio", "stopwords",
)  # fmt: skip
OTHER_CODES = {
    "nob_Latn": "no", "kmr_Latn": "ku", "ckb_Arab": "ckb", "fil_Latn": "tl", "gsw_Latn": "als",
    "bho_Deva": "bh", "hbs_Latn": "sh", "egl_Latn": "eml",
}  # fmt: skip
"""lid.176 takes its codes from the Wikipedias', which differ from ISO 639 here."""
UNSPACED = {"Hani", "Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"}
"""Scripts written without spaces between words."""
LID_176 = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv
cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht
hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg
mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb
ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug
uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""


def splitter(row: dict[str, str]) -> tuple[str, bool]:
    """Name of our splitter, and whether it is datatrove's."""
    kind, name = row["type"], row["tok_code"]
    ours = {
        ("SpaCyTokenizer", "zh"): "jieba",
        ("SpaCyTokenizer", "ja"): "sudachi",
        ("ThaiTokenizer", ""): "thai",
    }
    if (kind, name) in ours:
        return ours[kind, name], True
    if kind == "SpaCyTokenizer" and name != "vi":
        return f"spacy {name}", True
    if kind == "IndicNLPTokenizer":
        return ("indic ur" if name == "ur" else "indic"), True
    if kind == "WhitespaceTokenizer":
        return "spacy xx", True
    return ("clusters" if row["script"] in UNSPACED else "spacy xx"), False


def lines(checkout: Path) -> Iterator[list[str]]:
    with (Path(ASSETS_PATH) / "tokenizer_assignment.csv").open(encoding="utf-8") as stream:
        rows = {f"{row['code_3']}_{row['script']}": row for row in csv.DictReader(stream)}
    codes = {label: code for label, code in OTHER_CODES.items() if label in rows}
    for label, row in rows.items():
        if label in codes or row["default_script"] != "TRUE":
            continue
        for code in (row["code_1"] if row["default_code_1"] == "TRUE" else "", row["code_3"]):
            if code and code not in codes.values() and (len(code) == 2 or code in LID_176.split()):
                codes[label] = code
                break
    for label, row in sorted(rows.items()):
        file = checkout / "configs" / f"{label}.yml"
        words, same = splitter(row)
        limits = [""] * (len(COLUMNS) - 3)
        if file.exists() and same:
            found = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506 (strings: `no` is a word)
            ngrams = [limit for kind in ("top_n_grams", "dup_n_grams") for _, limit in found[kind]]
            limits = [found["language_score"], found["dup_line_frac"], *ngrams]
            limits += [found[name] for name in COLUMNS[14:-1]]
            assert not any(set("\t\n ") & set(word) for word in found["stopwords"]), label
            limits.append(" ".join(found["stopwords"]))
        elif not file.exists() and label not in codes:
            continue
        yield [codes.get(label, label), label, words, *limits]
    for code in sorted({*LID_176.split()} - {*codes.values()}):
        yield [code, "", "spacy xx", *[""] * (len(COLUMNS) - 3)]


def main(checkout: Path) -> None:
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    table = [COLUMNS, *lines(checkout)]
    text = HEADER.format(commit=commit, version=importlib.metadata.version("datatrove"))
    TABLE.write_text(text + "".join("\t".join(row) + "\n" for row in table), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

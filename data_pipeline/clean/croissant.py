"""A corpus in Croissant 1.0, JSON-LD (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headwater.data_pipeline.corpus import KEPT
from headwater.data_pipeline.documents import SCHEMA

CONFORMS = "http://mlcommons.org/croissant/1.0"
COLUMNS = {
    "id": "Hash of URL and content, or the source's own identifier",
    "url": "URL of the page",
    "title": "Title of the page",
    "text": "Plain text after cleaning",
    "source": "File and position that the document was read from",
    "fetched_at": "Time of the fetch, ISO 8601",
    "language": "Main language, ISO 639-1",
    "licence": "Licence that the page names; empty if it names none",
}


def croissant(card: Mapping[str, Any], page: str) -> dict[str, Any]:
    """The card in Croissant. It describes the files beside it, among which is the card as a `page`."""
    licences = [name for name in card["licences"] if name]
    text = f"{card['documents']:,} cleaned documents of {card['different_domains']:,} domains"
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": "corpus",
        "description": f"{text}. {page} beside this file has the details.",
        "conformsTo": CONFORMS,
        "datePublished": card["created"],
        "version": "1.0.0",
        "license": licences or "Not known: the column `licence` has what each page names.",
        "inLanguage": [name for name in card["languages"] if name],
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": KEPT,
                "description": "The kept documents.",
                "encodingFormat": "application/x-parquet",
                "includes": f"{KEPT}/*.parquet",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "documents",
                "name": "documents",
                "description": "One record per document.",
                "key": {"@id": "documents/id"},
                "field": list(_fields(COLUMNS.items())),
            }
        ],
    }


def _fields(columns: Iterable[tuple[str, str]]) -> Iterable[dict[str, Any]]:
    for name, what in columns:
        assert name in SCHEMA.names
        yield {
            "@type": "cr:Field",
            "@id": f"documents/{name}",
            "name": name,
            "description": what,
            "dataType": "sc:Text",
            "source": {"fileSet": {"@id": KEPT}, "extract": {"column": name}},
        }


def _context() -> dict[str, Any]:
    """The context that the specification gives (appendix 1)."""
    terms = "citeAs column extract field fileProperty fileObject fileSet format includes jsonPath key md5"
    terms += " parentField path recordSet references regex repeated replace separator source subField"
    terms += " transform"
    own: dict[str, Any] = {name: f"cr:{name}" for name in terms.split()}
    own |= {"conformsTo": "dct:conformsTo", "isLiveDataset": "cr:isLiveDataset"}
    own |= {name: {"@id": f"cr:{name}", "@type": "@json"} for name in ("data", "examples")}
    own["dataType"] = {"@id": "cr:dataType", "@type": "@vocab"}
    spaces = {"cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/"}
    spaces |= {"dct": "http://purl.org/dc/terms/", "sc": "https://schema.org/"}
    return {"@language": "en", "@vocab": "https://schema.org/", **spaces, **own}

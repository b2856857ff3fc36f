"""Replaces personal identifiers by placeholders that name their kind.

The placeholder depends only on the kind. (datatrove cycles through a list of made-up addresses, so its
output depends on the order of documents.)
"""

from __future__ import annotations

import ipaddress
import re

from headwater.cluster.runtime.stage import StageConfig

# datatrove's expression (RFC 5322's dot-atom) without the address-literal form. Bounded lengths prevent
# slow matching.
EMAIL = re.compile(
    r"(?<![A-Za-z0-9!#$%&'*+/=?^_`{|}~.-])"
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}){0,8}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b"
)
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
CARD = re.compile(r"(?<![\w.,-])[2-6](?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
PHONE = re.compile(
    r"(?<![\w.,/+-])(?:"
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}"  # North American plan
    r"|\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,6}"  # international, E.164
    r")(?![\w-]|[.,/]\d)"
)
PHONE_DIGITS = range(8, 16)

# Fast prefilters: every valid match contains them, so the full expression runs only if they are found.
NUMBERS = re.compile(r"[\d(+][\d ().+-]{6}")
FIRST_TO_LOOK_FOR = {
    EMAIL: re.compile("@"),
    CARD: re.compile(r"[2-6](?:[ -]?\d){12}"),
    IPV4: re.compile(r"\.\d{1,3}\."),
    IPV6: re.compile(":[0-9A-Fa-f]{0,4}:"),
    PHONE: re.compile(r"\+[1-9]|[2-9]\d{2}[ .-]\d{4}"),
}


class PiiConfig(StageConfig):
    """Kinds of identifiers to replace."""

    enabled: bool = True
    """Run this step."""
    emails: bool = True
    """Replace email addresses by `<email>`."""
    cards: bool = True
    """Replace payment card numbers with a valid Luhn check digit by `<card>`."""
    ips: bool = True
    """Replace public IPv4 and IPv6 addresses by `<ip>`."""
    phones: bool = True
    """Replace telephone numbers of the North American plan, or with `+` and a country code, by `<phone>`."""


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character) * (1 + position % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_card(match: str) -> bool:
    digits = re.sub(r"\D", "", match)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _is_public_ip(match: str) -> bool:
    try:
        return ipaddress.ip_address(match).is_global
    except ValueError:
        return False


def _is_phone(match: str) -> bool:
    return sum(map(str.isdigit, match)) in PHONE_DIGITS


KINDS = (
    ("emails", (EMAIL,), "<email>", lambda match: True),
    ("cards", (CARD,), "<card>", _is_card),
    ("ips", (IPV4, IPV6), "<ip>", _is_public_ip),
    ("phones", (PHONE,), "<phone>", _is_phone),
)


def redact(text: str, config: PiiConfig) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and the number of replacements by kind."""
    counts: dict[str, int] = {}
    numbers = NUMBERS.search(text) is not None
    for kind, patterns, placeholder, holds in KINDS:
        if not getattr(config, kind):
            continue

        def replace(match: re.Match[str], kind=kind, placeholder=placeholder, holds=holds) -> str:  # type: ignore[no-untyped-def]
            if not holds(match.group()):
                return match.group()
            counts[kind] = counts.get(kind, 0) + 1
            return placeholder

        for pattern in patterns:
            if (numbers or pattern in (EMAIL, IPV6)) and FIRST_TO_LOOK_FOR[pattern].search(text):
                text = pattern.sub(replace, text)
    return text, counts

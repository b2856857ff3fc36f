"""The HTTP proxy of guarded fetches, with credentials that stay out of settings, manifests and logs.

The guard's meaning behind a proxy: every host name is looked up here and must have a permitted address before
the request is handed to the proxy. The proxy looks the name up once more and connects, so what it may reach
is also for its own rules. The proxy's own address is the user's choice and is not checked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from headwater.cluster.errors import HeadwaterError
from headwater.data_pipeline.sources.spec import Proxied

ENVIRONMENT = "env:"


class Proxy(NamedTuple):
    url: str
    """Scheme, host and port."""
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.url})"

    @property
    def with_credentials(self) -> str:
        if not self.user:
            return self.url
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"


def proxy_of(settings: Proxied) -> Proxy | None:
    """The proxy that settings name. Raises HeadwaterError if its credentials are not where they should be."""
    if not settings.proxy:
        return None
    place = settings.proxy_credentials
    if not place:
        return Proxy(settings.proxy)
    if place.startswith(ENVIRONMENT):
        found = os.environ.get(place.removeprefix(ENVIRONMENT), "")
    else:
        try:
            found = Path(place).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HeadwaterError(
                f"cannot be read: {type(error).__name__}", where=place, fix="correct `proxy_credentials`"
            ) from error
    user, colon, password = found.partition(":")
    if not (user and colon):
        raise HeadwaterError(
            "there is no `user:password`", where=place, fix="set it on every machine that fetches"
        )
    return Proxy(settings.proxy, user, password)

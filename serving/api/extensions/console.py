"""The chat page and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse

from headwater.serving.api.backend import Backend
from headwater.serving.errors import ApiError

CONSOLE = Path(__file__).parents[2] / "console"


async def page(backend: Backend, request: Request) -> Response:
    return FileResponse(CONSOLE / "index.html", headers={"cache-control": "no-cache"})


async def page_file(backend: Backend, request: Request) -> Response:
    files = {path.name: path for path in CONSOLE.iterdir() if path.suffix in (".js", ".css", ".svg")}
    name = request.path_params["name"]
    if name not in files:
        raise ApiError(404, "There is no such file.", code="not_found")
    return FileResponse(files[name], headers={"cache-control": "no-cache"})

"""The page GET /docs: Swagger UI, whose scripts and styles this service serves itself, so it needs no internet.

The files come from the package fastapi-offline. The page names them by relative addresses, which hold behind a proxy
that serves the API below a path of its own. A content security policy forbids browsers to load anything from elsewhere.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(fastapi_offline.__file__).parent / "static"
_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
_START = b"""window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  syntaxHighlight: {activated: true, theme: "agate"},
  validatorUrl: null
});
"""
_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>etegrec API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_POLICY = {
    # Swagger UI writes styles into elements and draws icons from data: addresses; scripts are files of ours only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    **_SAFE,
}


def add_docs_page(app: FastAPI) -> None:
    """Register the page and its files; they are no endpoints of the API, so the OpenAPI document leaves them out."""
    app.add_api_route("/docs", _show_page, methods=["GET"], include_in_schema=False)
    for name in ("start.js", *_MEDIA_TYPES):
        app.add_api_route(f"/docs/{name}", _show_file, methods=["GET"], include_in_schema=False)


async def _show_page(_: Request) -> Response:
    return Response(_PAGE, media_type="text/html", headers=_POLICY)


async def _show_file(request: Request) -> Response:
    """Answer with a file, or with 304 if the browser has it already. An upgrade of the package changes its tag."""
    name = request.scope["path"].rpartition("/")[2]
    content, tag = _read(name)
    headers = {"ETag": tag, "Cache-Control": "public, max-age=3600", **_SAFE}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_MEDIA_TYPES.get(name, "text/javascript; charset=utf-8"), headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Return a file's content and its entity tag."""
    content = _START if name == "start.js" else (_FOLDER / name).read_bytes()
    return content, f'"{sha256(content).hexdigest()[:32]}"'

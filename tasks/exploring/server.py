"""Serve the page to this machine alone.

marimo answers any Host and any Origin. Without the check below, a web page elsewhere could reach the explorer under a
name that resolves to 127.0.0.1 (DNS rebinding), or open its WebSocket from the user's own browser.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from .networks import Network

HOST, NAMES = "127.0.0.1", ("127.0.0.1", "localhost")
# the browser enforces it: the page loads nothing from elsewhere, and no other page embeds it
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'"
)
REFUSAL = b"This page is served to its own machine alone: open it as 127.0.0.1 or localhost.\n"
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_shown: list[Network] = []


def network() -> Network:
    """Return the network that the page shows."""
    return _shown[-1]


def is_local(headers: dict[str, str]) -> bool:
    """Return whether a request asks for this machine by its own name, and comes from no other site's page."""
    host = headers.get("host", "")
    return host.rpartition(":")[0] in NAMES and headers.get("origin", f"http://{host}") == f"http://{host}"


def local_only(application: Application) -> Application:
    """Return an ASGI application that refuses requests for other hosts or from other origins with 403."""

    async def guarded(scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await application(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if is_local(headers):
            await application(scope, receive, _with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": REFUSAL})

    return guarded


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", POLICY.encode())
            message["headers"] = [*message.get("headers", []), policy]
        await send(message)

    return sent


def serve(shown: Network, port: int, browser: bool) -> NoReturn:
    """Serve the page until Ctrl-C, which ends the process. Port 0 selects a free one. Raise OSError for a used port."""
    import marimo
    import uvicorn

    _shown.append(shown)
    page = Path(__file__).with_name("page.py")
    application = local_only(marimo.create_asgi_app(quiet=True).with_app(path="/", root=str(page)).build())
    with socket.socket() as listening, suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # a browser can connect from now on
        except (OSError, OverflowError) as error:
            raise OSError(f"port: expected a free one of {HOST}, got {port}: {error}; choose another --port") from error
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        print(f"explore: {shown.run} at {url}  (Ctrl-C stops)", flush=True)
        if browser:
            threading.Timer(1.0, webbrowser.open, [url]).start()
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])
    sys.stdout.flush()
    os._exit(0)  # marimo's threads would wait for open browser tabs, and there is nothing to save

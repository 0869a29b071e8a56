"""Requests whose bodies are read as strict JSON, where FastAPI takes NaN and Infinity for numbers, and keys twice."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from phalanx.strict_json import parse_json


class StrictRequest(Request):
    """A request whose body is strict JSON, each key of an object once."""

    async def json(self) -> Any:
        """Return the body. JSONDecodeError where it is no JSON."""
        try:
            return parse_json(await self.body(), unique=True)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None


class StrictRoute(APIRoute):
    """A route whose requests are StrictRequests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of each request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict

"""JSON as its standard has it: Python's reader also takes NaN and Infinity, which are no numbers."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class StrictRequest(Request):
    """A request whose body is strict JSON."""

    async def json(self) -> Any:
        """The body; JSONDecodeError where it is none."""
        try:
            body = (await self.body()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise json.JSONDecodeError("it is not UTF-8", "", 0) from None

        def refuse(name: str) -> None:
            raise json.JSONDecodeError(f"{name} is not a number of JSON", body, body.find(name))

        return json.loads(body, parse_constant=refuse)


class StrictRoute(APIRoute):
    """A route that reads such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As it is called for each request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict

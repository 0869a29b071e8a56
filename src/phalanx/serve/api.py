"""The HTTP interface: FastAPI over the pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from phalanx.serve import openai, schemas
from phalanx.serve.metrics import Metrics
from phalanx.serve.pending import Refused
from phalanx.serve.strict import StrictRoute
from phalanx.serve.worker_pool import WorkerPool

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not of the expected form, or it cannot be done."},
    401: {"description": "No known API key."},
    404: {"description": "No such model, or nothing here at all."},
    413: {"description": "The body is too large."},
    "4XX": {"description": "The request cannot be served as it is; error.message says why."},
    415: {"description": "Not sent as JSON."},
    429: {"description": "Too much is asked at once; Retry-After says when to come again."},
    500: {"description": "The model's weights give no finite scores, or the server has a defect."},
    503: {"description": "Not ready, past the deadline, or the computing process was lost."},
}


def make(pool: WorkerPool) -> FastAPI:
    """Make the app over a pool, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pool.start()
        try:
            yield
        finally:
            await pool.stop()

    app = FastAPI(title="Phalanx", lifespan=lifespan, docs_url=None, redoc_url=None, responses=REFUSALS,
                  redirect_slashes=False,
                  description="BERT and GPT: questions, classes, masks, embeddings, completions.")  # fmt: skip
    app.state.pages = {path: _page(name) for path, name in (("/", "index.html"), ("/docs", "docs.html"))}
    app.router.route_class = StrictRoute
    metrics = app.state.metrics = Metrics(pool)
    _errors(app)
    _plain(app, pool)
    _openai(app, pool, metrics)
    _about(app, pool, metrics)
    return app


def _plain(app: FastAPI, pool: WorkerPool) -> None:
    async def ask(kind: str, asked: schemas.Request) -> Any:
        fields = asked.model_dump(exclude={"model", "timeout"})
        return await pool.ask(_named(pool, asked.model, kind), kind, fields, asked.timeout)

    @app.post("/answer", summary="Answer a question about a text")
    async def answer(asked: schemas.Question) -> Any:
        """The part of `context` that answers, and its place in characters; empty where the model says there is none."""
        return await ask("answer", asked)

    @app.post("/classify", summary="Say the class of a text or a pair")
    async def classify(asked: schemas.Classify) -> Any:
        """The likeliest class and the probability of each; of a model for numbers, the number; of another head, what it
        says.
        """
        return await ask("classify", asked)

    @app.post("/fill", summary="Fill the masks of a text")
    async def fill(asked: schemas.Fill) -> Any:
        """The likeliest words of each [MASK]."""
        return await ask("fill", asked)

    @app.post("/embed", summary="Texts as vectors")
    async def embed(asked: schemas.Embed) -> Any:
        """A vector of length 1 for each text."""
        return await ask("embed", asked)


def _openai(app: FastAPI, pool: WorkerPool, metrics: Metrics) -> None:
    @app.post("/v1/completions", summary="Continue a text, in OpenAI's shape")
    async def completions(asked: schemas.Completion) -> Any:
        """The completions of each prompt; with `stream` they come in parts, as server-sent events."""
        completing = openai.Completing(pool, _named(pool, asked.model, "complete"), asked)
        if not asked.stream:
            try:
                response = await completing.whole()
            except ExceptionGroup as group:
                raise openai.first_refused(group) from None
            metrics.tokens.inc(completing.completion_tokens)
            return response
        events = completing.events()
        first = await anext(events)  # what is wrong at once gets its status

        async def stream() -> AsyncIterator[str]:
            try:
                yield first
                async for event in events:
                    yield event
            finally:
                metrics.tokens.inc(completing.completion_tokens)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.post("/v1/embeddings", summary="Texts as vectors, in OpenAI's shape")
    async def embeddings(asked: schemas.Embeddings) -> Any:
        """A vector of length 1 for each text, as numbers or, as OpenAI's client asks, packed."""
        return await openai.embeddings(pool, _named(pool, asked.model, "embed"), asked)

    @app.post("/v1/chat/completions", include_in_schema=False)
    async def chat() -> Any:
        """Refuse, and say what there is instead."""
        message = ("chat is not served: these models continue texts and have learned no dialogue; use POST "
                   "/v1/completions with a prompt. GET /v1/models says what each model can do")  # fmt: skip
        raise Refused(404, message)

    @app.get("/v1/models", summary="The models")
    async def models() -> Any:
        """The models that are served, by name, with what each can do."""
        return {"object": "list", "data": [_model_object(pool, name) for name in pool.models]}

    @app.get("/v1/models/{name:path}", summary="One of the models")
    async def model(name: str) -> Any:
        """The model of that name, with what it can do."""
        _must_know(pool, name)
        return _model_object(pool, name)


def _about(app: FastAPI, pool: WorkerPool, metrics: Metrics) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the server lives")
    async def health() -> Any:
        """Status 200 for as long as the server lives."""
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether the models are loaded")
    async def ready() -> Any:
        """Status 200 once the models are loaded, and 503 until then."""
        return JSONResponse({"ready": pool.ready}, 200 if pool.ready else 503)

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics_text() -> Response:
        """The numbers of requests, tokens and jobs, and the times, in the form that Prometheus reads."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(app.state.pages["/"])

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(app.state.pages["/docs"])


def _page(name: str) -> str:
    return files("phalanx").joinpath("assets", "page", name).read_text(encoding="utf-8")


def _named(pool: WorkerPool, name: str, kind: str) -> str:
    """Return the model of a name, or the one that can do `kind` where none is named. Refused where there is none."""
    _must_know(pool, name)
    if name:
        if kind not in (can := pool.models[name]["can"]):
            raise Refused(400, f"the model {name} cannot {kind}: it can {', '.join(can) or 'do nothing here'}")
        return name
    able = [each for each, facts in pool.models.items() if kind in facts["can"]]
    if len(able) != 1:
        raise Refused(400, f"name one of the models {', '.join(able)}" if able else f"no model here can {kind}")
    return able[0]


def _must_know(pool: WorkerPool, name: str) -> None:
    """Raise Refused while no model is loaded, and where one is named that is not served."""
    if not pool.ready:
        raise Refused(503, "the models are being loaded; try in a moment", 2)
    if name and name not in pool.models:
        raise Refused(404, f"no model {name[:100]!r}; there are {', '.join(pool.models)}", field="model")


def _model_object(pool: WorkerPool, name: str) -> dict[str, Any]:
    """Return a model and what it can do, in OpenAI's shape."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "phalanx", **pool.models[name]}


def _errors(app: FastAPI) -> None:
    def error_response(status: int, message: str, param: str | None = None, after: float = 0.0) -> JSONResponse:
        headers = {"Retry-After": str(round(after))} if after else None
        return JSONResponse({"error": schemas.error(status, message, param)}, status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error_response(error.status, error.message, error.field, error.after)

    @app.exception_handler(Exception)
    async def defect(_: Request, __: Exception) -> JSONResponse:
        return error_response(500, "a defect of the server; its log has the traceback")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):  # of Starlette's router alone: what refuses here raises Refused
            routes = ", ".join(
                f"{verb.upper()} {path}" for path, verbs in app.openapi()["paths"].items() for verb in verbs
            )
            message = f"{message}: there is no {request.method} {request.url.path[:100]} here; there are {routes}"
        return error_response(error.status_code, message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return error_response(415, "send the body as JSON, with the header Content-Type: application/json")
        if first["type"] == "json_invalid":
            return error_response(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
        where = [str(part) for part in first["loc"] if part not in ("body", *schemas.TAGS)]
        message = str(first["msg"]).removeprefix("Value error, ")
        return error_response(400, f"{'.'.join(where) or 'the body'}: {message}", where[0] if where else None)

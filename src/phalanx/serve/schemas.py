"""Requests that clients send: OpenAI's shapes for completions and embeddings, plain ones for the rest."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from phalanx.infer.encoder_model import visible

CHARACTERS = 200_000  # of a text
TEXTS = 2048  # of a request: as many as OpenAI takes
TAGS = ("as text", "as tokens")  # of what may be either; not told to clients


def _some(text: str) -> str:
    if not visible(text):
        raise ValueError("is empty; give some text")
    text.encode()  # lone surrogates are no text
    return text


def _utf8(text: str) -> str:
    text.encode()
    return text


def _several(given: Any) -> Any:
    """Take one text for a list of one, and so the tokens of one."""
    alone = isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int))
    return [given] if alone else given


def _kind(given: Any) -> str:
    return TAGS[isinstance(given, list)]


def _not_bool(given: Any) -> Any:
    """Return the value. ValueError for true and false, which pydantic takes for 1 and 0."""
    if isinstance(given, bool):
        raise ValueError("Input should be a valid number, not true or false")
    return given


def _no_number(given: Any) -> Any:
    """Take false for null: it asks for none."""
    return None if given is False else given


Text = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_some)]
Stop = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_utf8)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
Real = Annotated[float, BeforeValidator(_not_bool)]
Token = Annotated[int, Field(strict=True, ge=0)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=CHARACTERS)]
Several = BeforeValidator(_several, json_schema_input_type=str | list[str])
Ragged = BeforeValidator(_several, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
Prompt = Annotated[str, Field(max_length=CHARACTERS), AfterValidator(_utf8)]


class Request(BaseModel):
    """`model` may be left out where one model can do it; `timeout` is in seconds, at most the server's own."""

    model_config = ConfigDict(extra="forbid")
    model: str = ""
    timeout: Real | None = Field(default=None, gt=0, allow_inf_nan=False)


class Question(Request):
    """A question about a text, however long."""

    question: Text
    context: Text


class Classify(Request):
    """A text to classify, or a pair of texts."""

    text: Text
    pair: Prompt = ""


class Fill(Request):
    """A text with [MASK] in it; `top` words for each."""

    text: Text
    top: Whole = Field(default=5, ge=1, le=100)


class Embed(Request):
    """Texts to turn into vectors."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]


class OpenAI(BaseModel):
    """Takes and leaves aside what OpenAI's clients send beside what is known here, unless it would change the answer.
    `timeout` is in seconds, at most the server's own.
    """

    CANNOT: ClassVar[dict[str, tuple[Any, ...]]] = {}  # what is not done here, and its values that ask for nothing
    model_config = ConfigDict(extra="ignore")
    model: str = ""
    user: str | None = None
    timeout: Real | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _can(cls, given: Any) -> Any:
        for name, idle in cls.CANNOT.items():
            if isinstance(given, dict) and given.get(name) not in (None, *idle):
                raise ValueError(f"{name} is not supported here; leave it out")
        return given


class Embeddings(OpenAI):
    """A request to /v1/embeddings in OpenAI's shape."""

    CANNOT = {"dimensions": ()}
    input: Annotated[
        list[Annotated[Annotated[Text, Tag(TAGS[0])] | Annotated[Tokens, Tag(TAGS[1])], Discriminator(_kind)]],
        Field(min_length=1, max_length=TEXTS), Ragged,
    ]  # fmt: skip
    encoding_format: Literal["float", "base64"] = "float"


class Completion(OpenAI):
    """OpenAI's /v1/completions; temperature 0 always takes the likeliest token. A prompt with its completion is at most
    as long as the model's context: `max_tokens` beyond it ends there.
    """

    CANNOT = {"suffix": ("",), "best_of": (1,), "logit_bias": ({},), "presence_penalty": (0,),
              "frequency_penalty": (0,)}  # fmt: skip
    prompt: Annotated[
        list[Annotated[Annotated[Prompt, Tag(TAGS[0])] | Annotated[Tokens, Tag(TAGS[1])], Discriminator(_kind)]],
        Field(min_length=1, max_length=TEXTS), Ragged,
    ] = [""]  # fmt: skip
    max_tokens: Whole | None = Field(default=16, ge=0)
    temperature: Real | None = Field(default=1.0, ge=0, le=100)
    top_p: Real | None = Field(default=1.0, gt=0, le=1)
    top_k: Whole = Field(default=0, ge=0, le=1_000_000)
    n: Whole | None = Field(default=1, ge=1, le=8)
    seed: Whole | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Annotated[list[Stop], Field(max_length=16), Several] | None = None
    logprobs: Annotated[Whole | None, BeforeValidator(_no_number)] = Field(default=None, ge=0, le=100)
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    echo: bool | None = False

    def options(self, number: int, seed: int) -> dict[str, Any]:
        """Return the arguments of `Options` for the completion of this index."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return {
            "max_tokens": 16 if self.max_tokens is None else self.max_tokens, "temperature": temperature,
            "top_k": self.top_k, "top_p": 1.0 if self.top_p is None else self.top_p, "seed": seed + number,
            "logprobs": self.logprobs, "prompt_logprobs": bool(self.echo) and self.logprobs is not None,
        }  # fmt: skip


def error(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients expect it; `param` is the field of the request that it is about."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    if status == 404 and param == "model":
        return {"message": message, "type": kind, "param": param, "code": "model_not_found"}
    return {"message": message, "type": kind, "param": param, "code": codes.get(status)}

"""What clients send: OpenAI's shapes for completions and embeddings, plain ones for the rest."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

CHARACTERS = 200_000  # of a text
TEXTS = 256  # of a request


def _some(text: str) -> str:
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise ValueError("is empty; give some text")
    text.encode()  # lone surrogates are no text
    return text


def _utf8(text: str) -> str:
    text.encode()
    return text


def _several(given: Any) -> Any:
    """One text is a list of one."""
    if isinstance(given, list) and any(isinstance(each, int | list) for each in given):
        raise ValueError("token ids are not taken here; send text")
    return [given] if isinstance(given, str) else given


Text = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_some)]
Stop = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_utf8)]
Several = BeforeValidator(_several, json_schema_input_type=str | list[str])
Prompt = Annotated[str, Field(max_length=CHARACTERS), AfterValidator(_utf8)]


class Asked(BaseModel):
    """`model` may be left out where one model can do it; `timeout` is in seconds, at most the server's own."""

    model_config = ConfigDict(extra="forbid")
    model: str = ""
    timeout: float | None = Field(default=None, gt=0)


class Question(Asked):
    """A question about a text, however long."""

    question: Text
    context: Text


class Classify(Asked):
    """A text, or two."""

    text: Text
    pair: Prompt = ""


class Fill(Asked):
    """A text with [MASK] in it; `top` words for each."""

    text: Text
    top: int = Field(default=5, ge=1, le=100)


class Embed(Asked):
    """Texts."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]


class OpenAI(BaseModel):
    """Takes and leaves aside what OpenAI's clients send beside what is known here, unless it would change the answer.
    `timeout` is in seconds, at most the server's own.
    """

    CANNOT: ClassVar[dict[str, tuple[Any, ...]]] = {}  # what is not done here, and its values that ask for nothing
    model_config = ConfigDict(extra="ignore")
    model: str = ""
    user: str | None = None
    timeout: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _can(cls, given: Any) -> Any:
        for name, idle in cls.CANNOT.items():
            if isinstance(given, dict) and given.get(name) not in (None, *idle):
                raise ValueError(f"{name} is not supported here; leave it out")
        return given


class Embeddings(OpenAI):
    """OpenAI's /v1/embeddings."""

    CANNOT = {"dimensions": ()}
    input: Annotated[list[Text], Field(min_length=1, max_length=TEXTS), Several]
    encoding_format: Literal["float", "base64"] = "float"


class Completion(OpenAI):
    """OpenAI's /v1/completions; temperature 0 always takes the likeliest token."""

    CANNOT = {"suffix": ("",), "best_of": (1,), "logprobs": (), "logit_bias": ({},), "presence_penalty": (0,),
              "frequency_penalty": (0,)}  # fmt: skip
    prompt: Annotated[list[Prompt], Field(min_length=1, max_length=16), Several] = [""]
    max_tokens: int | None = Field(default=16, ge=1, le=100_000)
    temperature: float | None = Field(default=1.0, ge=0, le=100)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    n: int | None = Field(default=1, ge=1, le=8)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Annotated[list[Stop], Field(max_length=4), Several] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    echo: bool | None = False

    def options(self, number: int, seed: int) -> dict[str, Any]:
        """As `Options` for the completion of a number."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return {
            "tokens": self.max_tokens or 16, "temperature": max(temperature, 1e-6), "top_k": self.top_k,
            "top_p": 1.0 if self.top_p is None else self.top_p, "greedy": temperature == 0, "seed": seed + number,
        }  # fmt: skip

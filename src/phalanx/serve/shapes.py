"""What clients send: OpenAI's shapes for completions and embeddings, plain ones for the rest."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

CHARACTERS = 200_000  # of a text
TEXTS = 256  # of a request


def _some(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; give some text")
    text.encode()  # lone surrogates are no text
    return text


def _utf8(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_some)]
Stop = Annotated[str, Field(min_length=1, max_length=CHARACTERS), AfterValidator(_utf8)]
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
    """Takes and leaves aside what OpenAI's clients send beside what is known here."""

    model_config = ConfigDict(extra="ignore")
    model: str = ""
    user: str | None = None


class Embeddings(OpenAI):
    """OpenAI's /v1/embeddings."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> list[str]:
        """One or several."""
        return [self.input] if isinstance(self.input, str) else self.input


class Completion(OpenAI):
    """OpenAI's /v1/completions; temperature 0 always takes the likeliest token."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=16)] = ""
    max_tokens: int | None = Field(default=16, ge=1, le=100_000)
    temperature: float | None = Field(default=1.0, ge=0, le=100)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    n: int | None = Field(default=1, ge=1, le=8)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    echo: bool | None = False

    @property
    def prompts(self) -> list[str]:
        """One or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> list[str]:
        """Texts that end a completion."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def options(self, number: int, seed: int) -> dict[str, Any]:
        """As `Options` for the completion of a number."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return {
            "tokens": self.max_tokens or 16, "temperature": max(temperature, 1e-6), "top_k": self.top_k,
            "top_p": 1.0 if self.top_p is None else self.top_p, "greedy": temperature == 0, "seed": seed + number,
        }  # fmt: skip

"""F1 of named entities, as CoNLL 2003 counts them: an entity is right when its extent and its kind are."""

from collections.abc import Iterator, Sequence

Entity = tuple[int, int, int, str]  # sentence, first word, one past the last, kind


def f1(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """Return micro-averaged F1 over entities, from predicted and right tags [sentences][words]; 0 where nothing is
    right.

    Tags are B-kind, I-kind (which also begins an entity where it follows another kind) and O.
    """
    proposed, true = set(entities(predicted)), set(entities(right))
    both = 2 * len(proposed & true)
    return both / (len(proposed) + len(true)) if both else 0.0


def entities(sentences: Sequence[Sequence[str]]) -> Iterator[Entity]:
    """Yield the entities of tagged sentences."""
    for number, tags in enumerate(sentences):
        first, kind = 0, ""
        for place, tag in enumerate([*tags, "O"]):
            head, _, tagged = tag.partition("-")
            inside = head == "I" and tagged == kind
            if kind and not inside:
                yield number, first, place, kind
            if not inside:
                first, kind = place, tagged if head in ("B", "I") else ""

"""How a prompt names an object and quotes a caption within a sentence."""

from __future__ import annotations

import re

PHRASES = {"broccoli": "broccoli", "scissors": "a pair of scissors", "skis": "a pair of skis"}
"""Categories of COCO that take no plain article; a data set of other categories gives an annotation its `phrase`."""

AN = re.compile(r"[aeiou]|heir|hono|hour", re.IGNORECASE)
A = re.compile(r"eu|ew|once\b|one\b|u(k|ni(?!d|n)|ri|s[aeiu]|t[aei])", re.IGNORECASE)
"""Openings of words that begin with the sound of a vowel, and exceptions to them: "an umbrella", "a unicycle"."""

OPENINGS = re.compile(
    r"^(A|An|The|This|These|That|There|Some|Several|Many|Various|Two|Three|Four|Five|Six|In|On|At|Under|Inside|Near|Beside"
    r"|Behind|Next|We|It)\b"
)
"""Capitalised words that are no names, so that a caption that opens with one can stand within a sentence."""


def noun_phrase(category: str) -> str:
    """A category with its article: "a cylinder", "an elephant", "a pair of scissors"."""
    article = "an" if AN.match(category) and not A.match(category) else "a"
    return PHRASES.get(category, f"{article} {category}")


ANNOUNCED = re.compile(
    r"^(?:(?:this is )?(?:(?:an?|the) )?(?:(?:black[ -]and[ -]white|close-?up) )?"
    r"(?:picture|photo|photograph|image|view) of"
    r"|a scene with|we see|there (?:is|are)) (?=\w)",
    re.IGNORECASE,
)
"""What a caption says of itself before it says what is there."""

PLACE_FIRST = re.compile(
    r"^((?:in|on|at|under|inside|near|beside|behind|next to|in front of) [^,.]+), "
    r"((?:an?|the|some|several|many|one|two|three|four|five|six|this|these|there|we|[a-z]+ing)\b[^.]+)$",
    re.IGNORECASE,
)
"""A caption of one sentence whose place stands first, before what is there and not before another place."""


def clause(caption: str) -> str:
    """A caption as a part of a sentence: what is there, then where.

    Without a full stop, without "a picture of" or "there is", with a place that stands first put last, and without the
    capital of its first word if that is no name.
    """
    place_first = PLACE_FIRST.match(said := caption.rstrip(". \n") or caption)
    place, said = place_first.groups() if place_first else ("", said)
    said, place = (OPENINGS.sub(lambda opening: opening[0].lower(), each) for each in (ANNOUNCED.sub("", said), place))
    return f"{said}, {place}" if place else said

"""From the words of a prompt to the scene they ask for; draws nothing."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final, NamedTuple

from attrs import frozen

from blossom_async.scenery import vocabulary

__all__ = ["Scene", "read"]


@frozen
class Scene:
    """A prompt, understood.

    `colours` and `features` hold what was asked for by name, `without` what must not appear (the negative
    prompt, and "no ..." or "without ..." in the prompt). `sky_colour` is a colour said of the sky.
    """

    kind: str
    light: str
    season: str
    weather: str
    colours: tuple[str, ...]
    sky_colour: str | None
    features: frozenset[str]
    without: frozenset[str]

    def wants(self, feature: str) -> bool:
        """Whether it was named and not refused."""
        return feature in self.features and feature not in self.without

    def allows(self, feature: str) -> bool:
        """Whether the painter may add it unasked."""
        return feature not in self.without

    @property
    def snowy(self) -> bool:
        """Whether snow lies on the ground."""
        return self.season == "winter" and "snow" not in self.without

    @property
    def dark(self) -> bool:
        """Whether lamps and stars are lit."""
        return self.light in ("night", "moonlight", "aurora", "dusk")


class _Mention(NamedTuple):
    """`named` is false for what a word only hints at: refusing a "boat" does not refuse the sea."""

    concept: vocabulary.Concept
    refused: bool
    named: bool = True


def read(prompt: str, negative_prompt: str | None = None) -> Scene:
    """The scene that the words ask for; what they leave open is chosen by the words, not the seed.

    So a prompt means the same with every seed. A prompt that fits no scene is "abstract".
    """
    mentions = _mentions(prompt)
    without = {m.concept.name for m in mentions if m.refused and m.named}
    without |= {m.concept.name for m in _mentions(negative_prompt or "") if m.named}
    without |= {implied for name in tuple(without) for implied in vocabulary.REMOVED_WITH.get(name, ())}
    asked = [m.concept for m in mentions if not m.refused and m.concept.name not in without]

    features = {c.name for c in asked if c.part == "feature"}
    asked_light = _heaviest(asked, "light")
    said = _heaviest(asked, "kind") or "abstract"
    kind = _with_its_sky(said, features, asked_light)
    weather = _heaviest(asked, "weather")
    if "rainbow" in features:
        weather = "cloudy" if weather in ("rain", "storm") else weather  # the shower has passed
        asked_light = asked_light or "day"
    season = _heaviest(asked, "season")
    if season is None and weather == "snow":
        season = "winter"
    if season is None and "blossom" in features:
        season = "spring"
    colours = tuple(dict.fromkeys(c.name for c in asked if c.part == "colour"))
    if kind == "abstract" and not colours:
        hinted = (name for c in asked if c.part == "hint" for name in vocabulary.SUGGESTED[c.name])
        colours = tuple(dict.fromkeys(name for name in hinted if name not in without))
    sky_colours = [c.name for c in asked if c.part == "sky colour"]
    return Scene(
        kind=kind,
        light=asked_light or _chosen(prompt, "light", vocabulary.LIGHTS[said], without),
        season=season or _chosen(prompt, "season", vocabulary.SEASONS[kind], without),
        weather=weather or "clear",
        colours=colours[:5],
        sky_colour=sky_colours[0] if sky_colours else None,
        features=frozenset(features),
        without=frozenset(without),
    )


def _with_its_sky(kind: str, features: set[str], light: str | None) -> str:
    """A forest is drawn from the inside, without sky or water; if those are asked for, it is on a shore."""
    if kind == "forest" and (light == "aurora" or not features.isdisjoint(_BESIDE_WOODS)):
        return "mountains"
    if kind == "meadow" and not features.isdisjoint(("bridge", "waterfall")):
        return "mountains"  # they need water, and a field has none
    return kind


_BESIDE_WOODS: Final = frozenset(("lake", "waterfall", "mountains", "rainbow", "volcano"))


def _heaviest(concepts: list[vocabulary.Concept], part: str) -> str | None:
    """The name with the most weight behind it; on a tie, the one said first."""
    weights: dict[str, float] = {}
    for concept in concepts:
        if concept.part == part:
            weights[concept.name] = weights.get(concept.name, 0) + concept.weight
    return max(weights, key=weights.__getitem__) if weights else None


def _chosen(prompt: str, purpose: str, options: tuple[str, ...], without: set[str]) -> str:
    left = [name for name in options if name not in without] or list(options[:1])
    digest = hashlib.blake2b(f"{purpose}\0{prompt}".encode("utf-8", "surrogatepass"), digest_size=8)
    return left[int.from_bytes(digest.digest(), "little") % len(left)]


# Letters of any script, with an apostrophe inside; everything else, hyphens too, separates words.
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_REFUSALS: Final = frozenset(("no", "without", "not"))
_FILLERS: Final = frozenset(("a", "an", "any", "the", "some", "single", "visible"))


def _mentions(text: str) -> list[_Mention]:
    """Everything in the text that the vocabulary knows, in order; phrases before their words."""
    words = _WORD.findall(unicodedata.normalize("NFC", text).casefold())
    found: list[_Mention] = []
    refused = False
    at = 0
    while at < len(words):
        word = words[at]
        if word in _REFUSALS:
            refused = True
            at += 1
            continue
        concepts, length = _longest(words, at)
        thing = any(concept.part == "feature" for concept in concepts)
        found.extend(
            _Mention(
                concept, refused, not thing or concept.part == "feature" or concept.name.startswith(word)
            )
            for concept in _in_context(concepts, words, at, length)
        )
        if word not in _FILLERS:
            refused = False
        at += length
    for sign, concepts in vocabulary.SIGNS.items():  # scripts without spaces, and emoji
        if sign in text:
            found.extend(_Mention(concept, refused=False) for concept in concepts)
    return found


def _longest(words: list[str], at: int) -> tuple[tuple[vocabulary.Concept, ...], int]:
    for length in (3, 2):
        phrase = " ".join(words[at : at + length])
        if phrase in vocabulary.MEANINGS and at + length <= len(words):
            return vocabulary.MEANINGS[phrase], length
    for form in _forms(words[at]):
        if form in vocabulary.MEANINGS:
            return vocabulary.MEANINGS[form], 1
    return (), 1


def _forms(word: str) -> tuple[str, ...]:
    """The word itself, then the words it may be a plural or possessive of."""
    word = word.replace("’", "'").removesuffix("'s")
    forms = [word]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    if word.endswith("es"):
        forms.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        forms.append(word[:-1])
    return tuple(forms)


def _in_context(
    concepts: tuple[vocabulary.Concept, ...], words: list[str], at: int, length: int
) -> tuple[vocabulary.Concept, ...]:
    """A colour right before a word for the sky is the colour of the sky, not of the flowers."""
    following = words[at + length : at + length + 2]
    if not vocabulary.SKY_WORDS.isdisjoint(following):
        return tuple(c._replace(part="sky colour") if c.part == "colour" else c for c in concepts)
    return concepts

"""Wordings of `avatars64`: captions that name any part of a person, in any order.

The captions of the data set name everything in one order. These captions name some or all
attributes, in any order and with other connecting words, and have a list of the named values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imagemint.engine.captions import Captions, normalize
from imagemint.training.datasets.avatar_captions import (
    BEARDS,
    CLOTHES,
    GLASSES,
    HEADS,
    MOODS,
    compose_caption,
)
from imagemint.training.datasets.avatars import NONE, STYLES, VALUES

Manner = Literal["data", "order", "part"]

HEAD = "head"
"""Name of the class among the attributes."""
READ: Mapping[str, tuple[str, ...]] = {HEAD: tuple(STYLES), **VALUES}
"""Targets of a reader of captions: the head, then the attributes, each with its values."""

_WITH_HAIR = frozenset({"long hair", "wavy hair", "bun", "afro", "short hair"})
_WITH_CHIN = frozenset(STYLES) - {"hijab"}
_ALWAYS_NAMED = frozenset({"skin", "hair", "mood", "clothes"})
_MANNERS: tuple[Manner, ...] = ("data", "order", "part")
_UP_TO = (0.3, 0.55)
_JOINS: Mapping[str, tuple[str, ...]] = {
    "clothes": ("in", "in", "wearing", "and in", "and", "with", ""),
    "mood": ("", "", "and", "is", "who is"),
}
_OTHER_JOINS = ("", "", "with", "and", "and with", "has", "who has")
_SUBJECTS = ("a person", "a person", "a person", "person", "someone", "")


_COLOURS = ("skin", "hair", "clothes", "hat")
_OTHER_WORDS = ("skin", "an", "bald", "head", "at the sides", "no", "without", "clothes")
_EXAMPLES = (
    "a person with red hair and round glasses",
    "a smiling person with a blue winter hat",
    "a person with very dark skin and a silver afro, in a coral hoodie",
    "long pink hair and sunglasses",
    "a bald person with a black long beard, serious, in a white shirt",
    "a person with pale skin and a mint hijab, content",
    "a person in a blazer over a light blue shirt, with blond hair in a bun",
    "a screaming person with white goggles",
    "a person with tanned skin, short black hair and a black moustache, calm, in a navy hoodie",
    "a person",
)
_AN = re.compile(r"\ba (auburn|afro|overall)\b")


@dataclass(frozen=True)
class Phrase:
    """A part of a caption.

    Attributes:
        text: text such as ``a red beard``.
        names: the values of each attribute that it allows, such as ``hair: {red}``.
        heads: the heads that show the named part; the phrase does not name them.
        before: the words that may stand before the person, such as ``smiling``; "": none.
    """

    text: str
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    heads: frozenset[str] = frozenset(STYLES)
    before: str = ""


def list_phrases(head: str, person: Mapping[str, str]) -> dict[str, tuple[Phrase, ...]]:
    """Returns the phrases for each part of a person; the first is that of the data set.

    Args:
        head: a key of `avatars.STYLES`.
        person: a value for each attribute of `avatars.VALUES`.
    """
    mood = MOODS[person["mouth"]]
    before = mood if " " not in mood else ""
    return {
        "skin": (_make_phrase("{skin} skin", person, "skin"),),
        "hair": _describe_hair(head, person),
        "beard": _describe_beard(person),
        "glasses": _describe_glasses(person),
        "mood": (Phrase(mood, _select_values(person, "mouth"), before=before),),
        "clothes": _describe_clothes(person),
    }


@dataclass(frozen=True)
class Caption:
    """A caption of a person.

    Attributes:
        text: text of the caption.
        attributes: the values of each attribute that it names, by attribute of `READ`.
        allowed: the values of each attribute that fit it, of those that not all fit: what is named,
            the heads that can show it, and no beard or glasses where a caption names skin, hair or
            head, mood and clothes, as all captions of the data set do, but neither of these.
    """

    text: str
    attributes: Mapping[str, frozenset[str]]
    allowed: Mapping[str, frozenset[str]]


def draw_caption(
    head: str, person: Mapping[str, str], rng: np.random.Generator, manner: Manner | None = None
) -> Caption:
    """Returns a caption of a person.

    Args:
        head: a key of `avatars.STYLES`.
        person: a value for each attribute of `avatars.VALUES`.
        rng: draws the words.
        manner: ``data`` as in the data set, ``order`` as much in another order, ``part`` some of
            it. Default: drawn, three in ten as in the data set and a quarter in another order.
    """
    found = list_phrases(head, person)
    manner = manner or _MANNERS[int(np.searchsorted(_UP_TO, rng.random(), side="right"))]
    if manner == "data":
        chosen = {part: phrases[0] for part, phrases in found.items() if not _is_absent(phrases[0])}
        return _make_caption(compose_caption(head, person), chosen)
    kept = 1.0 if manner == "order" else rng.random()
    chosen = {}
    for part, phrases in found.items():
        if rng.random() >= kept or (_is_absent(phrases[0]) and rng.random() >= 0.25):  # noqa: PLR2004 - seldom
            continue
        first = rng.random() < 0.7 and not _is_absent(phrases[0])  # noqa: PLR2004 - mostly
        chosen[part] = phrases[0] if first else phrases[rng.integers(len(phrases))]
        if _is_absent(chosen[part]) and not chosen[part].text:
            del chosen[part]
    return _make_caption(_join(chosen, rng), chosen)


def _is_absent(phrase: Phrase) -> bool:
    return not phrase.text


def _select_values(person: Mapping[str, str], *attributes: str) -> dict[str, frozenset[str]]:
    return {name: frozenset({person[name]}) for name in attributes}


def _make_phrase(text: str, person: Mapping[str, str], *attributes: str) -> Phrase:
    return Phrase(text.format_map(person), _select_values(person, *attributes))


def _describe_hair(head: str, person: Mapping[str, str]) -> tuple[Phrase, ...]:
    values = {HEAD: frozenset({head})}
    if head == "bald":
        top = values | _select_values(person, "top")
        if person["top"] == "sides":
            text = f"{person['hair']} hair at the sides"
            return Phrase(text, top | _select_values(person, "hair")), Phrase(
                "hair at the sides", top
            )
        return Phrase("a bald head", top), Phrase("bald", top, before="bald")
    covered = "{hat}" in HEADS[head]
    colour = _select_values(person, "hat" if covered else "hair")
    plain = Phrase(" ".join(HEADS[head].format(hat="", hair="").split()), values)
    full = Phrase(HEADS[head].format_map(person), values | colour)
    if covered:
        return full, plain
    return full, plain, Phrase(f"{person['hair']} hair", colour, heads=_WITH_HAIR)


def _describe_beard(person: Mapping[str, str]) -> tuple[Phrase, ...]:
    values = _select_values(person, "beard")
    if person["beard"] == NONE:
        return Phrase(""), Phrase("no beard", values), Phrase("without a beard", values)
    text = BEARDS[person["beard"]]
    return (
        Phrase(text.format_map(person), values | _select_values(person, "hair"), heads=_WITH_CHIN),
        Phrase(" ".join(text.format(hair="").split()), values, heads=_WITH_CHIN),
    )


def _describe_glasses(person: Mapping[str, str]) -> tuple[Phrase, ...]:
    value = person["accessories"]
    if value == NONE:
        values = _select_values(person, "accessories")
        return Phrase(""), Phrase("no glasses", values), Phrase("without glasses", values)
    text = GLASSES[value]
    values = {"accessories": frozenset(it for it, wording in GLASSES.items() if wording == text)}
    return (Phrase(text, values), *([Phrase("goggles", values)] if "goggles" in text else []))


def _describe_clothes(person: Mapping[str, str]) -> tuple[Phrase, ...]:
    cut, colour = _select_values(person, "clothing"), _select_values(person, "clothes")
    text = CLOTHES[person["clothing"]]
    blazer = []
    if "blazer" in text:
        blazers = frozenset(it for it, wording in CLOTHES.items() if "blazer" in wording)
        blazer = [Phrase("a blazer", {"clothing": blazers}, heads=_WITH_CHIN)]
    return (
        Phrase(text.format_map(person), cut | colour, heads=_WITH_CHIN),
        Phrase(" ".join(text.format(clothes="").split()), cut, heads=_WITH_CHIN),
        Phrase(f"{person['clothes']} clothes", colour),
        *blazer,
    )


def _make_caption(text: str, chosen: Mapping[str, Phrase]) -> Caption:
    attributes: dict[str, frozenset[str]] = {}
    heads = frozenset(STYLES)
    for phrase in chosen.values():
        attributes |= phrase.names
        heads &= phrase.heads
    allowed = dict(attributes)
    if HEAD not in attributes and heads < frozenset(STYLES):
        allowed[HEAD] = heads
    if chosen.keys() >= _ALWAYS_NAMED:
        for attribute in ("beard", "accessories"):
            allowed.setdefault(attribute, frozenset({NONE}))
    return Caption(text, attributes, allowed)


def _join(chosen: Mapping[str, Phrase], rng: np.random.Generator) -> str:
    parts = [*chosen]
    rng.shuffle(parts)
    subject = _SUBJECTS[rng.integers(len(_SUBJECTS))]
    first = next((it for it in parts if chosen[it].before), None)
    if first and subject and rng.random() < 0.3:  # noqa: PLR2004 - three in ten
        subject = subject.replace("a ", "").replace("someone", "person")
        subject = f"a {chosen[first].before} {subject}"
        parts.remove(first)
    phrases = []
    for part in parts:
        joins = _JOINS.get(part, _OTHER_JOINS)
        phrases.append(f"{joins[rng.integers(len(joins))]} {chosen[part].text}")
    place = 0 if rng.random() < 0.8 else int(rng.integers(len(phrases) + 1))  # noqa: PLR2004 - mostly
    phrases.insert(place, subject)
    words = " ".join(phrases).split()
    if rng.random() < 0.1:  # noqa: PLR2004 - as people type
        words = [word for word in words if word not in ("a", "an")]
    return _AN.sub(r"an \1", " ".join(words)) or "a person"


def _list_words() -> set[str]:
    colours = dict.fromkeys(VALUES, "")
    texts = [" ".join(values) for name, values in VALUES.items() if name in _COLOURS]
    for templates in (HEADS, BEARDS, GLASSES, MOODS, CLOTHES):
        texts += [text.format_map(colours) for text in templates.values()]
    texts += [it for joins in (*_JOINS.values(), _OTHER_JOINS, _SUBJECTS) for it in joins]
    texts += [*_OTHER_WORDS]
    return set(" ".join(texts).lower().split())


CAPTIONS = Captions(
    vocabulary=tuple(sorted(_list_words())),
    max_words=40,  # captions of the data set have at most 28 words
    examples=tuple(normalize(text) for text in _EXAMPLES),
)
"""The captions that a generator of people understands.

A trained network knows the words by their positions, so another vocabulary is another network.
"""


def decode_person(row: NDArray[np.int64]) -> tuple[str, dict[str, str]]:
    """Returns head and attributes by name of class and codes int64 [1 + A]."""
    values = {name: READ[name][code] for name, code in zip(READ, row.tolist(), strict=True)}
    return values.pop(HEAD), values

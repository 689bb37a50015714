"""Captions of `avatars64`: one English sentence for a person's attributes."""

from collections.abc import Mapping

from imagemint.training.datasets.avatars import NONE

HEADS = {
    "hat": "a {hat} hat",
    "winter hat": "a {hat} winter hat",
    "hijab": "a {hat} hijab",
    "turban": "a {hat} turban",
    "long hair": "long {hair} hair",
    "wavy hair": "wavy {hair} hair",
    "bun": "{hair} hair in a bun",
    "afro": "a {hair} afro",
    "short hair": "short {hair} hair",
}
BEARDS = {
    "beardLight": "a {hair} light beard",
    "beardMajestic": "a {hair} long beard",
    "beardMedium": "a {hair} beard",
    "moustacheFancy": "a {hair} curled moustache",
    "moustacheMagnum": "a {hair} moustache",
}
GLASSES = {
    "kurt": "white goggles",
    "prescription01": "glasses",
    "prescription02": "glasses",
    "round": "round glasses",
    "sunglasses": "sunglasses",
    "wayfarers": "dark glasses",
}
MOODS = {
    "concerned": "worried",
    "default": "calm",
    "disbelief": "stunned",
    "grimace": "grimacing",
    "sad": "sad",
    "screamOpen": "screaming",
    "serious": "serious",
    "smile": "smiling",
    "tongue": "tongue out",
    "twinkle": "content",
}
CLOTHES = {
    "blazerAndShirt": "a blazer over a {clothes} shirt",
    "blazerAndSweater": "a blazer over a {clothes} sweater",
    "collarAndSweater": "a {clothes} sweater with a collar",
    "hoodie": "a {clothes} hoodie",
    "overall": "a {clothes} overall",
    "shirtCrewNeck": "a {clothes} shirt",
    "shirtScoopNeck": "a {clothes} top",
    "shirtVNeck": "a {clothes} V-neck shirt",
}


def compose_caption(head: str, person: Mapping[str, str]) -> str:
    """Returns the caption of a person.

    It names skin, head, colour of the hair, beard, glasses, mood and clothes, but not eyes,
    eyebrows and the style of the head.

    Args:
        head: a key of `avatars.STYLES`.
        person: a value for each attribute of `avatars.VALUES`.
    """
    hair = "{hair} hair at the sides" if person["top"] == "sides" else "a bald head"
    parts = ["{skin} skin", HEADS.get(head, hair)]
    if person["beard"] != NONE:
        parts.append(BEARDS[person["beard"]])
    if person["accessories"] != NONE:
        parts.append(GLASSES[person["accessories"]])
    looks = f"{', '.join(parts[:-1])} and {parts[-1]}"
    mood, clothes = MOODS[person["mouth"]], CLOTHES[person["clothing"]]
    sentence = f"a person with {looks}, {mood}, in {clothes}".format_map(person)
    return sentence.replace(" a auburn", " an auburn")

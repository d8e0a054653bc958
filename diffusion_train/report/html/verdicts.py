"""The first screen: what was made, how close to the brand, what was copied, what changed elsewhere, under which rights."""

from __future__ import annotations

from typing import Any

from diffusion_train.report.html.elements import count, number, percent, text
from diffusion_train.report.rights_table import asked_for

SURPRISING = 0.05  # so many false alarms would be seen less often than this
_SERIOUS = ("non-commercial", "no-derivatives", "unknown", "unread")


def verdicts(report: dict[str, Any]) -> str:
    cards = [closeness(report), copied(report), elsewhere(report), rights(report)]
    return f'<section class="cards" aria-label="In short">{"".join(card for card in cards if card)}</section>'


def made(report: dict[str, Any]) -> str:
    """One paragraph in plain words."""
    data, prompts = report["data"], report["prompts"]
    start = f"starting from <b>{text(report['base'])}</b>" if report["base"] else "starting from nothing"
    shown = sum(sample["set"] == "brand" for sample in report["samples"])
    kinds = {
        "learned": "captions it was trained on",
        "general": "prompts that have nothing to do with the brand",
    }
    others = " and ".join(words for kind, words in kinds.items() if kind in prompts)
    return (
        f"A model was trained on {count(data['train'], 'image')} of the brand, {start}; "
        f"{count(data['held_out'], 'more image')} of the brand {'was' if data['held_out'] == 1 else 'were'} never shown to it. "
        f"It drew {count(shown, 'sample')} for {count(prompts['brand']['count'], 'brand prompt')} "
        f"({text(prompts['brand']['origin'])})" + (f", and further ones for {others}." if others else ".")
    )


def closeness(report: dict[str, Any]) -> str:
    found, on_training = report["fidelity"], report["data"]["reference"] != "held-out images"
    closed = found.get("gap_closed")
    if closed and closed["kid"] is not None:
        words = "of the way from the base to real images of the brand, by what the pictures show (features)"
        words += "" if closed["colours"] is None else f"; by colours {percent(closed['colours'])}"
        level = "bad" if closed["kid"] <= 0 else "plain"
        headline = percent(closed["kid"]) if closed["kid"] > 0 else "Further away"
        return _card(level, "How close to the brand", headline, f"{words}. {_scale(found)}")
    words = f"distance to {text(report['data']['reference'])} of the brand (KID, 0 is best)"
    words += f"; the brand's own images are at {number(found['floor']['kid'])}" if found["floor"] else ""
    remark = (
        " No image was held out, so closeness cannot be told from copying: set <code>data.holdout</code>."
        if on_training
        else ""
    )
    return _card(
        "note" if on_training else "plain", "How close to the brand", number(found["run"]["kid"]), f"{words}.{remark}"
    )


def _scale(found: dict[str, Any]) -> str:
    base, run, floor = (found[name]["kid"] for name in ("base", "run", "floor"))
    return f"Distance (KID): base {number(base)}, now {number(run)}, real images {number(floor)}."


def copied(report: dict[str, Any]) -> str:
    kinds = [facts for kind, facts in report["copying"].items() if kind != "base"]
    flagged, total = sum(one["flagged"] for one in kinds), sum(one["samples"] for one in kinds)
    headline, expected = f"{flagged:,} of {total:,}", number(sum(one["expected"] for one in kinds), 1)
    words = "samples come nearer to one training image than unseen images of the brand do"
    if not flagged:
        return _card("good", "What was copied", headline, f"{words}; {expected} would be flagged by chance alone.")
    surprising = min(one["chance"] for one in kinds) < SURPRISING / len(kinds)
    remark = (
        "more than chance explains: look at each pair"
        if surprising
        else "no more than chance explains; look all the same"
    )
    flags = f"{words}: {remark} ({expected} expected by chance)."
    return _card("bad" if surprising else "note", "What was copied", headline, flags)


def elsewhere(report: dict[str, Any]) -> str:
    found = report["drift"]
    if not found:
        return ""
    if not found["seeds"]:
        return _card(
            "plain", "What changed elsewhere", number(found["changed"]), "mean change of general samples (1 − cosine)."
        )
    ratio = found["changed"] / found["seeds"]
    words = "less" if ratio < 0.95 else "more" if ratio > 1.05 else "as much"
    told = f"samples of general prompts changed {words} {'as' if words == 'as much' else 'than'} another seed would change them"
    level = "note" if ratio > 1.05 else "good"
    return _card(
        level, "What changed elsewhere", f"{number(ratio, 1)} ×", f"the change that another seed makes: {told}."
    )


def rights(report: dict[str, Any]) -> str:
    asked = asked_for(report["rights"])
    names = dict.fromkeys(one["name"] for entry in report["rights"] for one in entry["licenses"])
    shown = ", ".join(f"<span>{text(name, 40)}</span>" for name in list(names)[:3])
    headline = shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if not asked:
        return _card(
            "plain", "Under which rights", headline, "No licence on record asks for more than naming its author."
        )
    words = "; ".join(f"<b>{text(term)}</b>: {text(meaning)}" for term, meaning in asked.items())
    level = "bad" if set(_SERIOUS) & set(asked) else "note"
    return _card(level, "Under which rights", headline, f"{words}.")


_SIGNS = {"good": "✓ nothing found", "note": "! look at this", "bad": "✗ decide on this", "plain": ""}


def _card(level: str, title: str, headline: str, words: str) -> str:
    sign = f'<p class="sign">{_SIGNS[level]}</p>' if _SIGNS[level] else ""
    return f'<article class="card {level}"><h2>{title}</h2><p class="headline">{headline}</p><p>{words}</p>{sign}</article>'

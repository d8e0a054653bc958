"""The figures below the pictures, each with what it means."""

from __future__ import annotations

from typing import Any

from diffusion_train.report.html.elements import count, number, percent, table, text
from diffusion_train.report.html.gallery import NAMES
from diffusion_train.report.html.plot import strip, trade_off
from diffusion_train.report.rights_table import asked_for

_KINDS = {
    "brand": "brand prompts",
    "learned": "prompts it was trained on",
    "general": "general prompts",
    "base": "brand prompts and training prompts, by the base, which never saw the images",
}


def details(report: dict[str, Any]) -> str:
    parts = [
        fidelity(report),
        copying(report),
        drift(report),
        sweep(report),
        coverage(report),
        rights(report),
        technical(report),
    ]
    return "".join(part for part in parts if part)


def fidelity(report: dict[str, Any]) -> str:
    found, data = report["fidelity"], report["data"]
    names = {"base": "base", "run": "this run", "floor": "real images of the brand (trained on)"}
    rows = [
        [name, number(found[key]["kid"]), number(found[key]["likeness"]), number(found[key]["colours"], 1)]
        for key, name in names.items()
        if found[key]
    ]
    if closed := found.get("gap_closed"):
        rows.append(["part of the way gone", percent(closed["kid"]), "", percent(closed["colours"])])
    header = ["samples of", "distance (KID), low is good", "likeness, high is good", "colours (CIEDE2000), low is good"]
    strips = "".join(
        f"<tr><th scope=row>{label}</th><td>{strip(found['palettes'][key], f'colours of {label}')}</td></tr>"
        for key, label in {"brand": "the brand", "run": "this run", "base": "the base"}.items()
        if key in found["palettes"]
    )
    small = min(found["samples"], data["held_out_seen"] or data["train_seen"])
    warning = (
        f" With sets as small as {small} images these figures are rough: only large differences mean something."
        if small < 50
        else ""
    )
    return _section(
        "How close to the brand",
        f"{count(found['samples'], 'sample')} of brand prompts against {data['reference']} ({data['held_out_seen'] or data['train_seen']:,}). "
        "KID is a distance between the two sets of pictures as a network sees them; it falls around 0 for two sets of one kind. Likeness is the cosine "
        "of a sample to its nearest image of the brand, on average. Colours is how far the palettes are apart: 1 is just seen, 10 is another colour."
        + warning,
        table(header, rows) + f'<table class="palettes"><tbody>{strips}</tbody></table>',
    )


def copying(report: dict[str, Any]) -> str:
    facts = report["copying"]
    rows = [
        [
            name,
            f"{facts[kind]['flagged']:,} of {facts[kind]['samples']:,}",
            number(facts[kind]["expected"], 1),
            _chance(facts[kind]),
        ]
        for kind, name in _KINDS.items()
        if kind in facts
    ]
    one, limits = facts["brand"], facts["brand"]["thresholds"]
    told = [f"{percent(limits[name])} {words}" for name, words in NAMES.items() if name in limits]
    references = count(one["references"], "image")
    others = one["references"] - one["held_out"]
    mixture = (
        f" ({one['held_out']:,} held-out ones, and {others:,} training images against the others)"
        if others
        else " that were held out"
    )
    asked = (
        ""
        if one["false_alarm"] <= 1.1 * one["asked_false_alarm"]
        else f" <b>So few references cannot hold the rate of {percent(one['asked_false_alarm'])} that was asked for.</b>"
    )
    leaked = (
        f" {count(one['leaked'], 'held-out image')} {'is a' if one['leaked'] == 1 else 'are'} near-duplicate of a training image and counted out."
        if one["leaked"]
        else ""
    )
    return _section(
        "What was copied",
        f"Each sample's nearest training image among {one['train']:,} different ones is looked up by shape (perceptual hash), by what it shows "
        "(features), and as a small picture (16 × 16). The sample is flagged when this image is far nearer than the second nearest: when it is at less than "
        f"{' or '.join(told)} of that one's distance. Those limits come from {references}{mixture}: of images that training never saw, at most "
        f"{percent(one['false_alarm'])} would be flagged.{asked}{leaked} A repeated logo may be just what was asked for; whether it may be is for you to decide.",
        table(["samples of", "flagged", "expected by chance", "so many by chance"], rows),
    )


def _chance(facts: dict[str, Any]) -> str:
    return "–" if not facts["flagged"] else "< 0.1 %" if facts["chance"] < 0.001 else f"{100 * facts['chance']:.1f} %"


def drift(report: dict[str, Any]) -> str:
    found = report["drift"]
    if not found:
        return ""
    rows = [
        ["the same prompt and seed, base and this run", number(found["changed"], 3)],
        *([["the same prompt and model, two seeds", number(found["seeds"], 3)]] if found["seeds"] else []),
    ]
    further = f"Distance of the two sets (KID): {number(found['kid'])}. Colours: {number(found['colours'], 1)}."
    return _section(
        "What changed elsewhere",
        "How much samples of prompts that have nothing to do with the brand changed, in features (1 − cosine). A model that is to draw the brand alone may "
        f"change; one that is to draw everything else as before should stay below the second row. {further}",
        table(["between", "mean change"], rows),
    )


def sweep(report: dict[str, Any]) -> str:
    found = report["sweep"]
    if not found:
        return ""
    rows = [
        [
            f"<b>{text(row['name'])}</b> ← proposed" if row["chosen"] else text(row["name"]),
            number(row["kid"]),
            number(row["likeness"]),
            number(row["colours"], 1),
            number(row["drift"]),
            f"{row['flagged']:,} of {row['samples']:,}",
            "" if row["undominated"] else "beaten",
        ]
        for row in found["rows"]
    ]
    header = ["setting", "KID", "likeness", "colours", "change elsewhere", "flagged", ""]
    return _section(
        "Strengths and steps",
        "Every setting drew the same prompts, one seed of each where there are many. “Scale” is the strength of what was learned: 0 is the base, 1 this run; “step” is a checkpoint. "
        "Pale settings are beaten: another one is at least as good in closeness, change elsewhere and copying, and better in one. Of the others the "
        "ringed one is proposed: flagged no more often than chance does, and nearest to both the best closeness and the least change.",
        trade_off(found["rows"]) + table(header, rows),
    )


def coverage(report: dict[str, Any]) -> str:
    found = report["coverage"]
    rows = [
        [
            text(band["band"]),
            f"{band['prompts']:,}",
            f"{band['samples']:,}",
            number(band["likeness"]),
            f"{band['flagged']:,}",
        ]
        for band in found["bands"]
    ]
    thin = ", ".join(f"{text(one['word'], 40)} ({one['captions']})" for one in found["thin"])
    more = found["num_thin"] - len(found["thin"])
    thin += f" and {more:,} more" if more > 0 else ""
    return _section(
        "What the data hardly name",
        f"A prompt stands in the row of its rarest word: how many of {found['captions']:,} training captions hold it. Words of more than half of the captions "
        f"do not count ({', '.join(text(word, 30) for word in found['common'][:12]) or 'none'}). If likeness falls with rarer words, more images of these would help.",
        table(["captions with its rarest word", "prompts", "samples", "likeness", "flagged"], rows)
        + (f"<p>Words of the prompts that fewer than 3 captions hold: {thin}.</p>" if thin else ""),
    )


def rights(report: dict[str, Any]) -> str:
    rows = [
        [
            text(entry["role"]),
            text(one["name"], 120),
            "–" if one["images"] is None else f"{one['images']:,}",
            ", ".join(f'<b class="term">{text(term)}</b>' for term in one["terms"]) or "naming the author, or nothing",
        ]
        for entry in report["rights"]
        for one in entry["licenses"]
    ]
    meanings = "".join(
        f"<li><b>{text(term)}</b>: {text(meaning)}</li>" for term, meaning in asked_for(report["rights"]).items()
    )
    return _section(
        "Under which rights",
        "What stands beside the images that went into the model and into what it started from. Nobody checked whether it is true, and nothing here is "
        "advice on law. A licence on a drawing is no permission to use a trademark.",
        table(["what", "licence", "images", "asks for"], rows) + (f"<ul>{meanings}</ul>" if meanings else ""),
    )


def technical(report: dict[str, Any]) -> str:
    facts = {
        "run": report["name"],
        "base": report["base"] or "none",
        "weights (SHA-256)": report["weights"],
        "step": report["step"],
        "features": report["fidelity"]["extractor"],
        "training images compared with": f"{report['data']['train_seen']:,} of {report['data']['train']:,}",
        "made": report["made"],
        "diffusion_train": report["version"],
    }
    return _section("Technical", "", table(["", ""], ([text(name), text(value)] for name, value in facts.items())))


def _section(title: str, words: str, body: str) -> str:
    lead = f'<p class="lead">{words}</p>' if words else ""
    return f"<section><h2>{title}</h2>{lead}{body}</section>"

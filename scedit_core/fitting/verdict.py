"""What the validations of a run say about its tuner, in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ERRORS = 2  # standard errors that the gap between two hints must exceed
_NOISE, _BY_HEART = 0.01, 0.05  # of the base's loss: what counts as no change, and what is learnt of the own pictures


def gap(loss: float, base_loss: float) -> float:
    """How much lower a loss is than the base's, as a share of it; negative where it is higher."""
    return (base_loss - loss) / base_loss if base_loss else 0.0


def follows(validation: Mapping[str, Any]) -> bool | None:
    """Whether a control needs its own hint: whether another picture's costs more than two standard errors.

    None where that was not measured: of styles, and with a single picture.
    """
    if validation.get("gap") is None or validation.get("gap_error") is None:
        return None
    return validation["gap"] > ERRORS * validation["gap_error"]


def parting(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The validation from which on the loss falls on pictures that are trained on and no longer on others: the first
    that is as good on unseen pictures as any, up to noise; None for none.

    history: validations of a run, oldest first.
    """
    known = [v for v in history if v.get("loss_trained") is not None]
    if len(known) < 2:
        return None
    last, best = known[-1], min(v["loss_with"] for v in known)
    at = next(v for v in known if v["loss_with"] <= best + _NOISE * v["loss_without"])
    learnt = (at["loss_trained"] - last["loss_trained"]) / last["loss_trained_without"]
    risen = (last["loss_with"] - best) / last["loss_without"]
    return at if learnt > _BY_HEART or (learnt > 0 and risen > _NOISE) else None


def verdict(history: Sequence[Mapping[str, Any]]) -> str:
    """A few sentences on the last of a run's validations, oldest first, and on how it came to be."""
    return " ".join(sentence.english for sentence in sentences(history))


class Sentence(NamedTuple):
    """key: what it says, by which a page has it in another language.  values: the figures that go into that."""

    key: str
    values: dict[str, str]
    english: str


def sentences(history: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """Those of `verdict`; their figures are signed changes of a loss."""
    last = history[-1]
    control = "loss_other_hint" in last or "loss_no_hint" in last
    said = [_learnt(history, "control" if control else "tuner")]
    if control:
        said.append(_hint(last))
    if last.get("loss_teacher") is not None:
        whole, share = gap(last["loss_teacher"], last["loss_without"]), f"{max(last['agreement'], 0) * 100:.0f} %"
        told = f"The ControlNet {_changes(whole)}; of what it adds to the skips the control adds {share}."
        said.append(Sentence("teacher", {"whole": _signed(whole), "share": share}, told))
    return said


def _learnt(history: Sequence[Mapping[str, Any]], what: str) -> Sentence:
    last = history[-1]
    base = last["loss_without"]
    whole = gap(last["loss_with"], base)
    values = {"whole": _signed(whole)}
    if not last.get("unseen", True):
        told = (
            f"The {what} {_changes(whole)} on pictures that it is trained on, which says little about new ones: look "
            "at the previews, or hold pictures out (validation.hold_out)."
        )
        return Sentence("seen", values, told)
    trained = last.get("loss_trained")
    if trained is None:
        return Sentence("unseen", values, f"The {what} {_changes(whole)}.")
    own = gap(trained, last["loss_trained_without"])
    values["own"] = _signed(own)
    both = f"{_changes(whole)} on pictures that it has not seen, and {_changes(own, 'it')} on its own"
    at = parting(history)
    if at is None:
        return Sentence("both", values, f"The {what} {both}.")
    before, others = gap(at["loss_trained"], at["loss_trained_without"]), gap(at["loss_with"], base)
    values |= {"step": str(at["step"]), "others": _signed(others), "before": _signed(before)}
    told = (
        f"From step {at['step']} on the {what} learns its own pictures by heart. At that step it {_changes(others)} on "
        f"pictures that it has not seen, and {_changes(before, 'it')} on its own; now it {_changes(whole, 'it')} on "
        f"unseen ones, and {_changes(own, 'it')} on its own. Take an earlier checkpoint or best.safetensors, or train "
        "on more pictures."
    )
    return Sentence("by_heart", values, told)


def _hint(last: Mapping[str, Any]) -> Sentence:
    follow = follows(last)
    if follow is None:
        told = "Whether it follows its hint cannot be told from one picture: measure two or more (validation.images)."
        return Sentence("hint_unknown", {}, told)
    base = last["loss_without"]
    other = gap(last["loss_other_hint"], base)
    apart, error = (f"{last[name] / base * 100:.2f} %" for name in ("gap", "gap_error"))
    values = {"other": _signed(other), "gap": apart, "error": error}
    so = (
        f"With the hint of another picture it {_changes(other, 'the loss')}, a gap of {apart} with a standard error "
        f"of {error}"
    )
    if follow:
        return Sentence("hint_followed", values, f"{so}: it follows its hint.")
    told = (
        f"{so}: it does not follow its hint yet, which takes a gap of more than two standard errors. Train longer, "
        "or check that each picture has its own hint."
    )
    return Sentence("hint_not_followed", values, told)


def _changes(share: float, what: str = "the validation loss") -> str:
    return f"{'lowers' if share >= 0 else 'raises'} {what} by {abs(share) * 100:.1f} %"


def _signed(share: float) -> str:
    return f"{-share * 100:+.1f} %"

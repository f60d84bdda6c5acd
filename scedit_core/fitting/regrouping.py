"""An optimiser's state from a checkpoint, for a run whose groups of parameters or arguments may be others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .optimizers import KINDS
from .settings import LoopSettings

_OF_SCHEDULE = {"lr", "initial_lr", "factor"}  # of a group, and set anew from the configuration


def grouped_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[list[str]]:
    """The names of the parameters in each of the optimiser's groups."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def load_by_name(
    optimizer: torch.optim.Optimizer,
    names: list[list[str]],
    parts: Mapping[str, Any],
    before: Mapping[str, Any],
    loop: LoopSettings,
) -> str | None:
    """Take a checkpoint's state into a run's optimiser, each parameter's to the parameter of that name; the options of
    groups stay those of the configuration.

    names:  as `grouped_names` has them for the run.  parts, before: of the checkpoint, and its values of `loop`.

    Gives the reason where the state cannot be taken over; the optimiser is as new then.  Raises KeyError and ValueError
    for a state of other parameters.
    """
    saved, known = parts["optimizer"], parts.get("grouped")
    if known is None:  # from before names were kept
        if list(before.get("block_rates", {}).items()) != list(loop.block_rates.items()):
            return "the checkpoint does not say to which blocks it belongs, and loop.block_rates is another now"
        known = names
    if [len(each) for each in known] != [len(group["params"]) for group in saved["param_groups"]]:
        raise ValueError("optimiser of other parameters")
    changed = _changed(before.get("optimizer_arguments", {}), loop, type(optimizer))
    if changed:
        return f"loop.optimizer_arguments has another {' and '.join(changed)} now"
    options = set(inspect.signature(type(optimizer).__init__).parameters) | _OF_SCHEDULE
    numbers = {
        name: number
        for each, group in zip(known, saved["param_groups"], strict=True)
        for name, number in zip(each, group["params"], strict=True)
    }
    of_group = {name: i for i, each in enumerate(known) for name in each}
    tracked = [{k: v for k, v in g.items() if k not in {"params", *options}} for g in saved["param_groups"]]
    own = optimizer.state_dict()
    state, groups = {}, []
    for each, group in zip(names, own["param_groups"], strict=True):
        sources = [tracked[i] for i in sorted({of_group[name] for name in each if name in of_group})]
        if any(source != sources[0] for source in sources):  # such as the weights of schedule-free means
            return "loop.block_rates joins blocks for which the optimiser has counted other numbers"
        groups.append({**group, **(sources[0] if sources else {})})
        for name, number in zip(each, group["params"], strict=True):
            if numbers.get(name) in saved["state"]:
                state[number] = saved["state"][numbers[name]]
    optimizer.load_state_dict({**saved, "state": state, "param_groups": groups})
    return None


def _changed(before: Mapping[str, Any], loop: LoopSettings, known: type) -> list[str]:
    """The arguments that are other than they were, and more than another number: switches and sizes, which may change
    what an optimiser keeps for each parameter."""
    usual = {name: each.default for name, each in inspect.signature(known.__init__).parameters.items()}
    usual |= KINDS[loop.optimizer].arguments
    now = loop.optimizer_arguments
    pairs = {key: (before.get(key, usual.get(key)), now.get(key, usual.get(key))) for key in {*before, *now}}
    return sorted(key for key, (a, b) in pairs.items() if _plain(a) != _plain(b) and not (_smooth(a) and _smooth(b)))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _smooth(value: Any) -> bool:
    """Whether a value is a number of any size, or several; whole ones above 1 are sizes and counts."""
    if isinstance(value, (list, tuple)):
        return all(map(_smooth, value))
    if isinstance(value, str):  # as YAML has 1e-8
        return True
    return isinstance(value, float) or (value in (0, 1) and not isinstance(value, bool) and value is not None)

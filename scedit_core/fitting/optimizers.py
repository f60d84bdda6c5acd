"""The optimisers that a run can name, and what each of them is made of."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import ConfigError, in_short

_OURS = {"params", "lr", "weight_decay"}  # which are set by keys of their own
_OF_NO_USE = {"self", "args", "kwargs", "capturable", "differentiable", "maximize", "closure"}


@dataclass(frozen=True)
class Kind:
    """module, name: of the class.  package: what pip calls it, "" for PyTorch itself.
    rate:      the learning rate of a run that names none.  usable: the lowest and highest one that learn something.
    arguments: what it is given where nothing else is said.
    own_mean:  whether it keeps a running mean of the weights, which takes the place of a schedule and of `ema`.
    """

    module: str
    name: str
    package: str = ""
    rate: float = 1e-4
    usable: tuple[float, float] = (1e-7, 5e-2)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    own_mean: bool = False

    @property
    def schedule(self) -> str:
        """Of a run that names none."""
        return "constant" if self.own_mean else "cosine"


def _bitsandbytes(name: str, **options: Any) -> Kind:
    return Kind("bitsandbytes.optim", name, "bitsandbytes", **options)


def _schedule_free(name: str, **options: Any) -> Kind:
    return Kind("schedulefree", name, "schedulefree", own_mean=True, **options)


_LION = {"rate": 3e-5, "usable": (1e-8, 1e-3)}  # it moves every weight by the whole rate (Chen et al. 2023, 2302.06675)
# AdamW moves a weight by about the rate in each update; Prodigy multiplies the rate that it finds by this one.
KINDS: dict[str, Kind] = {
    "adamw": Kind("torch.optim", "AdamW"),
    "adam": Kind("torch.optim", "Adam"),
    "nadam": Kind("torch.optim", "NAdam"),
    "radam": Kind("torch.optim", "RAdam"),
    "sgd": Kind("torch.optim", "SGD", rate=0.1, usable=(1e-4, 100.0), arguments={"momentum": 0.9}),
    # with a rate of its own it would follow the size of the weights, of which half begin at zero
    "adafactor": Kind(
        *("transformers.optimization", "Adafactor", "transformers"),
        arguments={"scale_parameter": False, "relative_step": False, "warmup_init": False},
    ),
    "adam8bit": _bitsandbytes("Adam8bit"),
    "adamw8bit": _bitsandbytes("AdamW8bit"),
    "adamw_paged": _bitsandbytes("PagedAdamW"),
    "adamw8bit_paged": _bitsandbytes("PagedAdamW8bit"),
    "ademamix8bit": _bitsandbytes("AdEMAMix8bit"),
    "lion": _bitsandbytes("Lion", **_LION),
    "lion8bit": _bitsandbytes("Lion8bit", **_LION),
    "prodigy": Kind(
        *("prodigyopt", "Prodigy", "prodigyopt"),
        rate=1.0,
        usable=(0.1, 10.0),
        arguments={"safeguard_warmup": True, "use_bias_correction": True},
    ),
    "schedulefree_adamw": _schedule_free("AdamWScheduleFree", rate=1e-3),
    "schedulefree_radam": _schedule_free("RAdamScheduleFree", rate=1e-3),
    "schedulefree_sgd": _schedule_free("SGDScheduleFree", rate=1.0, usable=(1e-3, 100.0)),
    "came": Kind("came_pytorch", "CAME", "came-pytorch"),
}


def build(
    name: str, parameters: list, rate: float, weight_decay: float, arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimiser of that name for parameters or groups of them.

    Raises ConfigError where its package is not installed, and for arguments that it does not take.
    """
    kind = KINDS[name]
    known = _class_of(name, kind)
    taken = set(inspect.signature(known.__init__).parameters) - _OF_NO_USE
    for key in arguments:
        if key in _OURS:
            key_of_ours = {"lr": "learning_rate", "params": "block_rates"}.get(key, key)
            raise ConfigError(f"loop.optimizer_arguments: expected none that has a key of its own, found {key}; set "
                              f"loop.{key_of_ours} instead")  # fmt: skip
        if key not in taken:
            raise ConfigError(
                f"loop.optimizer_arguments: expected arguments of {name} ({', '.join(sorted(taken - _OURS))}), found "
                f"{key}; correct or remove it"
            )
    given = {**kind.arguments, **{key: _number(value) for key, value in arguments.items()}}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some tell of their defaults
            made = known(parameters, lr=rate, weight_decay=weight_decay, **given)
    except _BY_BAD_VALUES as error:
        raise _bad_values(name, arguments, error) from error
    if kind.own_mean:
        made.train()
    return made


def try_update(name: str, made: torch.optim.Optimizer, arguments: Mapping[str, Any]) -> None:
    """Have an optimiser make an update: some values are only read then.  Raises ConfigError for those it cannot use."""
    if KINDS[name].package == "bitsandbytes":  # which has no update on a CPU
        return
    for group in made.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    try:
        made.step()
    except _BY_BAD_VALUES as error:
        raise _bad_values(name, arguments, error) from error


_BY_BAD_VALUES = (ValueError, TypeError, AssertionError, RuntimeError, LookupError, AttributeError)


def _bad_values(name: str, arguments: Mapping[str, Any], error: Exception) -> ConfigError:
    return ConfigError(
        f"loop.optimizer_arguments: expected values that {name} can use, found {dict(arguments)} "
        f"({in_short(error, 120)}); correct them"
    )


def _class_of(name: str, kind: Kind) -> type:
    try:
        return getattr(importlib.import_module(kind.module), kind.name)
    except (ImportError, RuntimeError, AttributeError) as error:
        package = kind.package or "--upgrade torch"
        raise ConfigError(
            f"loop.optimizer: expected the package {kind.package or 'torch'} for {name}, found none that has it "
            f"({in_short(error, 80)}); run `python -m pip install {package}` or choose adamw"
        ) from error


def _number(value: Any) -> Any:
    """Numbers that YAML takes for text, such as 1e-8, at any depth."""
    if isinstance(value, (list, tuple)):
        return tuple(_number(each) for each in value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value

"""The JSON schema of study files, made from the same signatures and docstrings that check and document them.

Editors with a YAML language server complete and explain the keys of a file whose first line names the schema. A schema
cannot check everything that `load_study` checks: the lengths of a run, the rules of a class, classes of the user.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from lightning_modules.losses import LOSSES
from lightning_modules.tasks import TASKS
from tuner.config import contenders, registry
from tuner.config.annotations import item_hint, members, takes_steps
from tuner.config.budget import Budget, Final
from tuner.config.component import Component
from tuner.config.known_values import Start
from tuner.config.optimization import OTHER_SCHEDULES, SCHEDULE_KEYS
from tuner.config.registry import FUNCTION, Argument, arguments_of, is_schedule, signature_of
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.study import Objective
from tuner.config.study_name import NAME
from tuner.config.trainer import TrainerConfig
from tuner.config.trial import COMPONENTS

__all__ = ["study_schema"]

Schema = dict[str, Any]

OWN = {"pattern": ":", "description": "package.module:Name, a class or function of your own"}
LENGTH = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9.]+(e[-+]?[0-9]+)? *(epochs?|%)$"}],
}
MEANINGS = {
    "data": "the data module",
    "model": "the network, or a whole LightningModule",
    "optimizer": "the optimizer, with the initial lr that the schedule multiplies",
    "schedule": "the learning-rate schedule; constant by default",
    "averaging": "the average of the weights that is evaluated; none by default",
    "momentum_schedule": "the schedule of the momentum or beta1; none by default",
    "weight_decay_schedule": "the schedule of the weight decay; none by default",
    FUNCTION: "a function that takes a trial and replaces the training run, as module:name",
}
SEED = {"type": "integer", "minimum": 0, "default": 0, "description": "the seed of a trial"}
GROUPS = "parameter groups with their own optimizer settings or schedules, by name"
LOSS = "loss of a network that is not a LightningModule"
TASK = "task of the network; by default the task of its loss"
PARTS = (*COMPONENTS, "averaging")
SECTIONS = {
    "name": "name of the study in Optuna, and of the experiment in MLflow; by default the name of the file",
    "objective": "the metric to optimize, and its direction",
    "budget": "how long the study may take",
    "sampler": "chooses the values of trials; curve by default",
    "pruner": "stops trials early; the default depends on the search space and the budget",
    "final": "how many of the best trials are retrained with fresh seeds, and with how many seeds",
    "enqueue": "values known to be good, by their dotted paths in trial; one mapping for each trial",
    "start": "earlier studies whose best trials are reused",
    "constraints": "conditions that the values of every trial satisfy, such as schedule.steps < 0.2 * steps",
    "trial": "one complete training run, or the call of an objective function",
    "search_space": "the searched values, by their dotted paths in trial",
    "contenders": "for lr-tuner league: the parts of trial that each contender replaces, by its name",
}


def study_schema() -> Schema:
    """Return the schema of a study file (JSON Schema, draft 7)."""
    objective = _settings(Objective)
    sections: dict[str, Schema] = {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "objective": {"anyOf": [objective, {"type": "array", "items": objective, "minItems": 2}]},
        "budget": _settings(Budget),
        "sampler": _options("sampler", SAMPLERS),
        "pruner": _options("pruner", PRUNERS),
        "final": _settings(Final, "null"),
        "enqueue": {"type": ["array", "null"], "items": {"type": "object"}},
        "start": _settings(Start, "null"),
        "constraints": {"type": ["array", "null"], "items": {"type": "string"}},
        "trial": {"type": "object"},
        "search_space": {"type": ["object", "null"]},
        "contenders": _contenders(),
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A study of lr-tuner",
        "type": "object",
        "required": ["trial"],
        "additionalProperties": False,
        "properties": {key: {**schema, "description": SECTIONS[key]} for key, schema in sections.items()},
        "if": {"required": ["trial"], "properties": {"trial": {"required": [FUNCTION]}}},
        "then": {"properties": {"trial": _call(), "search_space": _values_searched()}},
        "else": {"properties": {"trial": _trial(), "search_space": _search_space()}},
        "definitions": {
            "schedule": _component("schedule"),
            "schedules": _one_of("schedule"),
            "range": _range(),
            "choices": _choices(),
            "searched": {"anyOf": [{"$ref": "#/definitions/range"}, {"$ref": "#/definitions/choices"}]},
        },
    }


def _trial() -> Schema:
    schedules = (*OTHER_SCHEDULES, "schedule")
    properties = {kind: _component(kind) for kind in PARTS if kind != "schedule"}
    properties |= {kind: _reference("schedule") for kind in schedules}
    properties = {kind: {**schema, "description": MEANINGS[kind]} for kind, schema in properties.items()}
    properties["groups"] = {"type": "object", "additionalProperties": _group(), "description": GROUPS}
    properties["trainer"] = {**_settings(TrainerConfig), "description": "settings of Lightning's Trainer"}
    callbacks = {"type": "array", "items": _component("callback")}
    properties["trainer"]["properties"]["callbacks"] |= callbacks
    losses = [{"const": name, "description": _summary(target)} for name, target in LOSSES.items()]
    properties["loss"] = {"anyOf": [*losses, {"type": "string", **OWN}, _component("loss")], "description": LOSS}
    properties["task"] = {
        "enum": list(TASKS),
        "description": TASK,
    }
    properties["seed"] = SEED
    properties[FUNCTION] = _function()
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _call() -> Schema:
    """Return the schema of a trial that is the call of an objective function."""
    scalar = {"type": ["string", "number", "boolean", "null"]}
    value = {"anyOf": [scalar, {"type": "array", "items": scalar}]}
    return {"type": "object", "additionalProperties": value, "properties": {FUNCTION: _function(), "seed": SEED}}


def _function() -> Schema:
    named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", **OWN}}}
    return {"anyOf": [{"type": "string", **OWN}, named], "description": MEANINGS[FUNCTION]}


def _values_searched() -> Schema:
    """Return the schema of the search space of an objective function."""
    choice = {"type": "object", "required": ["one_of"], "additionalProperties": False, "properties": {"one_of": {}}}
    return {"type": ["object", "null"], "additionalProperties": {"anyOf": [_reference("searched"), choice]}}


def _group() -> Schema:
    names: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    optimizer = {"type": "object", "description": "arguments of the optimizer that differ from those of the trial"}
    properties = {
        "parameters": {**names, "description": "names of parameters or modules; * stands for any text"},
        "optimizer": optimizer,
        **{key: {**_reference("schedule"), "description": MEANINGS[key]} for key in SCHEDULE_KEYS},
    }
    return {"type": "object", "required": ["parameters"], "additionalProperties": False, "properties": properties}


def _search_space() -> Schema:
    properties: dict[str, Schema] = {}
    for kind in PARTS:
        choice = _reference("schedules") if kind == "schedule" else _one_of(kind)
        properties[kind] = {**choice, "description": f"one of several: {MEANINGS[kind]}"}
        for name in registry.KINDS[kind]:
            for key, schema in _arguments(kind, name).items():
                text = {"description": schema["description"]} if "description" in schema else {}
                properties.setdefault(f"{kind}.{key}", {**_reference("searched"), **text})
    for key in OTHER_SCHEDULES:
        properties[key] = {**_reference("schedules"), "description": f"one of several: {MEANINGS[key]}"}
    for key, schema in _properties(TrainerConfig).items():
        if key != "callbacks":  # a list: its arguments are searched, as trainer.callbacks.0.patience
            properties[f"trainer.{key}"] = {**_reference("searched"), "description": schema["description"]}
    properties["loss"] = {"anyOf": [_reference("searched"), _one_of("loss")], "description": LOSS}
    for name in LOSSES:
        for key, schema in _arguments("loss", name).items():
            text = {"description": schema["description"]} if "description" in schema else {}
            properties.setdefault(f"loss.{key}", {**_reference("searched"), **text})
    properties["seed"] = {**_reference("searched"), "description": "the seed of a trial"}
    other = {"anyOf": [_reference("searched"), {"type": "object", "required": ["one_of"]}]}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": other}


def _contenders() -> Schema:
    part = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    parts: Schema = {"type": "object", "additionalProperties": False, "minProperties": 1}
    parts["properties"] = {key: {**part, "description": MEANINGS[key]} for key in contenders.PARTS}
    return {"type": ["object", "null"], "additionalProperties": parts}


def _component(kind: str) -> Schema:
    """Return the schema of ``{name: ..., argument: value}``: which arguments there are depends on the name."""
    names = [{"const": name, "description": _summary(target)} for name, target in registry.KINDS[kind].items()]
    cases = []
    for name in registry.KINDS[kind]:
        properties = {"name": {"const": name}, **_arguments(kind, name)}
        condition = {"properties": {"name": {"const": name}}, "required": ["name"]}
        cases.append({"if": condition, "then": {"properties": properties, "additionalProperties": _others(kind, name)}})
    return {"type": "object", "properties": {"name": {"type": "string", "anyOf": [*names, OWN]}}, "allOf": cases}


def _one_of(kind: str) -> Schema:
    options = {}
    for name, target in registry.KINDS[kind].items():
        arguments = {
            key: {"anyOf": [schema, _reference("searched")], **{k: v for k, v in schema.items() if k == "description"}}
            for key, schema in _arguments(kind, name).items()
        }
        options[name] = {
            "type": ["object", "null"],
            "description": _summary(target),
            "additionalProperties": {} if arguments_of(kind, name).open else False,
            "properties": arguments,
        }
    choices = {
        "type": "object",
        "properties": options,
        "patternProperties": {":": {"type": ["object", "null"]}},
        "additionalProperties": False,
        "minProperties": 2,
    }
    return {"type": "object", "required": ["one_of"], "additionalProperties": False, "properties": {"one_of": choices}}


def _range() -> Schema:
    prior = {
        "type": "object",
        "required": ["center", "width"],
        "properties": {"center": LENGTH, "width": {"type": "number"}},
    }
    properties = {
        "low": {**LENGTH, "description": "smallest value, inclusive"},
        "high": {**LENGTH, "description": "largest value, inclusive"},
        "log": {"type": "boolean", "default": False, "description": "whether to draw uniformly on a log scale"},
        "step": {**LENGTH, "description": "draw low, low + step, ... up to high"},
        "prior": {**prior, "description": "the value around which the first trials are drawn"},
    }
    return {"type": "object", "required": ["low", "high"], "additionalProperties": False, "properties": properties}


def _choices() -> Schema:
    values = {"type": "array", "minItems": 2, "items": {"type": ["string", "number", "boolean", "null"]}}
    keyed = {"type": "object", "required": ["choices"], "properties": {"choices": values}}
    return {"anyOf": [values, {**keyed, "additionalProperties": False}]}


def _options(kind: str, known: Mapping[str, Mapping[str, Any]]) -> Schema:
    """Return the schema of a sampler or pruner."""
    cases = []
    for name, options in known.items():
        properties = {key: _typed(Argument(hint, required=False)) for key, hint in options.items()}
        condition = {"properties": {"name": {"const": name}}, "required": ["name"]}
        then = {"properties": {"name": {"const": name}, **properties}, "additionalProperties": False}
        cases.append({"if": condition, "then": then})
    names = {"enum": list(known)}
    return {"anyOf": [names, {"type": "object", "properties": {"name": names}, "allOf": cases}]}


def _settings(section: type, *more_types: str) -> Schema:
    types = ["object", *more_types] if more_types else "object"
    return {"type": types, "additionalProperties": False, "properties": _properties(section)}


def _properties(section: type) -> dict[str, Schema]:
    texts = _explained(section)
    return {key: {**_typed(each), **texts.get(key, {})} for key, each in signature_of(section).arguments.items()}


def _arguments(kind: str, name: str) -> dict[str, Schema]:
    """Return the schemas of the arguments of a component."""
    texts = _explained(registry.resolve(kind, name))
    return {key: {**_typed(each), **texts.get(key, {})} for key, each in arguments_of(kind, name).arguments.items()}


def _others(kind: str, name: str) -> Schema | bool:
    """Return the schema of arguments that a signature does not name, such as a formula's; false if there are none."""
    signature = arguments_of(kind, name)
    return _typed(Argument(signature.others, required=False)) if signature.open else False


def _typed(argument: Argument) -> Schema:
    """Return the schema of the values of an argument, with its default."""
    hint, default = argument.hint, argument.default
    if is_schedule(hint):
        schema: Schema = _reference("schedule")
        return {"anyOf": [schema, {"type": "null"}]} if type(None) in members(hint) else schema
    if is_schedule(item_hint(hint, 0)):
        return {"type": "array", "items": _reference("schedule")}
    if takes_steps(hint):
        schema = LENGTH
    elif item_hint(hint, 0) is Component:
        schema = {}
    elif takes_steps(item_hint(hint, 0)):
        schema = {"type": "array", "items": LENGTH}
    else:
        try:
            schema = TypeAdapter(hint).json_schema()
        except Exception:  # JSON does not have the type
            schema = {}
    is_given = not argument.required and isinstance(default, str | int | float) and default != 0
    return {**schema, "default": default} if is_given else dict(schema)


def _explained(target: Any) -> dict[str, Schema]:
    """Return the descriptions of arguments in the docstrings of a class and its bases."""
    found: dict[str, Schema] = {}
    for each in reversed(target.__mro__ if isinstance(target, type) else [target]):
        arguments = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        for match in re.finditer(r"^    (\w+): (.*(?:\n        .*)*)", arguments[1] if arguments else "", re.MULTILINE):
            found[match[1]] = {"description": " ".join(match[2].split()).replace("`", "").replace("::", ":")}
    return found


def _summary(target: Any) -> str:
    return inspect.cleandoc(target.__doc__ or "").partition("\n")[0].replace("`", "")


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}

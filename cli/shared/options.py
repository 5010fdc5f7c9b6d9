"""Options that several commands share, and the objects that they denote."""

from __future__ import annotations

import csv
import os
import platform
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click
import numpy as np
import torch
from click.core import ParameterSource

import fewshot
from fewshot.checks import SettingError, check_choice, did_you_mean
from fewshot.features import FeatureSet, load_features

from .words import option_name

__all__ = [
    "COUNT",
    "FROM_0",
    "NUMBERS",
    "POSITIVE",
    "PoolFiles",
    "argument_default",
    "bit_range_option",
    "bundle",
    "check_folder",
    "choice",
    "class_positions",
    "classes_option",
    "default",
    "device_option",
    "device_option_with",
    "document_head",
    "features_option",
    "flag",
    "given_options",
    "json_option",
    "json_option_with",
    "labels_option",
    "load_pool",
    "model_option",
    "pairs_option",
    "pool_options",
    "process_device",
    "quiet_option",
    "refuse_together",
    "refuse_unused",
    "resolve_device",
    "resume_option",
    "run_options",
    "setting_option",
    "settings_object",
    "settings_of",
    "tuned_option",
    "usage_errors",
    "weights_option",
    "whole_numbers",
    "workers_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
Settings = TypeVar("Settings")
Decorator = Callable[[Any], Any]
Callback = Callable[[click.Context, click.Parameter, Any], Any]
Kind: TypeAlias = "click.ParamType[Any] | Sequence[str] | Mapping[str, Any]"

DEVICES = ("auto", "cpu", "cuda")


def bundle(*decorators: Decorator) -> Callable[[Command], Command]:
    """Join options to one decorator; the help shows them in this order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def default(settings: type, name: str) -> Any:
    """Return the default of a field of a library's settings, for the option of that name.

    A field whose default depends on others, which is None, makes an option without a default.
    """
    field = next(field for field in fields(settings) if field.name == name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def argument_default(function: Callable[..., Any], name: str) -> Any:
    """Return the default of an argument of a library's function."""
    return signature(function).parameters[name].default


def settings_object(context: click.Context, kind: type[Settings], words: dict[str, Any]) -> Settings:
    """Move the fields of a library's settings out of a command's words, and build the settings.

    Raises
    ------
    click.UsageError
        If the settings do not fit together.
    """
    names = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    with usage_errors(context):
        try:
            return kind(**{name: words.pop(name) for name in names if name in words})
        except SettingError:
            raise
        except ValueError as error:  # of a part, such as a method's option
            raise click.UsageError(str(error), context) from error


@contextmanager
def usage_errors(context: click.Context) -> Iterator[None]:
    """Report settings that do not fit together as wrong words: exit code 2, each setting by its option's name."""
    try:
        yield
    except SettingError as error:
        raise click.UsageError(error.worded(option_name), context) from error


def settings_of(settings: Any) -> dict[str, Any]:
    """Return a library's settings by name, for the JSON document."""
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.init}


def given_options(context: click.Context) -> set[str]:
    """Return the names of the parameters that stand on the command line."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def flag(context: click.Context, name: str) -> str:
    """Return an option as people write it."""
    return next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)


def refuse_unused(context: click.Context, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options that were given and would do nothing.

    Parameters
    ----------
    context
    rules
        For a parameter, whether it is of use, and else why not: the sentence after the option's name, such as
        ``"needs --test"``.

    Raises
    ------
    click.UsageError
        If an option of no use was given.
    """
    given = given_options(context)
    for name, (is_of_use, why) in rules.items():
        if name in given and not is_of_use:
            raise click.UsageError(f"{flag(context, name)} {why}", context)


def refuse_together(context: click.Context, why: str, names: Iterable[str]) -> None:
    """Refuse options that another one, named in ``why``, decides: all that were given, in one message.

    Raises
    ------
    click.UsageError
        If any was given.
    """
    given = given_options(context)
    useless = [flag(context, name) for name in names if name in given]
    if useless:
        raise click.UsageError(f"{why}: leave out {', '.join(useless)}", context)


def choice(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of an option or argument that takes one of some words; an error names the nearest."""

    def check(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            return check_choice("word", value, words)
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return {"callback": check, "metavar": "|".join(words)}


def whole_numbers(*words: str) -> Callback:
    """Return a callback that reads ``1,5,10``, or lets one of the words, or nothing, pass."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> str | tuple[int, ...] | None:
        if value is None or value in words:
            return value
        parts = value.split(",")
        if not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", part) for part in parts):
            needed = " or ".join(["whole numbers from 1, separated by commas, such as 1,5,10", *words])
            raise click.BadParameter(f"needs {needed}; got {value!r}", context, parameter)
        return tuple(dict.fromkeys(int(part) for part in parts))

    return read


NUMBERS = {"callback": whole_numbers(), "metavar": "LIST"}
COUNT, FROM_0 = click.IntRange(min=1), click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)


def setting_option(settings: type, name: str, kind: Kind, text: str, **more: Any) -> Decorator:
    """Return the option of a library's setting, by its name and with its default.

    Parameters
    ----------
    settings, name
        The settings, and the field.
    kind
        The option's value: a range of numbers, the words to choose from, a word for any text, or settings of
        `click.option`.
    text
        The help.
    **more
        For `click.option`, in place of what follows from the others.
    """
    value = default(settings, name)
    if isinstance(value, tuple) and not more.get("multiple"):
        value = ",".join(map(str, value))
    return click.option(option_name(name), name, **{"default": value, "help": text, **_taking(kind), **more})


def _taking(kind: Kind) -> Mapping[str, Any]:
    """Return the settings of an option that takes a kind of value."""
    if isinstance(kind, str):
        return {"metavar": kind}
    if isinstance(kind, click.ParamType):
        return {"type": kind, "metavar": "N" if isinstance(kind, click.IntRange) else "X"}
    return kind if isinstance(kind, Mapping) else choice(kind)


def features_option(text: str, *, is_required: bool = True) -> Decorator:
    """Return ``--features``, ``text`` saying which rows it takes."""
    return click.option("--features", metavar="STORE|FILE|digits", required=is_required, help=text)


def labels_option(
    text: str = "Labels in place of the file's own: .npy, .txt (one a line) or .csv, row for row.",
) -> Decorator:
    """Return ``--labels``, a file in place of the features' own labels."""
    return click.option("--labels", metavar="FILE", help=text)


def _bit_range(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", value)
    low, high = (int(found[1]), int(found[2])) if found else (0, 0)
    if not low < high <= 65535:
        raise click.BadParameter(f"expected whole numbers LOW:HIGH from 0 to 65535, such as 0:4095, got {value!r}")
    return low, high


bit_range_option = click.option(
    "--bit-range",
    callback=_bit_range,
    metavar="LOW:HIGH",
    show_default="what a TIFF states, else 0:65535",
    help="The darkest and the lightest value of 16-bit gray images, such as 0:4095 of a 12-bit camera.",
)


def pairs_option(option: str, name: str, text: str) -> Decorator:
    """Return an option ``KEY=VALUE`` that may be given several times."""
    return click.option(option, name, metavar="KEY=VALUE", multiple=True, help=text)


def weights_option(text: str) -> Decorator:
    """Return ``--weights`` of an extractor."""
    return click.option("--weights", metavar="FILE|random", show_default="the published ones", help=text)


def tuned_option(*, is_repeatable: bool) -> Decorator:
    """Return the option ``--tuned``; unless it is repeatable, it takes the place of ``--method``."""
    several = "A method with the settings that fewshot tune wrote, in place of the --method of that name or beside the"
    one = "The method, with the settings that fewshot tune wrote; in place of --method."
    return click.option(
        "--tuned",
        multiple=is_repeatable,
        metavar="FILE",
        help=f"{several} others; repeatable." if is_repeatable else one,
    )


def resume_option(text: str) -> Decorator:
    """Return ``--resume``, on unless it is switched off."""
    return click.option("--resume/--no-resume", "is_resumed", default=True, help=text)


def workers_option(text: str, show_default: str) -> Decorator:
    """Return ``--workers``, the processes that prepare images."""
    return click.option("--workers", type=FROM_0, metavar="N", show_default=show_default, help=text)


def classes_option(text: str) -> Decorator:
    """Return ``--classes``, ``text`` saying how they are named."""
    return click.option("--classes", metavar="LIST", show_default="all", help=text)


def model_option(text: str = "The .safetensors file of fewshot learn.") -> Decorator:
    """Return ``--model``, the file of an incremental classifier."""
    return click.option("--model", metavar="FILE", required=True, help=text)


pool_options = bundle(
    features_option(
        "Labelled features: a store of fewshot extract, or STORE:LAYER of it; .npz, .safetensors, .npy, .csv, "
        ".parquet or .pt; FILE.npz:SPLIT for one split of it; or the bundled digits."
    ),
    labels_option(),
    classes_option(
        "Classes to use, such as 0-24,30 or crow,wren, or @FILE with a name a line: positions from 0 in the file's "
        "order, or names. Where every name is a whole number, numbers are names."
    ),
)


def device_option_with(text: str) -> Decorator:
    """Return ``--device``."""
    return click.option("--device", default="auto", **choice(DEVICES), help=text)


def json_option_with(others: str) -> Decorator:
    """Return ``--json``, ``others`` being the output without it."""
    return click.option("--json", "is_json", is_flag=True, help=f"Print one JSON document in place of {others}.")


device_option = device_option_with("Where to compute; auto takes a GPU if there is one.")
json_option = json_option_with("tables")
quiet_option = click.option("--quiet", "is_quiet", is_flag=True, help="No progress bar on stderr.")


_EPISODES_SEED = "Decides the episodes: one seed, one list on any device."


def run_options(settings: type, seed_help: str = _EPISODES_SEED) -> Decorator:
    """Return the options of how a command runs, ``seed_help`` explaining the seed of the settings."""
    return bundle(
        setting_option(settings, "seed", FROM_0, seed_help),
        device_option,
        json_option,
        quiet_option,
    )


@dataclass(frozen=True, kw_only=True)
class PoolFiles:
    """The labelled rows that a command reads, and how it runs: `pool_options` and `run_options`."""

    features: str
    labels: str | None
    classes: str | None
    device: str
    is_json: bool
    is_quiet: bool

    def load(self) -> FeatureSet:
        """Read the rows of the classes."""
        return load_pool(self.features, self.labels, self.classes)


def load_pool(features: str, labels: str | None, classes: str | None) -> FeatureSet:
    """Read features and keep the rows with labels, of the named classes."""
    pool = load_features(features, labels=labels).labelled()
    return pool if classes is None else pool.select_classes(class_positions(classes, pool.class_names))


def class_positions(text: str, names: Sequence[str], *, option: str = "--classes") -> list[int]:
    """Turn ``0-24,30``, names or ``@FILE``, the value of an option, into positions in the list of classes.

    Words are separated by commas; a name with commas is found by its parts, or given in double quotes. A file has a
    name on each line.

    Raises
    ------
    click.UsageError
        If a class is not known, or the file cannot be read.

    Examples
    --------
    >>> class_positions("0-1,wren", ["crow", "jay", "tit", "wren"])
    [0, 1, 3]
    >>> class_positions("11-12", ["10", "11", "12"])
    [1, 2]
    >>> class_positions('Parus major, 1758,"Parus, ater"', ["Parus major, 1758", "Parus, ater"])
    [0, 1]
    """
    positions = _positions(names)
    parts = _lines(text[1:], option) if text.startswith("@") else _parts(text, positions)
    words = [word for part in parts for word in _spelled_out(part, positions)]
    unknown = next((word for word in words if word not in positions), None)
    if unknown is not None:
        known = f"{len(names)} classes, {names[0]!r} to {names[-1]!r}"
        raise click.UsageError(f"{option}: no class {unknown!r} among {known}{did_you_mean(unknown, names)}")
    return list(dict.fromkeys(positions[word] for word in words))


def _parts(text: str, known: Iterable[str]) -> list[str]:
    """Return the words between commas; neighbours that make up a known name are joined again, the longest first.

    Examples
    --------
    >>> _parts('a, b,"c,d",e', ["a, b", "a", "b"])
    ['a, b', 'c,d', 'e']
    """
    with_commas = {re.sub(r"\s*,\s*", ",", name): name for name in known}
    words = [word.strip() for word in next(csv.reader([text], skipinitialspace=True), [])]
    parts, start = list[str](), 0
    while start < len(words):
        stops = range(len(words), start, -1)
        stop = next((stop for stop in stops if ",".join(words[start:stop]) in with_commas), start + 1)
        word = ",".join(words[start:stop])
        parts.append(with_commas.get(word, word))
        start = stop
    return parts


def _lines(path: str, option: str) -> list[str]:
    """Return the names of a file, one a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise click.UsageError(f"{option}: cannot read {path}: {reason}; give a text file with a name a line") from None
    return [line.strip() for line in lines if line.strip()]


def _positions(names: Sequence[str]) -> dict[str, int]:
    """Return the position of each class by its name, and by its number unless all names are numbers."""
    by_name = {name: position for position, name in enumerate(names)}
    if all(name.isdecimal() for name in names):
        return by_name
    return {str(position): position for position in range(len(names))} | by_name


def _spelled_out(word: str, known: Iterable[str]) -> list[str]:
    """Return the numbers of a range; any other word, and a name that looks like a range, as it is."""
    ends = re.fullmatch(r"(\d+)-(\d+)", word)
    if ends is None or word in known:
        return [word]
    if ends[2] not in known:
        return [ends[2]]
    return [str(number) for number in range(int(ends[1]), int(ends[2]) + 1)] or [word]


def resolve_device(name: str) -> torch.device:
    """Return the device of a word.

    Raises
    ------
    ValueError
        If it is not there.
    """
    is_there = torch.cuda.is_available()
    if name == "cuda" and not is_there:
        raise ValueError("--device cuda: torch finds no GPU on this machine: use --device cpu")
    return torch.device("cuda" if is_there and name != "cpu" else "cpu")


def process_device(name: str) -> str:
    """Return the device of a word, of several GPUs that of this process of ``torchrun``.

    Raises
    ------
    ValueError
        If it is not there.
    """
    device = f"{resolve_device(name)}"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device


def document_head(context: click.Context) -> dict[str, Any]:
    """Return the head of every JSON document: command line and versions."""
    command = context.meta.get("command", [])
    versions = {
        "fewshot": fewshot.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {
        "command": command,
        "command_line": shlex.join(command),
        "version": fewshot.__version__,
        "torch_version": torch.__version__,
        "versions": versions,
    }


def check_folder(path: str) -> None:
    """Check that a file can be written, before hours of work.

    Raises
    ------
    OSError
        If there is no such folder, it cannot be written to, or ``path`` is one.
    """
    folder = Path(path).parent
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}: create it before writing {Path(path).name}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"no right to write to the folder {folder}")

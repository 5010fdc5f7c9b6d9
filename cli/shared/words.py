"""Numbers, and the names of settings, as words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fewshot.checks import deprecation_note

__all__ = [
    "RENAMED_OPTIONS",
    "counted",
    "counts_listed",
    "current_words",
    "option_name",
    "percent",
]

_N_LISTED = 10


def counted(number: int, one: str, many: str) -> str:
    """Return a number and what it counts.

    Examples
    --------
    >>> counted(1, "class", "classes"), counted(1200, "class", "classes")
    ('1 class', '1,200 classes')
    """
    return f"{number:,} {one if number == 1 else many}"


def counts_listed(counts: Mapping[str, int], *, others: str = "") -> str:
    """Return names and their counts, the first ten of them.

    Examples
    --------
    >>> counts_listed({"crow": 3, "jay": 1200})
    'crow (3), jay (1,200)'
    """
    words = [f"{name} ({count:,})" for name, count in list(counts.items())[:_N_LISTED]]
    more = [f"and {len(counts) - _N_LISTED:,}{others} more"] if len(counts) > _N_LISTED else []
    return ", ".join(words + more)


def percent(share: float | None) -> str:
    """Return a share in per cent, one that is less than all never as 100 %; a dash for none.

    Examples
    --------
    >>> percent(0.5), percent(0.9999), percent(1.0), percent(None)
    ('50 %', '99 %', '100 %', '–')
    """
    return "–" if share is None or share != share else f"{int(100 * share + 1e-9)} %"


# Settings of the library whose option has another name than ``--`` and the setting's own.
_OPTIONS: Mapping[str, str] = {
    "changes": "--set",
    "export": "--export-folders",
    "is_flipped": "--flip",
    "is_resumed=False": "--no-resume",
    "methods": "--method",
    "n_draws": "--draws",
    "pool": "--features",
}


def option_name(setting: str) -> str:
    """Return the option of a setting.

    Examples
    --------
    >>> option_name("n_shot")
    '--n-shot'
    """
    return _OPTIONS.get(setting, f"--{setting.replace('_', '-')}")


# Current options by deprecated ones, for each command: {"discover": {"--centre": "--center"}}.
RENAMED_OPTIONS: Mapping[str, Mapping[str, str]] = {}


def current_words(words: Sequence[str], renamed: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return a command's words with current options in place of deprecated ones, and a note about each of these.

    Examples
    --------
    >>> words, notes = current_words(["--centre=yes", "--", "--centre"], {"--centre": "--center"})
    >>> words
    ['--center=yes', '--', '--centre']
    >>> notes
    ['--centre is deprecated and will be removed in fewshot 0.3: use --center']
    """
    n_options = words.index("--") if "--" in words else len(words)
    given = [word.partition("=") for word in words[:n_options]]
    notes = [deprecation_note(name, renamed[name]) for name, _, _ in given if name in renamed]
    return [renamed.get(name, name) + sign + value for name, sign, value in given] + list(words[n_options:]), notes

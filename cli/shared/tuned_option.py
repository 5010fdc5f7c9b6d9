"""``--tuned``: settings that ``fewshot tune`` chose, for classes that it did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from fewshot.evaluation.fitted_methods import FittedMethod

__all__ = ["tuned_facts", "tuned_option"]


def tuned_option(*, is_repeatable: bool) -> Callable[[Any], Any]:
    """Return the option ``--tuned``; unless it is repeatable, it takes the place of ``--method``."""
    several = "A method with the settings that fewshot tune wrote, in place of the --method of that name or beside the"
    one = "The method, with the settings that fewshot tune wrote; in place of --method."
    return click.option(
        "--tuned",
        multiple=is_repeatable,
        metavar="FILE",
        help=f"{several} others; repeatable." if is_repeatable else one,
    )


def tuned_facts(tuned: FittedMethod, class_names: Sequence[str]) -> dict[str, Any]:
    """Describe a tuned method for the JSON document: the file, and which classes of its tuning are here too."""
    seen = sorted({*tuned.seen_classes(class_names)})
    return {"file": tuned.file, "method": tuned.text, "n_classes": len(tuned.class_names), "seen_classes": seen}

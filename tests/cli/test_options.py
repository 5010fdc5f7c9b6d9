"""Options of the library's settings: their names, and defaults that are stated once."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest
from fewshot.cli.main import cli
from fewshot.cli.shared.options import default

from fewshot.evaluation import EpisodeExperiment, TrainingExperiment
from fewshot.evaluation.discovery import DiscoveryExperiment
from fewshot.evaluation.probes import ProbeExperiment
from fewshot.evaluation.sessions import SessionExperiment
from fewshot.features import ExtractSettings
from fewshot.few_shot_classifier import ClassifySettings
from fewshot.image_distillation import DistillSettings
from fewshot.incremental_models import FoundClasses, LearnSettings, PredictSettings
from fewshot.tuning import TuningExperiment

SETTINGS = {
    "episode": (EpisodeExperiment,),
    "train unem": (TrainingExperiment,),
    "tune": (TuningExperiment,),
    "calibrate": (SessionExperiment,),
    "discover": (DiscoveryExperiment,),
    "probe": (ProbeExperiment,),
    "extract": (ExtractSettings,),
    "classify": (ClassifySettings,),
    "distill": (DistillSettings,),
    "learn": (LearnSettings, FoundClasses),
    "predict": (PredictSettings,),
}
# The word of an option for a default that depends on the data.
WORDS = {"effective_ways": "mix"}


def options(words: str) -> dict[str, click.Option]:
    command: click.Command = cli
    for word in words.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return {str(option.name): option for option in command.params if isinstance(option, click.Option)}


def stated(value: object) -> object:
    """Return a default, or None where there is none."""
    return value if isinstance(value, (str, int, float, tuple)) and value != () else None


@pytest.mark.parametrize("command", SETTINGS)
def test_the_default_of_an_option_is_that_of_its_setting(command: str) -> None:
    found, n_compared = options(command), 0
    for settings in SETTINGS[command]:
        for name in {field.name for field in fields(settings)} & found.keys():
            value = default(settings, name)
            if isinstance(value, tuple) and not found[name].multiple:
                value = ",".join(map(str, value))
            assert stated(found[name].default) == WORDS.get(name, stated(value)), name
            n_compared += 1
    assert n_compared

"""How a labelled pool is cut into problems: labels in, indices out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_episodes.discovery import DiscoverySplit, discovery_split, ssb_known_classes
    from fewshot_episodes.episode import Episode, EpisodeHash, EpisodeIndex
    from fewshot_episodes.index_files import published_sessions
    from fewshot_episodes.meta_dataset import MetaDatasetSampler
    from fewshot_episodes.sampler import EpisodeSampler
    from fewshot_episodes.sessions import SESSION_PROTOCOLS, Session, SessionProtocol, incremental_sessions

__all__ = [
    "SESSION_PROTOCOLS",
    "DiscoverySplit",
    "Episode",
    "EpisodeHash",
    "EpisodeIndex",
    "EpisodeSampler",
    "MetaDatasetSampler",
    "Session",
    "SessionProtocol",
    "discovery_split",
    "incremental_sessions",
    "published_sessions",
    "ssb_known_classes",
]

# Each name loads on first use.
_LAZY = {
    "DiscoverySplit": "fewshot_episodes.discovery",
    "Episode": "fewshot_episodes.episode",
    "EpisodeHash": "fewshot_episodes.episode",
    "EpisodeIndex": "fewshot_episodes.episode",
    "EpisodeSampler": "fewshot_episodes.sampler",
    "MetaDatasetSampler": "fewshot_episodes.meta_dataset",
    "SESSION_PROTOCOLS": "fewshot_episodes.sessions",
    "Session": "fewshot_episodes.sessions",
    "SessionProtocol": "fewshot_episodes.sessions",
    "discovery_split": "fewshot_episodes.discovery",
    "incremental_sessions": "fewshot_episodes.sessions",
    "published_sessions": "fewshot_episodes.index_files",
    "ssb_known_classes": "fewshot_episodes.discovery",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module 'fewshot_episodes' has no attribute {name!r}")

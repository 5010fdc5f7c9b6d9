"""How a labelled pool is cut into problems: labels in, indices out."""

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

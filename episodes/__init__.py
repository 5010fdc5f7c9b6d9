"""How a labelled pool is cut into problems: labels in, indices out."""

from episodes.episode import Episode, EpisodeHash, EpisodeIndex
from episodes.meta_dataset import MetaDatasetSampler
from episodes.sampler import EpisodeSampler

__all__ = ["Episode", "EpisodeHash", "EpisodeIndex", "EpisodeSampler", "MetaDatasetSampler"]

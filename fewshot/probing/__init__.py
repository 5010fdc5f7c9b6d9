"""Evaluation of frozen features: post-processing, linear probes, neighbours and retrieval on cached features."""

from fewshot_episodes.stratified import stratified_split

from fewshot.probing.linear import LinearProbe, LinearSVM, flatten_views, pairwise_votes, reduce_views
from fewshot.probing.logistic import LogisticRegression
from fewshot.probing.neighbours import nearest_rows, neighbour_scores
from fewshot.probing.post import L2, PCA, Chain, FittedStep, SignedPower, Standardise, Step
from fewshot.probing.presets import PRESETS, parse_steps
from fewshot.probing.retrieval import RetrievalScores, ranking_scores, retrieval_scores, set_distance

__all__ = [
    "L2",
    "PCA",
    "PRESETS",
    "Chain",
    "FittedStep",
    "LinearProbe",
    "LinearSVM",
    "LogisticRegression",
    "RetrievalScores",
    "SignedPower",
    "Standardise",
    "Step",
    "flatten_views",
    "nearest_rows",
    "neighbour_scores",
    "pairwise_votes",
    "parse_steps",
    "ranking_scores",
    "reduce_views",
    "retrieval_scores",
    "set_distance",
    "stratified_split",
]

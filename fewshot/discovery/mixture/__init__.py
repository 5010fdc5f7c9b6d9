"""Semi-supervised Gaussian mixtures by EM, under five forms of covariance.

`state` holds a mixture and its densities, `start` the first state, `em_steps` the E-step and the M-step over all rows,
`fit` the loop. A covariance form is a class in `forms`; `densities` and `updates` are the equations that all forms have
in common, `log_prior` the density of the parameters, `chunked_sums` the sufficient statistics in chunks and over
processes, `scaling` the standardized coordinates. The estimator is `fewshot.SemiSupervisedGaussianMixture`.
"""

from fewshot.discovery.mixture.em_steps import e_step, m_step
from fewshot.discovery.mixture.fit import MixtureResult, fit_mixture
from fewshot.discovery.mixture.start import state_from_means, state_from_partition, state_from_responsibilities
from fewshot.discovery.mixture.state import Assignment, MixtureState, assign, log_densities, log_responsibilities

__all__ = [
    "Assignment",
    "MixtureResult",
    "MixtureState",
    "assign",
    "e_step",
    "fit_mixture",
    "log_densities",
    "log_responsibilities",
    "m_step",
    "state_from_means",
    "state_from_partition",
    "state_from_responsibilities",
]

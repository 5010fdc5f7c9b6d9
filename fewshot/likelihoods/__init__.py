"""Likelihoods of a class under EM: Gaussian, with the scatter that sets its scale, and Dirichlet.

- `gaussian_likelihood`, `effective_variance`: spherical Gaussians in units of the episode's scatter.
- `fit_dirichlet`: maximum likelihood of a Dirichlet class from probabilities.
"""

from fewshot.likelihoods.dirichlet import fit_dirichlet
from fewshot.likelihoods.gaussian import gaussian_likelihood
from fewshot.likelihoods.scatter import effective_variance

__all__ = ["effective_variance", "fit_dirichlet", "gaussian_likelihood"]

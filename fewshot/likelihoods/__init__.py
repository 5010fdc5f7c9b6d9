"""Class likelihoods for generalized EM: Gaussian, its scatter, Dirichlet."""

"""What EM needs to know of a class: Gaussian, its scatter, Dirichlet."""

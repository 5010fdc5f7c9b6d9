"""Semi-supervised Gaussian mixture by EM."""

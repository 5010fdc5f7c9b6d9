"""UNEM: the unrolled EM, its training, and the adaptive version."""

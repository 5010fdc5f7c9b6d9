"""Features of diffusion U-Nets: noise an image once, run the network up to a block, pool."""

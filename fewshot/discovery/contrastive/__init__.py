"""Contrastive representation learning on frozen features: `losses`, the projection `head`, and `training`."""

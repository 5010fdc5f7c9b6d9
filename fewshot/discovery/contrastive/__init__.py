"""Contrastive representation learning on a frozen backbone's features."""

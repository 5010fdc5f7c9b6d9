"""Frozen networks from timm, torchvision, published ViT checkpoints, open_clip and the user's own code."""

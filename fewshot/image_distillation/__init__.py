"""Self-supervised distillation on images: streams, backbones, checkpoints."""

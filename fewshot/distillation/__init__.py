"""Self-supervised distillation: Mugs and CMD, and what both stand on."""

"""Every run draws the same examples, whatever the machine's speed or its number of cores."""

import torch
from hypothesis import settings

settings.register_profile("fewshot", derandomize=True, deadline=None, max_examples=20)
settings.load_profile("fewshot")
torch.set_num_threads(1)

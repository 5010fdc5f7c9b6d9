"""Inference runtimes under a frozen extractor: torch itself (``eager``), OpenVINO, ONNX Runtime, torch's inductor.

`prepare` compiles an extractor's forward pass by a runtime, and checks it against eager torch. Compiled networks are
kept in a bounded cache folder (`fewshot.features.runtimes.cache`).
"""

from fewshot.features.runtimes.choice import AUTO, RUNTIMES, Prepared, prepare
from fewshot.features.runtimes.forward import ForwardPass

__all__ = ["AUTO", "RUNTIMES", "ForwardPass", "Prepared", "prepare"]

"""What is written to disk: tensors with metadata, text, folders of results, scratch folders; whole or not at all.

- `save_tensors`, `load_tensors`: one safetensors file, versioned, never a pickle.
- `replacing`, `write_text_atomic`: a file that is whole or not there.
- `fewshot.storage.result_folders`: results written into the folder that the user named.
- `fewshot.storage.scratch`: scratch folders that leave nothing behind.
"""

from fewshot.storage.tensors import (
    DiskFullError,
    check_free,
    load_tensors,
    replacing,
    save_tensors,
    write_text_atomic,
)

__all__ = ["DiskFullError", "check_free", "load_tensors", "replacing", "save_tensors", "write_text_atomic"]

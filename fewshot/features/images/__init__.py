"""Images to uint8 tensors: which files, how they are decoded, resized and cut."""

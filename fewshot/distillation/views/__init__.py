"""Views of an image: multi-crop, augmentation, random erasing."""

"""From a photo to a Face and an Identity (numpy, OpenCV, insightface, CLIP vision)."""

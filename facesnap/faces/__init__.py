"""From a photo to a Face and an Identity (numpy, OpenCV, insightface, CLIP vision).

Importing this package imports neither insightface nor onnxruntime nor transformers; that waits for their use.
"""

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.face import Face, Quality, choose_face
from facesnap.faces.packs import Pack, find_pack
from facesnap.faces.picture import read_picture

__all__ = ["Face", "FaceAnalyser", "Pack", "Quality", "choose_face", "find_pack", "read_picture"]

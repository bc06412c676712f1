"""How well models find faces: the WIDER FACE protocol, and the same for any annotated images.

    with evaluation.open_truth(Path("eval-wider-val.tar")) as truth:
        candidate = evaluation.open_model("rfb320.tmfile")
        [found] = evaluation.find_all(truth, [candidate])
        evaluation.assess(truth, candidate, found).figures.subsets["hard"].ap

NumPy computes; OpenCV reads the images, scipy .mat files (extra `eval`).
"""

from __future__ import annotations

from .detections import Candidate, Found, find_all, open_model
from .figures import Assessment, Figures, assess, protocol
from .precision import CONVENTIONS, EXACT, TOOLBOX, Convention
from .truth import Scene, Truth, open_truth

__all__ = [
    "CONVENTIONS",
    "EXACT",
    "TOOLBOX",
    "Assessment",
    "Candidate",
    "Convention",
    "Figures",
    "Found",
    "Scene",
    "Truth",
    "assess",
    "find_all",
    "open_model",
    "open_truth",
    "protocol",
]

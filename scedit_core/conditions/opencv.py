"""OpenCV, imported when it is used: opencv-python, -headless and -contrib serve equally well."""

from __future__ import annotations

from types import ModuleType

from ..errors import ConditionError
from ..weight_files import first_line


def opencv() -> ModuleType:
    """The module cv2.  Raises ConditionError where it is missing or cannot be loaded."""
    try:
        import cv2
    except ImportError as error:  # among them a library of the system that opencv-python wants and servers lack
        raise ConditionError(
            "opencv: expected a cv2 that can be imported, found none; install it with the next line\n"
            f"python -m pip install opencv-python-headless\n({first_line(error)})"
        ) from error
    return cv2

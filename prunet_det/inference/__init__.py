"""Trained detectors as objects that are called with images."""

from prunet_det.inference.detections import Detection, Detections
from prunet_det.inference.detector import Detector
from prunet_det.inference.load import load_detector

__all__ = ["Detection", "Detections", "Detector", "load_detector"]

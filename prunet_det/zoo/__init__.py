"""Named networks: their specs as JSON files, their timm entry points, and weight loading."""

from prunet_det.zoo.models import create, load_spec, model_names, resolve_spec
from prunet_det.zoo.weights import load_backbone_weights

__all__ = ["create", "load_backbone_weights", "load_spec", "model_names", "resolve_spec"]

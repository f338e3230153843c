"""What a network costs: kernels by formula or trace, and their price on a named device."""

from prunet_det.latency.device import Device, device_names, load_device
from prunet_det.latency.kernels import Kernel, spec_kernels
from prunet_det.latency.predict import Prediction, predict, predict_module
from prunet_det.latency.record import Latency
from prunet_det.latency.trace import Trace, trace

__all__ = [
    "Device",
    "Kernel",
    "Latency",
    "Prediction",
    "Trace",
    "device_names",
    "load_device",
    "predict",
    "predict_module",
    "spec_kernels",
    "trace",
]

"""OpenVINO, kept from telling its makers of every import and conversion: it does so with a package of its own, if there is one."""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino

__all__ = ["openvino"]

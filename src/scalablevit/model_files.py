"""The files that hold a trained network: the one list that checks, help and errors are made from. Imports nothing."""

WEIGHTS_FILE = "model.safetensors"
"""Of a run folder."""
EXPORTED = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Format of `scalablevit export` -> ending of its main file."""

EXPORTED_FILE = f"exported file ({', '.join(EXPORTED.values())})"
TRAINED = f"run folder, its {WEIGHTS_FILE}, or an {EXPORTED_FILE}"
"""What every command takes that runs inference, in words."""

"""Constants of ONNX models with float16 weights; test_export.py runs such models."""

import numpy as np
import pytest

from lightbsr_jax.interop import half


def test_a_small_epsilon_stays_above_zero() -> None:
    """Programs that flush subnormal float16 to zero would divide by it."""
    onnx = pytest.importorskip("onnx")
    for value, expected in ((1e-6, 2.0**-14), (0.5, 0.5), (0.0, 0.0), (-1e-6, -1e-6)):
        tensor = onnx.numpy_helper.from_array(np.array(value, np.float32), "epsilon")
        half._round(onnx, tensor)
        stored = onnx.numpy_helper.to_array(tensor)
        assert stored == np.float16(expected)
    weights = np.full(3, 1e-6, np.float32)  # those of a layer stay
    tensor = onnx.numpy_helper.from_array(weights, "weights")
    half._round(onnx, tensor)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), np.float16(1e-6))

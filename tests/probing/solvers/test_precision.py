from __future__ import annotations

import pytest
import torch

from layerprobe.probing.solvers.precision import full_precision


def tf32() -> bool:
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_a_users_choice_is_back_after_full_precision(allowed):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        with pytest.raises(KeyError), full_precision():
            assert not tf32()
            with full_precision():
                pass
            assert not tf32()
            raise KeyError
        assert torch.get_float32_matmul_precision() == allowed
        assert tf32() == (allowed != "highest")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has the older flag alone")
def test_a_choice_for_all_backends_is_followed_afterwards():
    backends = torch.backends
    before, own = backends.fp32_precision, backends.cuda.matmul.fp32_precision
    try:
        backends.cuda.matmul.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        with full_precision():
            assert not tf32()
        assert tf32()
        backends.fp32_precision = "ieee"
        assert not tf32()
    finally:
        backends.fp32_precision = before
        backends.cuda.matmul.fp32_precision = own

from __future__ import annotations

import pytest
import torch

from layerprobe.probing.solvers.precise import full_precision


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

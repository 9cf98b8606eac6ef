"""Write tests/golden/evaluation.json: measures by the implementations that the field trusts, on random input.

They need packages of their own: pip install torchmetrics torch-fidelity clean-fid lpips scikit-image torchvision.
"""

import json
from pathlib import Path

import numpy as np


def some_features(seed: int, count: int, size: int = 48, shift: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, size)) * np.linspace(0.2, 1.5, size) + shift
    return values.astype(np.float32)


def some_images(seed: int, count: int = 3, height: int = 32, width: int = 40) -> np.ndarray:
    """uint8 [N, 3, H, W]"""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def sets() -> dict[str, float]:
    import torch

    for operator in ("nms", "qnms"):  # a torchvision of another build of torch imports if it finds these
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from cleanfid.fid import frechet_distance, kernel_distance
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    from torchmetrics.image.kid import poly_mmd

    cubic = {
        "kid_kernel": "poly",
        "kid_kernel_poly_degree": 3,
        "kid_kernel_poly_gamma": None,
        "kid_kernel_poly_coef0": 1,
    }
    a, b = some_features(0, 120), some_features(1, 120, shift=0.3)
    mean_cov = [(f.astype(np.float64).mean(0), np.cov(f.astype(np.float64), rowvar=False)) for f in (a, b)]
    precision, recall = calculate_precision_recall_full(torch.from_numpy(a), torch.from_numpy(b))
    return {
        "fid_clean_fid": float(frechet_distance(*mean_cov[0], *mean_cov[1])),
        "kid_clean_fid": float(kernel_distance(a.astype(np.float64), b.astype(np.float64), 1, 120)),
        "mmd_torch_fidelity": float(kernel_mmd(a.astype(np.float64), b.astype(np.float64), **cubic)),
        "mmd_torchmetrics": float(poly_mmd(torch.from_numpy(a).double(), torch.from_numpy(b).double())),
        "precision": precision,
        "recall": recall,
    }


def pairs() -> dict[str, list[float]]:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a = some_images(0)
    b = np.clip(a.astype(int) + some_images(1) // 4, 0, 255).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    return {
        "psnr": [float(peak_signal_noise_ratio(x, y)) for x, y in zip(a, b, strict=True)],
        "ssim": [float(structural_similarity(x, y, **options)) for x, y in zip(a, b, strict=True)],
    }


if __name__ == "__main__":
    path = Path(__file__).parent / "evaluation.json"
    path.write_text(json.dumps({"sets": sets(), "pairs": pairs()}, indent=1) + "\n", encoding="utf-8")

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


def some_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random float32 weights that keep the size of activations about even; scalars are counters."""
    generator = np.random.default_rng(7)
    found = {}
    for name, shape in sorted(shapes.items()):
        if len(shape) > 1:
            found[name] = generator.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        else:
            found[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32) if shape else np.array(0)
    return found


def networks() -> dict[str, list[float]]:
    """LPIPS by the package lpips and Inception by torch-fidelity, on random weights."""
    import tempfile

    import lpips
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    a, b = (torch.from_numpy(some_images(seed, 2, 64, 70)) for seed in (2, 3))
    found = {}
    for name, net in (("alexnet-lpips", "alex"), ("vgg-lpips", "vgg")):
        theirs = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()
        trunk = {key: "features." + key.split(".", 1)[1] for key in theirs.net.state_dict()}
        heads = {key: key for key in theirs.state_dict() if key.startswith("lin") and not key.startswith("lins")}
        state = theirs.state_dict()
        names = {f"net.{key}": ours for key, ours in trunk.items()} | heads
        drawn = some_weights({ours: tuple(state[key].shape) for key, ours in names.items()})
        theirs.load_state_dict({key: torch.from_numpy(drawn[ours]) for key, ours in names.items()}, strict=False)
        with torch.no_grad():
            found[name] = theirs(a / 127.5 - 1, b / 127.5 - 1).flatten().tolist()

    from sdedit.evaluation.features.inception import Inception

    drawn = some_weights({key: tuple(value.shape) for key, value in Inception().state_dict().items()})
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({key: torch.from_numpy(value) for key, value in drawn.items()}, file.name)
        theirs = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name).eval()
    with torch.no_grad():
        found["inception"] = theirs(a[:1])[0][0, ::32].tolist()
    return found


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
    path.write_text(
        json.dumps({"sets": sets(), "pairs": pairs(), "networks": networks()}, indent=1) + "\n", encoding="utf-8"
    )

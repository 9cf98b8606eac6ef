"""Keep outputs of score_sde's own code for test_ncsnpp.py: `python tests/golden/make_score_sde.py CLONE`.

CLONE is a clone of github.com/yang-song/score_sde_pytorch; nothing of it is kept but numbers. Its networks get the
weights of tests/weights.py, and its own get_score_fn is asked at three levels.
"""

import ast
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from weights import normals, weight

GOLDEN = Path(__file__).parent / "score_sde.npz"
SCALES = 1000
LEVELS = (1, 400, 1000)

CASES: dict[str, dict[str, Any]] = {
    "ncsnpp ve": {"sde": "ve", "fir": True, "progressive": "output_skip", "progressive_input": "input_skip"},
    "ncsnpp ve-discrete": {"sde": "ve-discrete", "fir": True, "progressive_input": "residual"},
    "ncsnpp vp": {"sde": "vp", "fir": True, "progressive_input": "residual"},
    "ddpmpp vp": {"sde": "vp"},
    "ddpmpp subvp": {"sde": "subvp"},
    "ddpmpp vp-discrete": {"sde": "vp-discrete", "resblock_type": "ddpm"},
    "ddpm vp-discrete": {"sde": "vp-discrete", "name": "ddpm", "nf": 128, "ch_mult": (1,)},
}


def main(clone: Path) -> None:
    import_original(clone)
    arrays = {}
    for name, case in CASES.items():
        for key, value in outputs(case).items():
            arrays[f"{name}/{key}"] = value
    np.savez_compressed(GOLDEN, **arrays)


def import_original(clone: Path) -> None:
    """Make its code run here: its native function replaces its CUDA extension, and interpolate receives its mode."""
    tree = ast.parse((clone / "op" / "upfirdn2d.py").read_text(encoding="utf-8"))
    native = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "upfirdn2d_native"]
    scope: dict[str, Any] = {"F": F, "torch": torch}
    exec(compile(ast.Module(native, []), "upfirdn2d", "exec"), scope)

    def upfirdn2d(x: Any, kernel: Any, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Any:
        return scope["upfirdn2d_native"](x, kernel, up, up, down, down, *pad, *pad)

    op = types.ModuleType("op")
    op.upfirdn2d = upfirdn2d  # type: ignore[attr-defined]
    sys.modules["op"] = op
    sys.path.insert(0, str(clone))
    from models import ddpm, layers, layerspp, ncsnpp  # noqa: F401 - they register themselves

    interpolate = F.interpolate
    F.interpolate = lambda x, size, mode: interpolate(x, size, mode=mode)  # type: ignore[assignment]


def outputs(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """shapes: names and shapes of its state dict. trained: which of them are. At each level: alpha and std of its SDE,
    and score at every second pixel.
    """
    from models import utils

    config = make_config(case)
    network = utils.get_model(config.model.name)(config).eval()
    state = network.state_dict()
    network.load_state_dict({k: state[k] if k == "sigmas" else weight(k, v.shape) for k, v in state.items()})
    sde = make_sde(case["sde"])
    score = utils.get_score_fn(sde, network, continuous="discrete" not in case["sde"])
    found: dict[str, list[np.ndarray]] = {"alpha": [], "std": [], "score": []}
    for k in LEVELS:
        t = torch.tensor([k / SCALES if case["sde"] in ("vp", "subvp") else (k - 1) / (SCALES - 1)])
        alpha, std = marginal(sde, case["sde"], t, k)
        x = 0.5 * alpha + std * torch.from_numpy(normals(f"x {k}", (1, 3, 16, 16)))
        with torch.no_grad():
            values = {"alpha": alpha, "std": std, "score": score(x, t)[..., ::2, ::2]}
        for name, value in values.items():
            found[name].append(np.float32(value))
    shapes = [f"{name} {'x'.join(map(str, value.shape))}" for name, value in state.items()]
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return {"shapes": np.array(shapes), "trained": np.array(trained), **{k: np.array(v) for k, v in found.items()}}


def make_config(case: dict[str, Any]) -> SimpleNamespace:
    centred = not case["sde"].startswith("ve")
    model = {
        "name": "ncsnpp",
        "nf": 16,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (8,),
        "dropout": 0.1,
        "resamp_with_conv": True,
        "conditional": True,
        "fir": False,
        "fir_kernel": [1, 3, 3, 1],
        "skip_rescale": True,
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_input": "none",
        "progressive_combine": "sum",
        "embedding_type": "fourier" if case["sde"] == "ve" else "positional",
        "fourier_scale": 1,
        "init_scale": 1.0,
        "nonlinearity": "swish",
        "normalization": "GroupNorm",
        "scale_by_sigma": not centred,
        "sigma_min": 0.01,
        "sigma_max": 50.0,
        "num_scales": SCALES,
        **{key: value for key, value in case.items() if key != "sde"},
    }
    return SimpleNamespace(
        model=SimpleNamespace(**model),
        data=SimpleNamespace(image_size=16, num_channels=3, centered=centred),
        training=SimpleNamespace(continuous="discrete" not in case["sde"]),
    )


def make_sde(name: str) -> Any:
    import sde_lib

    if name.startswith("ve"):
        return sde_lib.VESDE(0.01, 50.0, SCALES)
    return (sde_lib.subVPSDE if name == "subvp" else sde_lib.VPSDE)(0.1, 20.0, SCALES)


def marginal(sde: Any, name: str, t: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and std at level k."""
    if name == "vp-discrete":
        assert (t * (SCALES - 1)).long() == k - 1  # else its own rounding takes another level
        return sde.sqrt_alphas_cumprod[k - 1], sde.sqrt_1m_alphas_cumprod[k - 1]
    mean, std = sde.marginal_prob(torch.ones(1, 1, 1, 1), t)
    return mean.reshape(()), std.reshape(())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

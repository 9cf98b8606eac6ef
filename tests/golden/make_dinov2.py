"""Keep outputs of DINOv2's own code for test_features.py: `python tests/golden/make_dinov2.py CLONE`.

CLONE is a clone of github.com/facebookresearch/dinov2; nothing of it is kept but numbers. A small network of its class
gets the weights of make_evaluation.py; of ViT-L/14, names and shapes are kept, those of all blocks once.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_evaluation import some_images, some_weights
from PIL import Image

WIDTH, DEPTH, HEADS = 48, 2, 4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(clone: str) -> None:
    os.environ["XFORMERS_DISABLED"] = "1"
    sys.path.insert(0, clone)
    from dinov2.layers import MemEffAttention, NestedTensorBlock
    from dinov2.models.vision_transformer import DinoVisionTransformer, vit_large

    # as dinov2/hub/backbones.py
    hub: dict[str, Any] = {"img_size": 518, "patch_size": 14, "init_values": 1.0, "block_chunks": 0}
    block = partial(NestedTensorBlock, attn_class=MemEffAttention)
    network = DinoVisionTransformer(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, block_fn=block, **hub).eval()
    drawn = some_weights({key: tuple(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(value) for key, value in drawn.items()})
    pictures = some_images(2, 2, 64, 70).transpose(0, 2, 3, 1)
    resized = [np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BICUBIC)) for x in pictures]
    values = (np.stack(resized) / 255 - MEAN) / DEVIATION
    with torch.no_grad():
        found = network(torch.from_numpy(values.transpose(0, 3, 1, 2)).float())
    with torch.device("meta"):
        large = vit_large(**hub).state_dict()
    shapes = {key: list(value.shape) for key, value in large.items() if not key.startswith("blocks.")}
    shapes |= {key: list(value.shape) for key, value in large.items() if key.startswith("blocks.0.")}
    kept = {"features": found.tolist(), "tensors": len(large), "shapes": shapes}
    path = Path(__file__).parent / "dinov2.json"
    path.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

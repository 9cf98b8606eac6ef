"""The door for clients of AUTOMATIC1111's web UI: /sdapi/v1/img2img and what clients ask for beside it."""

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sdedit.errors import shown
from sdedit.runtime.images.canvas import FitName
from sdedit.runtime.plan import SamplerName
from sdedit.runtime.settings import Settings

from ..answers import attended
from ..desk import Running
from ..forms import read_json
from ..native import desk_of, find_model
from ..pictures import accepted_size, inverted
from ..problems import Problem
from ..wire import EditRequest, Finished, text_of

SAMPLERS: Mapping[str, SamplerName] = {
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "Euler": "euler",
    "Euler a": "ancestral",
    "DDIM": "ddim",
    "LCM": "lcm",
}
"""A1111's names of our samplers; the first is the default."""

FITS: Mapping[int, FitName] = {0: "stretch", 1: "crop", 2: "pad", 3: "stretch"}

PREVIEW_EVERY = 5

USED = {
    *("init_images", "mask", "inpainting_mask_invert", "mask_blur", "denoising_strength", "steps", "seed"),
    *("batch_size", "n_iter", "sampler_name", "sampler_index", "resize_mode", "width", "height"),
    *("override_settings", "prompt", "eta"),
}

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "cfg_scale": (7, 7.0),
    "image_cfg_scale": (1.5,),
    "initial_noise_multiplier": (1,),
    "inpaint_full_res": (True,),
    "override_settings_restore_afterwards": (True,),
    "s_noise": (1,),
    "scheduler": ("Automatic", "automatic"),
    "send_images": (True,),
}
"""Values of fields that are not used, and that A1111's clients send without being asked."""

EMPTY: tuple[Any, ...] = (None, "", [], {}, False, 0, -1)


class Wishes:
    """The fields of a request, read with their types. warnings: what is not done as asked."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self.warnings = [
            f"{name} is not used"
            for name, value in body.items()
            if name not in USED and value not in EMPTY and value not in NEUTRAL.get(name, ())
        ]

    def number(self, name: str, default: float) -> float:
        """A number. Raises Problem 422."""
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**64:
            raise Problem(422, f"{name} {shown(value)} is not a number")
        return value

    def count(self, name: str, default: int, least: int = 0) -> int:
        """An integer. Raises Problem 422."""
        value = self.number(name, default)
        if not isinstance(value, int) or not least <= value < 2**63:
            raise Problem(422, f"{name} {shown(value)} is not an integer of at least {least}")
        return value

    def text(self, name: str) -> str:
        """A text, "" for none. Raises Problem 422."""
        value = self._body.get(name)
        if value is not None and not isinstance(value, str):
            raise Problem(422, f"{name} {shown(value)} is not a text")
        return value or ""

    def picture(self, name: str, value: Any) -> bytes:
        """The bytes of a picture as base64 or as a data URL. Raises Problem 422."""
        text = value.partition(",")[2] if isinstance(value, str) and value.startswith("data:") else value
        try:
            return base64.b64decode(text)
        except (binascii.Error, TypeError, ValueError):
            raise Problem(422, f"{name} is not a picture in base64") from None

    def model(self) -> str | None:
        """The name of the model that is asked for, without the hash that titles end with."""
        settings = self._body.get("override_settings")
        title = settings.get("sd_model_checkpoint") if isinstance(settings, dict) else None
        return title.partition(" [")[0] if isinstance(title, str) and title else None


def read_settings(wishes: Wishes, model: Mapping[str, Any], masked: bool) -> tuple[Settings, str]:
    """The options of an edit, and A1111's name of its sampler. Raises Problem, PlanError and ImageError."""
    levels = model["sdedit"]["levels"]
    t0 = wishes.number("denoising_strength", 0.75)
    if t0 < 1 / levels:
        wishes.warnings.append(f"denoising_strength {t0:g} is below the model's first level: {1 / levels:g} is used")
        t0 = 1 / levels
    steps, most = wishes.count("steps", 25, 1), int(t0 * levels + 0.5)
    if steps > most:
        wishes.warnings.append(f"steps {steps}: {most} is the most from denoising_strength {t0:g}")
        steps = most
    asked = wishes.text("sampler_name") or wishes.text("sampler_index") or next(iter(SAMPLERS))
    sampler = next((name for name in SAMPLERS if name.lower() == asked.lower()), None)
    if sampler is None:
        sampler = next(iter(SAMPLERS))
        wishes.warnings.append(f"sampler {shown(asked)} is not known: {sampler} is used")
    prompt = wishes.text("prompt") or None
    if prompt and not model["sdedit"]["text"]:
        wishes.warnings.append(f"prompt is not used: {model['id']} takes no text")
        prompt = None
    seed = wishes.count("seed", -1, -1)
    return (
        Settings(
            t0=t0,
            steps=steps,
            sampler=SAMPLERS[sampler],
            eta=wishes.number("eta", 0.0) if sampler == "DDIM" else None,
            seed="random" if seed < 0 else seed,
            images=wishes.count("batch_size", 1, 1) * wishes.count("n_iter", 1, 1),
            fit=FITS.get(wishes.count("resize_mode", 0), "crop"),
            size=None if masked else read_size(wishes, model),
            feather=min(wishes.count("mask_blur", 4), 64),
            prompt=prompt,
        ),
        sampler,
    )


def read_size(wishes: Wishes, model: Mapping[str, Any]) -> str:
    """The option `size`; the native one if the model does not take what is asked for."""
    native = model["sdedit"]["native"]
    width, height = (wishes.count(name, native[name], 1) for name in ("width", "height"))
    size = accepted_size(model, width, height)
    if size is None:
        used = f"{native['width']}x{native['height']}"
        wishes.warnings.append(f"{model['id']} does not make {width}x{height} pixels: {used} is used")
    return size or "native"


async def img2img(request: Request) -> Response:
    """Make an edit. White pixels of the mask may change, black ones if inpainting_mask_invert is 1."""
    desk = desk_of(request)
    with desk.arriving(request) as arrival:
        body = await read_json(arrival.request)
        wishes = Wishes(body)
        wanted, sampler = await read_edit(request, body, wishes)
        running = desk.open(wanted, arrival)
        request.app.state.a1111_running = running
        finished = await attended(request, running, running.result())
    images = [text_of(image.png) for image in finished.images]
    parameters = {name: value for name, value in body.items() if name not in ("init_images", "mask")}
    return JSONResponse({"images": images, "parameters": parameters, "info": info(finished, sampler, wishes)})


async def read_edit(request: Request, body: Mapping[str, Any], wishes: Wishes) -> tuple[EditRequest, str]:
    """The edit that a body asks for, and A1111's name of its sampler. Raises Problem, PlanError and ImageError."""
    pictures = body.get("init_images")
    if not isinstance(pictures, list) or not pictures:
        raise Problem(404, "Init image not found")
    guide = wishes.picture("init_images", pictures[0])
    mask = wishes.picture("mask", body["mask"]) if body.get("mask") else None
    model = await find_model(request, wishes.model() or chosen_model(request))
    settings, sampler = read_settings(wishes, model, mask is not None)
    if mask is not None and wishes.count("inpainting_mask_invert", 0):
        desk = desk_of(request)
        async with desk.decoders:
            mask = await asyncio.to_thread(inverted, mask, "mask", desk.limits)
    return EditRequest(guide, settings, mask, None, model["id"], PREVIEW_EVERY), sampler


def info(finished: Finished, sampler: str, wishes: Wishes) -> str:
    """A1111's notes about the images: a text that is JSON."""
    recipe = finished.images[0].recipe
    notes = {
        "seed": recipe["seed"],
        "all_seeds": [recipe["seed"]] * len(finished.images),
        "steps": recipe["steps"],
        "sampler_name": sampler,
        "denoising_strength": recipe["t0"],
        "batch_size": len(finished.images),
        "sd_model_name": recipe["bundle"]["name"],
        "sd_model_hash": recipe["bundle"]["sha256"][:10],
        "infotexts": [json.dumps(image.recipe, allow_nan=False) for image in finished.images],
        "version": f"sdedit {recipe['version']}",
        "warnings": wishes.warnings,
    }
    return json.dumps(notes, allow_nan=False)


def chosen_model(request: Request) -> str | None:
    """The model that a client chose by POST /options, for all clients, as A1111 has it; None: the first."""
    return getattr(request.app.state, "a1111_model", None)


def newest(request: Request) -> Running | None:
    """The newest edit of this door, if it still runs."""
    running: Running | None = getattr(request.app.state, "a1111_running", None)
    return None if running is None or running.done else running


async def progress(request: Request) -> Response:
    """How far the newest edit of this door is."""
    running = newest(request)
    step = running.newest if running else None
    preview = running.preview.preview if running and running.preview else None
    hidden = request.query_params.get("skip_current_image", "").lower() == "true"
    return JSONResponse(
        {
            "progress": step.step / step.steps if step else 0.0,
            "eta_relative": step.seconds_left or 0.0 if step else 0.0,
            "state": {
                "skipped": False,
                "interrupted": False,
                "job": "img2img" if running else "",
                "job_count": int(running is not None),
                "job_no": 0,
                "sampling_step": step.step if step else 0,
                "sampling_steps": step.steps if step else 0,
            },
            "current_image": text_of(preview) if preview and not hidden else None,
            "textinfo": None,
        }
    )


async def interrupt(request: Request) -> Response:
    """Cancel the newest edit of this door; its client gets status 409."""
    if (running := newest(request)) is not None:
        running.cancel(Problem(409, "the edit was interrupted", "interrupted"))
    return JSONResponse({})


def title(model: Mapping[str, Any]) -> str:
    """A model's title, as A1111 writes them."""
    return f"{model['id']} [{model['sdedit']['sha256'][:10]}]"


async def sd_models(request: Request) -> Response:
    """List the models."""
    models = await desk_of(request).backend.models()
    return JSONResponse(
        [
            {
                "title": title(model),
                "model_name": model["id"],
                "hash": model["sdedit"]["sha256"][:10],
                "sha256": model["sdedit"]["sha256"],
                "filename": model["id"],
                "config": None,
            }
            for model in models
        ]
    )


async def samplers(request: Request) -> Response:
    """List the samplers."""
    return JSONResponse([{"name": name, "aliases": [ours], "options": {}} for name, ours in SAMPLERS.items()])


async def get_options(request: Request) -> Response:
    """Show the settings that clients ask for."""
    model = await find_model(request, chosen_model(request))
    return JSONResponse({"samples_format": "png", "sd_model_checkpoint": title(model)})


async def post_options(request: Request) -> Response:
    """Choose the model for requests of this door that name none."""
    body = await read_json(request)
    name = Wishes({"override_settings": body}).model()
    if name is None or set(body) != {"sd_model_checkpoint"}:
        raise Problem(422, "options: only sd_model_checkpoint can be set here")
    request.app.state.a1111_model = (await find_model(request, name))["id"]
    return JSONResponse({})


async def scripts(request: Request) -> Response:
    """There are no scripts; clients ask."""
    return JSONResponse({"txt2img": [], "img2img": []})


ROUTES: list[BaseRoute] = [
    Route("/sdapi/v1/img2img", img2img, methods=["POST"]),
    Route("/sdapi/v1/progress", progress, methods=["GET"]),
    Route("/sdapi/v1/interrupt", interrupt, methods=["POST"]),
    Route("/sdapi/v1/skip", interrupt, methods=["POST"]),
    Route("/sdapi/v1/sd-models", sd_models, methods=["GET"]),
    Route("/sdapi/v1/samplers", samplers, methods=["GET"]),
    Route("/sdapi/v1/options", get_options, methods=["GET"]),
    Route("/sdapi/v1/options", post_options, methods=["POST"]),
    Route("/sdapi/v1/scripts", scripts, methods=["GET"]),
]

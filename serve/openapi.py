"""The API's description (OpenAPI 3.1). The options of an edit come from Settings."""

from typing import Any

from sdedit import __version__
from sdedit.console import without_nonfinite
from sdedit.runtime.settings import Settings

from .wire import JSON, PICTURES, PNG, PREVIEW_EVERY, STREAM

STATUSES = {
    "400": "The request cannot be read, or has no guide",
    "401": "The key is missing or wrong",
    "403": "The request comes from another site's page, or for another host",
    "404": "There is no such model or job",
    "406": "There is no such kind of answer",
    "409": "The edit was cancelled, or a newer one of its session took its place",
    "413": "The body or a picture is too large",
    "422": "An option or a picture is not accepted",
    "500": "The engine failed",
    "503": "The edit would wait too long, or the server ends; Retry-After says when to try again",
    "507": "The disk is full",
}

PICTURE_HELP = {
    "guide": "Strokes, strokes over a photo, or a composite",
    "mask": "Image of the guide's size; white may change, black stays",
    "base": "Instead of a mask: the photo that the guide was painted over",
}


def document() -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdedit", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/edits": {"post": operation("Make an edit", {"200": edit_answer()})},
            "/v1/jobs": {"post": operation("Begin an edit", {"202": json_answer("The job", "Job")})},
            "/v1/jobs/{job}": {
                "get": job_operation("Look at a job", {"200": json_answer("The job", "Job")}),
                "delete": job_operation("Cancel or forget a job", {"200": json_answer("The job", "Job")}),
            },
            "/v1/jobs/{job}/images/{number}": {
                "get": job_operation("Fetch an image of a job", {"200": picture_answer()}, "number"),
            },
            "/v1/models": {"get": question("List the models", json_answer("Models", "Models"))},
            **{
                path: {"get": question(summary, {"description": summary})}
                for path, summary in (
                    ("/healthz", "Whether the process answers"),
                    ("/readyz", "Whether a new edit would be taken"),
                    ("/metrics", "Counters in Prometheus's text format"),
                )
            },
        },
        "components": {
            "schemas": {
                "EditForm": edit_form(),
                "Edit": {"type": "object", "required": ["created", "images", "timings"]},
                "Job": {"type": "object", "required": ["id", "status", "step", "steps"]},
                "Models": {"type": "object", "required": ["object", "data"]},
                "Error": {"type": "object", "required": ["error"]},
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def edit_form() -> dict[str, Any]:
    """The form of an edit: pictures, the options of Settings, and what only a server has."""
    schema: dict[str, Any] = without_nonfinite(Settings.json_schema())
    pictures = {
        name: {"type": "string", "contentMediaType": "image/*", "description": PICTURE_HELP[name]} for name in PICTURES
    }
    own = {
        "model": {"type": "string", "description": "Name of the model. Default: the first of /v1/models."},
        "session": {"type": "string", "description": "A new edit of a session cancels the one before it."},
        "preview_every": {
            "type": "integer",
            "minimum": 0,
            "default": PREVIEW_EVERY,
            "description": "Evaluations between two previews of a stream; 0: no previews.",
        },
    }
    kept = {key: value for key, value in schema.items() if key != "$schema"}
    return {**kept, "properties": {**pictures, **schema["properties"], **own}, "required": ["guide"]}


def operation(summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    """A POST of an edit's form."""
    content = {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/EditForm"}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {**answers, **{status: error_answer(text) for status, text in STATUSES.items()}},
    }


def job_operation(summary: str, answers: dict[str, Any], *further: str) -> dict[str, Any]:
    """An operation on a job."""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if name == "number" else "string"}}
        for name in ("job", *further)
    ]
    return {"summary": summary, "parameters": parameters, "responses": {**answers, "404": error_answer("No such job")}}


def question(summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    """A GET without parameters."""
    return {"summary": summary, "responses": {"200": answer}}


def json_answer(description: str, schema: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def error_answer(description: str) -> dict[str, Any]:
    return json_answer(description, "Error")


def picture_answer() -> dict[str, Any]:
    return {"description": "A PNG with its recipe", "content": {PNG: {"schema": {"type": "string"}}}}


def edit_answer() -> dict[str, Any]:
    """The three kinds of answer, by Accept."""
    stream = {STREAM: {"schema": {"type": "string"}}}
    content = picture_answer()["content"] | json_answer("", "Edit")["content"] | stream
    return {"description": "The image, JSON with all images, or a stream of events, by Accept", "content": content}

"""Reading the body of a request, within the limits."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from sdedit.errors import shown

from .limits import Limits
from .problems import Problem


@dataclass(frozen=True)
class Form:
    """files: their bytes by field name, in the order in which they came. fields: texts by name."""

    files: dict[str, bytes]
    fields: dict[str, str]


async def read_form(request: Request, limits: Limits) -> Form:
    """The request's form; names of files are not looked at. Raises Problem for a name that comes twice."""
    form = Form({}, {})
    try:
        parts = request.form(max_files=limits.files, max_fields=limits.fields, max_part_size=limits.field_bytes)
        async with parts as sent:
            for name, value in sent.multi_items():
                if name in form.files or name in form.fields:
                    raise Problem(400, f"field {shown(name)} is given twice")
                if isinstance(value, UploadFile):
                    form.files[name] = await value.read()
                else:
                    form.fields[name] = value
    except (UnicodeError, LookupError, ValueError) as error:  # python-multipart on headers that are no headers
        raise Problem(400, f"the form cannot be read: {type(error).__name__}") from None
    return form


async def read_json(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises Problem 400."""
    try:
        value = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body is not a JSON object")
    return value

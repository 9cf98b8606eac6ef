"""Texts in XMP data, for formats without text chunks. Only what `write_xmp` writes is read, without an XML parser."""

import re
from collections.abc import Mapping

from .side_data import MAX_TEXT_BYTES

HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:text="urn:sdedit:text/">'
)
TAIL = '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'

ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))

TEXT = re.compile(rb"<text:([A-Za-z]{1,40})>([^<]*)</text:\1>")


def write_xmp(texts: Mapping[str, str]) -> bytes:
    """XMP data with these texts, by keys of ASCII letters; empty if there are none."""
    elements = []
    for key, text in texts.items():
        for character, escaped in ESCAPES:
            text = text.replace(character, escaped)
        elements.append(f"<text:{key}>{text}</text:{key}>")
    return "".join([HEAD, *elements, TAIL]).encode() if elements else b""


def read_xmp(xmp: bytes | None) -> dict[str, str]:
    """The texts that `write_xmp` wrote, by key; none of data longer than MAX_TEXT_BYTES."""
    if xmp is None or len(xmp) > MAX_TEXT_BYTES:
        return {}
    texts = {}
    for key, body in TEXT.findall(xmp):
        text = body.decode("utf-8", "replace")
        for character, escaped in reversed(ESCAPES):
            text = text.replace(escaped, character)
        texts[key.decode()] = text
    return texts

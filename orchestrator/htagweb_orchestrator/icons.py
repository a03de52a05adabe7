"""The picture that lies beside an app. It may come from somebody whom nobody vouches for: it is bounded, it must be
what it says it is, and the gateway serves it as nothing else."""

from __future__ import annotations

import re
from hashlib import sha256

from .discovery import FileState, Found, Unreadable, read_file
from .model import Icon
from .quantities import show_size

MAX_ICON_BYTES = 64 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
# Comments are taken as a whole, (?>…): there are two to the power of their number ways to take them otherwise.
_COMMENTS = rb"(?>(?:<!--.*?-->\s*)*)"
_SVG = re.compile(
    rb"\s*(?:<\?xml[^>]*\?>\s*)?" + _COMMENTS + rb"(?:<!DOCTYPE[^>\[]*>\s*)?" + _COMMENTS + rb"<svg[\s>]", re.DOTALL
)


def read_icon(app: Found, file: FileState) -> Icon:
    """Raises Unreadable, with a sentence for the operator; Changed."""
    if file.size > MAX_ICON_BYTES:
        raise Unreadable(f"the icon {file.path} has more than {show_size(MAX_ICON_BYTES)}")
    body = read_file(app, file)
    if file.path.endswith(".png") and body.startswith(_PNG):
        media_type = "image/png"
    elif file.path.endswith(".svg") and _SVG.match(body.removeprefix(b"\xef\xbb\xbf")):
        media_type = "image/svg+xml"
    else:
        raise Unreadable(f"the icon {file.path} is no picture of that kind")
    return Icon(media_type=media_type, body=body)


def tag(icon: Icon) -> str:
    """Names what is in it: another icon has another address."""
    return sha256(icon.media_type.encode() + icon.body).hexdigest()[:16]

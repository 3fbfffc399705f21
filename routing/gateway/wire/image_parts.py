"""PURE: images by value in clients' requests. What is no image is refused: a document that came as one would be read
and billed by its pages, and nothing would be held for those."""

from routing.adapters.reading.wire import is_image_type
from routing.gateway.wire.reading import refuse
from routing.planning.pdfs import is_encoded


def image_type(media_type: str, data: str, where: str, *, documents: str) -> str:
    """The media type of an image in base64, "" where none is said. `documents`: how a client of this API sends a PDF.
    Raises InvalidInput."""
    said, so = media_type.strip().lower(), f"a PDF document is sent as {documents}"
    if said and not is_image_type(said):
        refuse(where, f"must be an image, and it is of the type {media_type[:100]!r}: {so}")
    if is_encoded(data):
        refuse(where, f"must be an image, and it is a PDF: {so}")
    return said

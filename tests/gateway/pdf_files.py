"""PDF documents as programs write them."""

import base64
import zlib


def pdf(text: str = "The sky is green.", *, pages: int = 1, packed: bool = False, filling: bytes = b"") -> bytes:
    """One that says `text` on each of its pages. `packed`: its objects are compressed, as newer programs have it.
    `filling`: what else is in the file."""
    words = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    leaves = b"\n".join(
        b"%d 0 obj <</Type /Page /Parent 2 0 R /Contents 3 0 R>> endobj" % n for n in range(10, 10 + pages)
    )
    objects = (
        b"1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj\n2 0 obj <</Type /Pages /Count %d>> endobj\n" % pages + leaves
    )
    if packed:
        inside = zlib.compress(objects)
        objects = b"4 0 obj <</Type /ObjStm /Length %d>> stream\n" % len(inside) + inside + b"\nendstream endobj"
    contents = b"3 0 obj <</Length %d>> stream\n" % len(words) + words + b"\nendstream endobj"
    return b"\n".join((b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", objects, contents, filling, b"trailer <</Root 1 0 R>>\n%%EOF\n"))


def encoded(document: bytes) -> str:
    return base64.b64encode(document).decode()

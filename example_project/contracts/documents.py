"""The signed contract as a PDF: small, but one that every viewer opens."""

import shutil
from hashlib import sha256
from pathlib import Path

from django.conf import settings

from .models import Contract, Document, Signature

_PAGE = """%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R
/Resources <</Font <</F1 <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>>>>>>> endobj
4 0 obj <</Length {length}>> stream
{text}
endstream endobj
trailer <</Root 1 0 R>>
%%EOF
"""
_LINE_HEIGHT = 18


def write_document(contract: Contract, signatures: list[Signature]) -> Document:
    """Write the PDF of a completed contract, and return its row, which is not saved yet."""
    lines = [f"{contract.reference}  {contract.title}"]
    lines += [f"Signed by {each.typed_name}, {each.signed_at:%Y-%m-%d}" for each in signatures]
    content = _render(lines)
    # The name says what is in it, so that it never stands for two contents.
    name = f"contracts/{contract.reference}-{sha256(content).hexdigest()[:12]}.pdf"
    path = Path(settings.MEDIA_ROOT, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Document(contract=contract, file=name)


def delete_all_documents() -> None:
    """Delete the files of all contracts."""
    shutil.rmtree(Path(settings.MEDIA_ROOT, "contracts"), ignore_errors=True)


def _render(lines: list[str]) -> bytes:
    shown = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in lines]
    text = "\n".join(
        f"BT /F1 12 Tf 72 {760 - number * _LINE_HEIGHT} Td ({line}) Tj ET"
        for number, line in enumerate(shown)
    )
    return _PAGE.format(length=len(text), text=text).encode("latin-1", "replace")

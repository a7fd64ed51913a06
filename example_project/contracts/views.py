"""One page that shows at a glance which data there is."""

from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .models import AuditEvent, Company, Contract, Signature, Signer

EVENTS_SHOWN = 15


def home(request: HttpRequest) -> HttpResponse:
    """Show how many rows each model has and what happened last."""
    context = {
        "counts": [
            ("Companies", Company.objects.count()),
            ("Signers", Signer.objects.count()),
            ("Contracts", Contract.objects.count()),
            ("Signatures", Signature.objects.count()),
            ("Documents", sum(1 for _ in Path(settings.MEDIA_ROOT).rglob("*.pdf"))),
            ("Audit events", AuditEvent.objects.count()),
        ],
        "events": AuditEvent.objects.select_related("contract", "signer")[:EVENTS_SHOWN],
    }
    return render(request, "contracts/home.html", context)

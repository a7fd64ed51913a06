"""The admin: everything to click on, and an audit trail to look at only.

Django's admin classes take type arguments in the stubs only, hence the ignores.
"""

from django.contrib import admin
from django.http import HttpRequest

from .models import AuditEvent, Company, Contract, Document, Signature, Signer


@admin.register(Company)
class CompanyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "country", "domain"]
    list_filter = ["country"]
    search_fields = ["name", "domain"]


@admin.register(Signer)
class SignerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "email", "company", "erased_at"]
    list_select_related = ["company"]
    search_fields = ["name", "email"]
    autocomplete_fields = ["company"]


class SignatureInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Signature
    extra = 0
    fields = ["position", "signer", "typed_name", "signed_at"]
    autocomplete_fields = ["signer"]


class DocumentInline(admin.StackedInline):  # type: ignore[type-arg]
    model = Document


@admin.register(Contract)
class ContractAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["reference", "title", "company", "status", "created_at"]
    list_filter = ["status"]
    list_select_related = ["company"]
    search_fields = ["reference", "title"]
    autocomplete_fields = ["company"]
    inlines = [SignatureInline, DocumentInline]


@admin.register(AuditEvent)
class AuditEventAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["happened_at", "kind", "contract", "signer"]
    list_filter = ["kind"]
    list_select_related = ["contract", "signer"]
    search_fields = ["contract__reference", "signer__email"]

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: AuditEvent | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: AuditEvent | None = None) -> bool:
        return False

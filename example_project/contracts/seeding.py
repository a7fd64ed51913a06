"""Fill the database with companies, their people, and the contracts that they signed."""

from collections.abc import Iterator

from django.db import connection, transaction
from factory.random import randgen, reseed_random

from .documents import delete_all_documents, write_document
from .factories import CompanyFactory, ContractFactory, SignerFactory
from .models import AuditEvent, Company, Contract, Document, Signature, Signer
from .story import Story

CONTRACTS_PER_COMPANY = 40
SIGNERS_PER_COMPANY = 10
MAX_SIGNERS_PER_CONTRACT = 3
CONTRACTS_PER_CHUNK = 250


def seed_database(*, contracts: int, seed: int) -> Iterator[int]:
    """Add rows in one transaction, and yield how many contracts there are after each chunk.

    The same arguments make the same rows, in an empty database with the same ids too.

    Args:
        contracts: How many contracts to add; everything else is in proportion.
        seed: Decides every value.
    """
    _reset_chance(seed)
    with transaction.atomic():
        signers = _add_people(companies=-(-contracts // CONTRACTS_PER_COMPANY))
        for done in range(0, contracts, CONTRACTS_PER_CHUNK):
            yield done
            _add_contracts(min(CONTRACTS_PER_CHUNK, contracts - done), signers)
    yield contracts


def empty_database() -> None:
    """Delete every row and file that `seed_database` makes, and start the ids from 1 again."""
    tables = ", ".join(
        connection.ops.quote_name(model._meta.db_table)  # noqa: SLF001 - public, in spite of its name
        for model in (AuditEvent, Document, Signature, Contract, Signer, Company)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY")
    delete_all_documents()


def _reset_chance(seed: int) -> None:
    reseed_random(seed)  # type: ignore[no-untyped-call]
    for numbered in (CompanyFactory, SignerFactory, ContractFactory):
        numbered.reset_sequence()  # type: ignore[no-untyped-call]


def _add_people(companies: int) -> list[Signer]:
    employers = Company.objects.bulk_create(CompanyFactory.build_batch(companies))
    return Signer.objects.bulk_create(
        signer
        for company in employers
        for signer in SignerFactory.build_batch(SIGNERS_PER_COMPANY, company=company)
    )


def _add_contracts(number: int, signers: list[Signer]) -> None:
    stories = [_story(signers) for _ in range(number)]
    Contract.objects.bulk_create(story.contract for story in stories)
    Signature.objects.bulk_create(one for story in stories for one in story.signatures)
    AuditEvent.objects.bulk_create(one for story in stories for one in story.events)
    Document.objects.bulk_create(
        write_document(story.contract, story.signatures)
        for story in stories
        if story.contract.status == Contract.Status.COMPLETED
    )


def _story(signers: list[Signer]) -> Story:
    chosen = randgen.sample(signers, randgen.randint(1, MAX_SIGNERS_PER_CONTRACT))
    return Story(company=chosen[0].company, signers=chosen)

"""How a contract comes about: who is invited, who signs, and what the audit trail says of it."""

import datetime as dt
from collections.abc import Sequence

from factory.random import randgen

from .factories import AuditEventFactory, ContractFactory, SignatureFactory
from .models import AuditEvent, Company, Contract, Signature, Signer

Kind = AuditEvent.Kind
Status = Contract.Status

# Per cent; in a product that is in use, most contracts are completed.
OUTCOMES = {Status.COMPLETED: 75, Status.SENT: 12, Status.DECLINED: 5, Status.DRAFT: 8}
INVITATION = (Kind.INVITED, Kind.DELIVERED, Kind.OPENED)
READING = (Kind.VIEWED, Kind.IDENTIFIED, Kind.CONSENTED)


class Story:
    """One contract and what belongs to it, as objects that are not saved yet.

    Attributes:
        contract: The contract, in the state that its story ends with.
        signatures: One for each signer who was named.
        events: What happened, in order of time.
    """

    def __init__(self, company: Company, signers: Sequence[Signer]) -> None:
        """Tell a story by chance, in which *signers* sign one after the other."""
        outcome = randgen.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
        self.contract: Contract = ContractFactory.build(company=company, status=outcome)
        self.signatures: list[Signature] = []
        self.events: list[AuditEvent] = []
        self._now = self.contract.created_at
        self._tell(signers)

    def _tell(self, signers: Sequence[Signer]) -> None:
        self._happens(Kind.CREATED, Kind.UPLOADED)
        outcome = self.contract.status
        *others, last = signers
        for signer in others:
            self._name(signer, signs=outcome != Status.DRAFT)
        self._name(last, signs=outcome == Status.COMPLETED)
        if outcome == Status.DECLINED:
            self._happens(Kind.DECLINED, signer=last)
        if outcome == Status.COMPLETED:
            self._happens(Kind.COMPLETED)
            self.contract.completed_at = self._now
            self._happens(Kind.CERTIFIED)

    def _name(self, signer: Signer, *, signs: bool) -> None:
        if self.contract.status != Status.DRAFT:
            self._happens(*INVITATION, signer=signer)
        if signs:
            self._happens(*READING, Kind.SIGNED, signer=signer)
        self.signatures.append(
            SignatureFactory.build(
                contract=self.contract,
                signer=signer,
                position=len(self.signatures) + 1,
                signed=signs,
                signed_at=self._now if signs else None,
            )
        )

    def _happens(self, *kinds: Kind, signer: Signer | None = None) -> None:
        for kind in kinds:
            self._now += dt.timedelta(seconds=randgen.randrange(5, 20_000))
            event = AuditEventFactory.build(
                contract=self.contract, signer=signer, kind=kind, happened_at=self._now
            )
            self.events.append(event)

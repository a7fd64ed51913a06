"""What contracts are called and what they say, and where and with what people sign them."""

COUNTRIES = ("AT", "BE", "CH", "DE", "DK", "ES", "FR", "GB", "IE", "IT", "NL", "PL", "SE")

BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
)

TITLES = (
    "Mutual non-disclosure agreement",
    "Master services agreement",
    "Office lease",
    "Employment contract",
    "Data processing agreement",
    "Software licence",
    "Purchase order",
    "Equipment rental",
    "Consulting agreement",
    "Distribution agreement",
    "Loan agreement",
    "Maintenance contract",
)

CLAUSES = """\
Term. This agreement begins on the day of the last signature and runs for {n} months. It is extended
by a further year each time, unless a party gives notice {m} weeks before its end.

Fees. The customer pays {n} instalments of EUR {m}00 within {m} days of the invoice. A late payment
bears interest at {n} percentage points above the base rate of the central bank.

Confidentiality. Each party keeps what it learns about the other to itself for {n} years after the
end of this agreement, except where a court or an authority demands disclosure.

Liability. Neither party is liable for lost profit. In all other cases liability is limited to EUR
{n}{m}000 a year, save for intent, gross negligence and harm to persons.

Termination. Either party may terminate for good cause, in particular when the other party does not
remedy a breach within {m} days of a written warning.

Data protection. Personal data is processed only as Annex {n} lays down, and deleted {m} days after
its purpose has ended, unless the law demands that it is kept.

Service levels. The supplier answers within {n} hours on working days and restores the service
within {m} hours. A month below that earns the customer a credit of {n} per cent.

Warranty. The supplier warrants for {n} months that what it delivers is free of defects, and repairs
or replaces what is not within {m} days of a notice.

Insurance. The supplier keeps a liability insurance of at least EUR {n} million per case and proves
it within {m} days when asked.

Force majeure. Events beyond a party's control suspend its duties as long as they last. After {m}
days either party may withdraw from what has not been performed.

Assignment. Rights under this agreement may be assigned with the other party's written consent only,
which counts as given when it is not refused within {m} days.

Notices. Notices take effect on the day they arrive at the address in Annex {n}, and on the next
working day when they arrive after {m}:00.

Governing law. The law of the supplier's seat applies. Before going to court the parties meet for
mediation {n} times within {m} weeks.

Final provisions. Changes are made in writing. Should one of the {m} provisions be void, the others
stand, and the parties replace it by what comes closest to its purpose.
""".strip().split("\n\n")

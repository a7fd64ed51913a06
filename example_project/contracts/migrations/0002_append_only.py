"""Have PostgreSQL itself refuse to change the audit trail.

The one exception is redaction, announced for the running transaction by `SET LOCAL
contracts.redacting = on`, and only of the payload. TRUNCATE stays possible: that is how a
development database is emptied.
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION contracts_auditevent_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    redacting boolean := coalesce(current_setting('contracts.redacting', true), '') = 'on';
BEGIN
    IF TG_OP = 'UPDATE' AND redacting THEN
        IF to_jsonb(NEW) - 'payload' = to_jsonb(OLD) - 'payload' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit event %: % refused, the audit trail is append-only', OLD.id, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON contracts_auditevent
    FOR EACH ROW EXECUTE FUNCTION contracts_auditevent_append_only();
"""

DROP = """
DROP TRIGGER append_only ON contracts_auditevent;
DROP FUNCTION contracts_auditevent_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("contracts", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]

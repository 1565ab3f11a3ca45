-- Operators may hold the flush as they may hold intake.
ALTER TABLE shards ADD COLUMN flush text NOT NULL DEFAULT 'running' CHECK (flush IN ('running', 'paused'));
--> statement-breakpoint
-- Who did what to this installation, and why. Rows are added and never changed.
CREATE TABLE audit_log (
  audit_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  action text NOT NULL,
  target text NOT NULL,
  reason text,
  detail jsonb
);
--> statement-breakpoint
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$;
--> statement-breakpoint
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();
--> statement-breakpoint
-- The processes of this installation: each says every few seconds that it is alive.
CREATE TABLE processes (
  process_id uuid PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('api', 'worker')),
  host text NOT NULL,
  pid integer NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()
);

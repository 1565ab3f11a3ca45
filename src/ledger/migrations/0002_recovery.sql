-- Why a process no longer trusts the shard in Redis: the next worker that looks recovers it.
ALTER TABLE shards ADD COLUMN suspect text;
--> statement-breakpoint
-- An operator has accepted that what a restored backup of PostgreSQL lacks is lost.
ALTER TABLE shards ADD COLUMN loss_accepted boolean NOT NULL DEFAULT false;
--> statement-breakpoint
ALTER TABLE ledger ADD COLUMN assigned_at timestamptz;
--> statement-breakpoint
-- Answers under an Idempotency-Key come back after Redis lost its memory; only those are indexed.
CREATE INDEX ledger_keys ON ledger (shard, at) WHERE context ? 'key';
--> statement-breakpoint
-- Every recovery there was: from which epoch, why, and what it had to do.
CREATE TABLE recoveries (
  shard integer NOT NULL,
  epoch bigint NOT NULL,
  cause text NOT NULL,
  flushed bigint NOT NULL DEFAULT 0,
  rebuilt boolean NOT NULL DEFAULT false,
  codes bigint NOT NULL DEFAULT 0,
  coupons bigint NOT NULL DEFAULT 0,
  begun_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  PRIMARY KEY (shard, epoch)
);

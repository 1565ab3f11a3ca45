-- What happened to a book in a minute, by kind of fact: a fold of the ledger, written by the flush in its own
-- transaction. `within_seconds` of a redemption: it came at most so long after its assignment; 0: later, or
-- of another kind. Rows of the present minute are updated many times: room on the page keeps that HOT.
CREATE TABLE book_minutes (
  book_id uuid NOT NULL,
  minute timestamptz NOT NULL,
  kind text NOT NULL,
  within_seconds integer NOT NULL DEFAULT 0,
  count bigint NOT NULL,
  PRIMARY KEY (book_id, minute, kind, within_seconds)
) WITH (fillfactor = 70);
--> statement-breakpoint
-- The same of all books of a shard: to sum up every book there is would cost what there are of them.
CREATE TABLE shard_minutes (
  minute timestamptz NOT NULL,
  shard integer NOT NULL,
  kind text NOT NULL,
  count bigint NOT NULL,
  PRIMARY KEY (minute, shard, kind)
) WITH (fillfactor = 70);
--> statement-breakpoint
-- Up to which entry the facts of a shard are in both. Where that is its checkpoint, the flush counts
-- its own; else a worker counts what is there, in pieces: what an older version flushed, and all of before.
ALTER TABLE shards ADD COLUMN counted_epoch bigint NOT NULL DEFAULT 0;
--> statement-breakpoint
ALTER TABLE shards ADD COLUMN counted bigint NOT NULL DEFAULT 0;
--> statement-breakpoint
-- What API processes refused, told once a second. No fact stands behind it: it is approximate.
CREATE TABLE refusal_minutes (
  book_id uuid NOT NULL,
  minute timestamptz NOT NULL,
  reason text NOT NULL,
  count bigint NOT NULL,
  PRIMARY KEY (book_id, minute, reason)
) WITH (fillfactor = 70);
--> statement-breakpoint
CREATE INDEX refusal_minutes_minute ON refusal_minutes (minute);
--> statement-breakpoint
CREATE INDEX jobs_list ON jobs (created_at, job_id);

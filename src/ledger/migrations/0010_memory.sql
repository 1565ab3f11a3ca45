-- Which life of Redis an epoch began on: one that was restarted since may have forgotten its last entries.
ALTER TABLE shards ADD COLUMN memory text NOT NULL DEFAULT '';
--> statement-breakpoint
ALTER TABLE shards ADD COLUMN memory_epoch bigint NOT NULL DEFAULT 0;

-- A book that was drained takes in nothing at all: a paused one still lets its holders lock and redeem.
ALTER TABLE books ADD COLUMN intake text NOT NULL DEFAULT 'open' CHECK (intake IN ('open', 'stopped'));
--> statement-breakpoint
-- When somebody last asked for a job: a retry asks anew. What has a time-out counts from here.
ALTER TABLE jobs ADD COLUMN asked_at timestamptz NOT NULL DEFAULT now();

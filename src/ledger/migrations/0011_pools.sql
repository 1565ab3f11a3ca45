-- Named groups of users. A member is an account's id, or whatever a service calls its users.
CREATE TABLE pools (
  pool_id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE,
  description text,
  created_by text NOT NULL,
  is_active boolean NOT NULL DEFAULT true,
  user_count integer NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz
);
--> statement-breakpoint
CREATE INDEX pools_list ON pools (created_at, pool_id);
--> statement-breakpoint
CREATE TABLE pool_users (
  pool_id uuid NOT NULL REFERENCES pools ON DELETE CASCADE,
  user_id text COLLATE "C" NOT NULL,
  added_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pool_id, user_id)
);
--> statement-breakpoint
-- How far a job of the kind `distribute` is. Only the run that is called `runner` may write. asked_*: what
-- follows this entry in the ledger, up to that time, may be shares whose results are not written yet.
CREATE TABLE distributions (
  job_id uuid PRIMARY KEY REFERENCES jobs,
  planned_at timestamptz,
  largest integer NOT NULL DEFAULT 0,
  runner uuid,
  asked_epoch bigint,
  asked_n bigint,
  asked_at timestamptz,
  settled integer NOT NULL DEFAULT 0,
  given bigint NOT NULL DEFAULT 0,
  short integer NOT NULL DEFAULT 0
);
--> statement-breakpoint
CREATE INDEX distributions_asked ON distributions (job_id) WHERE asked_epoch IS NOT NULL;
--> statement-breakpoint
-- The plan: who is to get how many. Drawn once; rows never change.
CREATE TABLE distribution_shares (
  job_id uuid NOT NULL,
  position integer NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  share integer NOT NULL,
  PRIMARY KEY (job_id, position)
);
--> statement-breakpoint
-- What came of each share, written once the ledger has it. `codes` are joined by spaces.
CREATE TABLE distribution_results (
  job_id uuid NOT NULL,
  position integer NOT NULL,
  codes text NOT NULL,
  problem text,
  detail jsonb,
  PRIMARY KEY (job_id, position)
);

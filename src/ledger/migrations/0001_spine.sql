-- What this installation is: its identity and its number of shards (may grow, never shrink).
CREATE TABLE settings (
  name text PRIMARY KEY,
  value jsonb NOT NULL
);
--> statement-breakpoint
-- One row per shard: the fence that every flush and every recovery must win.
CREATE TABLE shards (
  shard integer PRIMARY KEY,
  epoch bigint NOT NULL DEFAULT 0,
  phase text NOT NULL DEFAULT 'new' CHECK (phase IN ('new', 'recovering', 'active')),
  recoverer uuid,
  checkpoint_epoch bigint NOT NULL DEFAULT 0,
  checkpoint bigint NOT NULL DEFAULT 0,
  checkpoint_hash text NOT NULL DEFAULT '',
  facts bigint NOT NULL DEFAULT 0,
  intake text NOT NULL DEFAULT 'open' CHECK (intake IN ('open', 'stopped')),
  updated_at timestamptz NOT NULL DEFAULT now()
);
--> statement-breakpoint
CREATE TABLE users (
  user_id uuid PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL,
  password_hash text NOT NULL,
  role text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
  is_active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
--> statement-breakpoint
CREATE UNIQUE INDEX users_email ON users (lower(email));
--> statement-breakpoint
CREATE TABLE api_keys (
  key_id text PRIMARY KEY,
  name text NOT NULL,
  secret_hash text NOT NULL,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);
--> statement-breakpoint
-- A book's policy. `version` rises with each change, `pushed_version` follows once Redis has it.
-- NULL in a limit means: no limit.
CREATE TABLE books (
  book_id uuid PRIMARY KEY,
  shard integer NOT NULL REFERENCES shards,
  name text NOT NULL,
  description text,
  owner_id text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('codes', 'counter')),
  code_pattern text,
  code_prefix text UNIQUE,
  max_redemptions integer,
  max_redemptions_per_user integer,
  max_assignments_per_user integer,
  allow_multi_redemption boolean NOT NULL,
  lock_policy text NOT NULL CHECK (lock_policy IN ('strict', 'holder', 'required')),
  lock_seconds integer NOT NULL,
  opens_at timestamptz,
  closes_at timestamptz,
  expiration_date timestamptz,
  is_active boolean NOT NULL,
  archived_at timestamptz,
  durability text CHECK (durability IN ('redis', 'postgres')),
  metadata jsonb NOT NULL DEFAULT '{}',
  total_code_count bigint NOT NULL DEFAULT 0,
  version integer NOT NULL DEFAULT 1,
  pushed_version integer NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
--> statement-breakpoint
CREATE INDEX books_list ON books (created_at, book_id);
--> statement-breakpoint
CREATE INDEX books_unpushed ON books (book_id) WHERE pushed_version < version;
--> statement-breakpoint
-- Work that outlives its request. BullMQ carries the job_id; this row is the job.
CREATE TABLE jobs (
  job_id uuid PRIMARY KEY,
  kind text NOT NULL,
  book_id uuid REFERENCES books,
  state text NOT NULL DEFAULT 'queued'
    CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
  total bigint NOT NULL DEFAULT 0,
  done bigint NOT NULL DEFAULT 0,
  input jsonb NOT NULL DEFAULT '{}',
  result jsonb,
  error text,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);
--> statement-breakpoint
CREATE INDEX jobs_open ON jobs (created_at) WHERE state IN ('queued', 'running');
--> statement-breakpoint
-- A load brings codes (or units of a counter book) into stock: `writing` while rows are added to
-- `codes`, `written` once all are there, `pushed` once Redis has them all.
CREATE TABLE loads (
  load_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  book_id uuid NOT NULL REFERENCES books,
  job_id uuid REFERENCES jobs,
  source text NOT NULL CHECK (source IN ('generate', 'upload', 'units')),
  state text NOT NULL CHECK (state IN ('writing', 'written', 'pushed')),
  total bigint NOT NULL,
  written bigint NOT NULL DEFAULT 0,
  max_redemptions integer,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
--> statement-breakpoint
CREATE INDEX loads_open ON loads (load_id) WHERE state <> 'pushed';
--> statement-breakpoint
CREATE INDEX loads_book ON loads (book_id);
--> statement-breakpoint
-- Every code there ever was; rows never change. In stock = no row in `coupons`.
-- max_redemptions: NULL = the book's, 0 = no limit.
CREATE TABLE codes (
  code text COLLATE "C" PRIMARY KEY,
  book_id uuid NOT NULL,
  load_id bigint NOT NULL,
  max_redemptions integer
);
--> statement-breakpoint
CREATE INDEX codes_book ON codes (book_id, code);
--> statement-breakpoint
-- The fold of the ledger: a row exists once its code has left stock. No index names a column that
-- changes, so that lock, unlock and redeem are HOT updates. max_redemptions: 0 = no limit.
CREATE TABLE coupons (
  code text COLLATE "C" PRIMARY KEY,
  book_id uuid NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  version integer NOT NULL,
  redemptions integer NOT NULL,
  max_redemptions integer NOT NULL,
  lock_token text,
  locked_until timestamptz,
  assigned_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
) WITH (fillfactor = 80);
--> statement-breakpoint
CREATE INDEX coupons_user ON coupons (user_id, code);
--> statement-breakpoint
CREATE INDEX coupons_book ON coupons (book_id, code);
--> statement-breakpoint
CREATE TABLE book_counters (
  book_id uuid PRIMARY KEY,
  held bigint NOT NULL DEFAULT 0,
  redeemed bigint NOT NULL DEFAULT 0
);
--> statement-breakpoint
CREATE TABLE redemptions (
  redemption_id uuid PRIMARY KEY,
  code text COLLATE "C" NOT NULL,
  book_id uuid NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  redeemed_at timestamptz NOT NULL,
  metadata jsonb,
  rolled_back_at timestamptz,
  rolled_back_by text
);
--> statement-breakpoint
CREATE INDEX redemptions_book ON redemptions (book_id, redeemed_at DESC, redemption_id);
--> statement-breakpoint
-- Truth at rest: every fact, as Redis decided it, append-only.
CREATE TABLE ledger (
  shard integer NOT NULL,
  epoch bigint NOT NULL,
  n bigint NOT NULL,
  i integer NOT NULL,
  op uuid NOT NULL,
  kind text NOT NULL,
  book_id uuid NOT NULL,
  code text COLLATE "C" NOT NULL,
  user_id text COLLATE "C" NOT NULL,
  version integer NOT NULL,
  at timestamptz NOT NULL,
  redemptions integer NOT NULL,
  max_redemptions integer NOT NULL,
  lock_token text,
  locked_until timestamptz,
  redemption_id uuid,
  context jsonb NOT NULL,
  PRIMARY KEY (shard, epoch, n, i)
);
--> statement-breakpoint
CREATE INDEX ledger_code ON ledger (code);
--> statement-breakpoint
CREATE INDEX ledger_at ON ledger USING brin (at);
--> statement-breakpoint
-- A fact that did not fit the fold. It stands in the ledger too; here it waits for a person.
CREATE TABLE parked_facts (
  shard integer NOT NULL,
  epoch bigint NOT NULL,
  n bigint NOT NULL,
  i integer NOT NULL,
  reason text NOT NULL,
  fact jsonb NOT NULL,
  parked_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shard, epoch, n, i)
);

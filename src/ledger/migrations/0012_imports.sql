-- What a client keeps with a code of its own. NULL costs a row nothing, and most have none.
ALTER TABLE codes ADD COLUMN metadata jsonb;
--> statement-breakpoint
ALTER TABLE loads DROP CONSTRAINT loads_source_check;
--> statement-breakpoint
ALTER TABLE loads ADD CONSTRAINT loads_source_check
  CHECK (source IN ('generate', 'upload', 'units', 'import'));
--> statement-breakpoint
-- A file that somebody sends: `uploading` while it arrives, `staged` once it is here and a job takes it
-- from there, `dropped` when nobody will come back for it. The job goes through its rows in the order
-- of (code, line); where it is stands here.
CREATE TABLE imports (
  import_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  book_id uuid NOT NULL REFERENCES books,
  job_id uuid UNIQUE REFERENCES jobs,
  state text NOT NULL DEFAULT 'uploading' CHECK (state IN ('uploading', 'staged', 'dropped')),
  on_duplicate text NOT NULL CHECK (on_duplicate IN ('fail', 'skip')),
  on_error text NOT NULL CHECK (on_error IN ('keep', 'refuse')),
  step text NOT NULL CHECK (step IN ('check', 'write', 'undo', 'push')),
  after_code text COLLATE "C" NOT NULL DEFAULT '',
  after_line integer NOT NULL DEFAULT 0,
  rows bigint NOT NULL DEFAULT 0,
  done bigint NOT NULL DEFAULT 0,
  bad bigint NOT NULL DEFAULT 0,
  skipped bigint NOT NULL DEFAULT 0,
  cut boolean NOT NULL DEFAULT false,
  cleared boolean NOT NULL DEFAULT false,
  seen_at timestamptz NOT NULL DEFAULT now()
);
--> statement-breakpoint
-- Rows of files, as they were read. They are gone once their job is done.
CREATE TABLE import_rows (
  import_id bigint NOT NULL,
  code text COLLATE "C" NOT NULL,
  line integer NOT NULL,
  max_redemptions integer,
  metadata jsonb,
  PRIMARY KEY (import_id, code, line)
);
--> statement-breakpoint
-- Rows that are not imported, and why. `read`: found while the file arrived.
CREATE TABLE import_faults (
  import_id bigint NOT NULL,
  line integer NOT NULL,
  kind text NOT NULL CHECK (kind IN ('bad', 'skipped')),
  found text NOT NULL CHECK (found IN ('read', 'job')),
  code text NOT NULL,
  reason text NOT NULL,
  PRIMARY KEY (import_id, line)
);

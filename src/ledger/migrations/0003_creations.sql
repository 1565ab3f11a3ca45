-- What a creation under an Idempotency-Key made: written in its transaction, so that a repeat finds
-- either nothing and creates, or this. Kept for a day.
CREATE TABLE creations (
  key text PRIMARY KEY,
  hash text NOT NULL,
  made jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

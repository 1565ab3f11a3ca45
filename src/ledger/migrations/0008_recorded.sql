-- When PostgreSQL got a fact. In two steps: a column that comes with its default would say of every old
-- row that it was written now; these stay NULL, and no row is rewritten.
ALTER TABLE ledger ADD COLUMN recorded_at timestamptz;
--> statement-breakpoint
ALTER TABLE ledger ALTER COLUMN recorded_at SET DEFAULT now();

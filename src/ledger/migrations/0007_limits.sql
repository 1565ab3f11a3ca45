-- When a limit of a book was last changed; null: never. Whoever was given more before that is within what
-- was allowed then. Of books that were changed before there was this column, nobody knows how.
ALTER TABLE books ADD COLUMN limits_changed_at timestamptz;
--> statement-breakpoint
UPDATE books SET limits_changed_at = updated_at WHERE version > 1;

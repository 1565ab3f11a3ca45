-- Codes with a limit of their own are few: a comparison of both stores asks whether a book has any.
CREATE INDEX codes_own ON codes (book_id) WHERE max_redemptions IS NOT NULL;

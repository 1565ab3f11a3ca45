-- Codes of a book that are out of circulation for good: rows of `coupons` whose user is '', so that they
-- are neither in stock nor anybody's.
ALTER TABLE book_counters ADD COLUMN void bigint NOT NULL DEFAULT 0;

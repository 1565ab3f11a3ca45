-- Operators' routes: viewers look, operators act, administrators may do everything. To coupon routes a
-- viewer or an operator is a user like any other.
ALTER TABLE users DROP CONSTRAINT users_role_check;
--> statement-breakpoint
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('user', 'viewer', 'operator', 'admin'));

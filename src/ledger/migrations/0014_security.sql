-- Tokens carry the generation that their account had: a new password or a deactivation begins the next
-- one, whoever makes it, and ends all tokens that are out. No clock is compared with another.
ALTER TABLE users ADD COLUMN token_generation integer NOT NULL DEFAULT 0;
--> statement-breakpoint
CREATE FUNCTION users_end_tokens() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.token_generation := OLD.token_generation + 1; RETURN NEW; END $$;
--> statement-breakpoint
CREATE TRIGGER users_end_tokens BEFORE UPDATE ON users FOR EACH ROW
  WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash OR (OLD.is_active AND NOT NEW.is_active))
  EXECUTE FUNCTION users_end_tokens();
--> statement-breakpoint
-- null: whatever a service may. Else the names of what this key may.
ALTER TABLE api_keys ADD COLUMN scopes jsonb;
--> statement-breakpoint
-- Requests a second: by scope, and of `all` together. null: no limit.
ALTER TABLE api_keys ADD COLUMN limits jsonb;
--> statement-breakpoint
-- To the minute.
ALTER TABLE api_keys ADD COLUMN last_used_at timestamptz;

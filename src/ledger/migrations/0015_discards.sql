-- Whoever asks whether the ledger holds a fact asks whether somebody gave it up, and that with every flush:
-- among all deeds those few must be found at once.
CREATE INDEX audit_log_discards ON audit_log (target) WHERE action = 'parked.discard';

/** Path of a redis-server or valkey-server >= 7.0 on this machine, if there is one. */
export function findRedisServer(): string | undefined
/** Makes the shared-library links of the npm PostgreSQL that a skipped install script left out. */
export function repairPostgres(): string[]

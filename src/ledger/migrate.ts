import { generateKeyPairSync, randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { drizzle, runMigrations } from './drizzle.ts'

const folder = fileURLToPath(new URL('./migrations', import.meta.url))
/** Any constant will do, as long as nobody else's advisory lock in this database uses it. */
const lockKey = 7_267_835

/** Made with the database, so that every backup of it can verify what was signed before or after. */
function certificateKey(): { private: string; public: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  })
  return { private: privateKey, public: publicKey }
}

/**
 * Brings the schema up to date and makes the rows of `shards` shards. Two starters at once are
 * safe: drizzle's migrator takes no lock of its own, so one advisory lock is held around it.
 * there are never fewer shards than before: `shards` may only add some.
 */
export async function migrate(databaseUrl: string, shards: number): Promise<void> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'stampede-migrate',
    connectionTimeoutMillis: 1_500,
  })
  await client.connect()
  try {
    await client.query('SELECT pg_advisory_lock($1)', [lockKey])
    await client.query("SET client_min_messages = 'warning'")
    await runMigrations(drizzle(client), { migrationsFolder: folder })
    await client.query(
      `INSERT INTO settings (name, value) VALUES ('installation', to_jsonb($1::text))
       ON CONFLICT DO NOTHING`,
      [randomUUID()],
    )
    await client.query(
      `INSERT INTO settings (name, value) VALUES ('certificate_key', $1) ON CONFLICT DO NOTHING`,
      [JSON.stringify(certificateKey())],
    )
    // A book's shard is for ever, so there may be more shards than before, never fewer.
    await client.query(
      'INSERT INTO shards (shard) SELECT generate_series(0, $1::int - 1) ON CONFLICT DO NOTHING',
      [shards],
    )
  } finally {
    await client.end()
  }
}

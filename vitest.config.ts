import { resolve } from 'node:path'
import { defineConfig } from 'vitest/config'

export default defineConfig(({ mode }) => ({
  test: {
    // `npm run long`: tests that draw at random, at full length. `npm test` has a part of them.
    provide: { long: mode === 'long' },
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/servers.ts',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // Processes that tests start need a third less of a core for it.
    env: { NODE_COMPILE_CACHE: resolve(import.meta.dirname, 'node_modules/.cache/node') },
    maxWorkers: 2, // a core each: with more of them, tests that measure time and servers that time out get in each other's way
    coverage: {
      provider: 'v8',
      include: ['src/**/*.ts', 'workers/**/*.ts'],
      reporter: ['text', 'json-summary'],
      reportOnFailure: true,
    },
  },
}))

/**
 * What browsers must not do with our answers. JSON is never a document, so one short policy says what
 * X-Frame-Options, X-Download-Options and their like say: each line costs assign half a percent.
 * HSTS speaks to whoever came by the TLS proxy in front; over plain HTTP browsers take no notice.
 */
export const ofEverything = {
  'X-Content-Type-Options': 'nosniff',
  'Strict-Transport-Security': 'max-age=15552000',
}

export const ofJson = {
  ...ofEverything,
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
}

/** Of pages, beside a policy of their own. */
export const ofPages = {
  ...ofEverything,
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Origin-Agent-Cluster': '?1',
  'Referrer-Policy': 'no-referrer',
  'X-DNS-Prefetch-Control': 'off',
  'X-Frame-Options': 'DENY',
  'X-Permitted-Cross-Domain-Policies': 'none',
}

import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { OpenAPIHono } from '@hono/zod-openapi'
import { problem, problemCodes, problemDocument } from '../problems.ts'
import { type Context, type Env, requestId } from './context.ts'
import { ofPages } from './headers.ts'
import type { Version } from './health.ts'
import { ProblemDocument } from './problem-document.ts'
import { rawJson } from './respond.ts'

/** Swagger UI as npm installed it: no CDN, so that it works wherever the service does. */
const assets: Record<string, string> = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
}
const assetPath = (name: string) =>
  fileURLToPath(new URL(name, import.meta.resolve('swagger-ui-dist/package.json')))

/** Swagger UI sets style attributes as it draws; scripts come from this server alone. */
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/** /openapi.json, /docs and /docs/problems. Registered last: the document lists what came before. */
export function documentation(app: OpenAPIHono<Env>, version: Version): void {
  describeProblems(app)
  let document: string | undefined
  app.get('/openapi.json', (c) => {
    document ??= JSON.stringify(openApiDocument(app, version))
    return rawJson(c, 200, document)
  })
  for (const path of ['/', '/redoc']) app.get(path, (c) => c.redirect('/docs', 307))
  app.get('/docs', (c) => page(c, 'text/html; charset=utf-8', docsPage))
  app.get('/docs/start.js', (c) => page(c, 'text/javascript; charset=utf-8', startScript))
  const problems = problemsPage()
  app.get('/docs/problems', (c) => page(c, 'text/html; charset=utf-8', problems))
  for (const [name, type] of Object.entries(assets))
    app.get(`/docs/${name}`, async (c) => page(c, type, await readFile(assetPath(name)), 86_400))
}

export function openApiDocument(app: OpenAPIHono<Env>, version: Version) {
  return app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Stampede',
      version: version.version,
      description:
        'Coupons that are handed out, locked and redeemed under flash-sale load. Refusals are ' +
        'problem documents (RFC 9457); their codes are listed at [/docs/problems](/docs/problems).',
    },
    servers: [{ url: '/' }],
  })
}

function describeProblems(app: OpenAPIHono<Env>): void {
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', {
    type: 'http',
    scheme: 'bearer',
    description: 'The `access_token` of POST /api/v1/auth/login, or an API key.',
  })
  app.openAPIRegistry.register('Problem', ProblemDocument)
}

function page(
  c: Context,
  type: string,
  body: string | Uint8Array<ArrayBuffer>,
  maxAge = 0,
): Response {
  return new Response(body, {
    headers: {
      'Content-Type': type,
      'Content-Security-Policy': policy,
      ...ofPages,
      'Cache-Control': maxAge > 0 ? `public, max-age=${maxAge}` : 'no-cache',
      'X-Request-Id': requestId(c),
    },
  })
}

const docsPage = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stampede API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"><p>This page needs JavaScript. The document itself: <a href="/openapi.json">/openapi.json</a></p></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`

const startScript = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#swagger-ui',
  deepLinking: true,
  validatorUrl: null,
})
`

function problemsPage(): string {
  const escaped = (text: string) =>
    text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
  const rows = problemCodes.map((code) => {
    const { status, title, detail } = problemDocument(problem(code), '', '')
    return `<tr id="${code}"><td><code>${code}</code></td><td>${status}</td><td>${escaped(title)}</td><td>${escaped(detail)}</td></tr>`
  })
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stampede problems</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; }
tr:target { background: #ff03; }
</style>
</head>
<body>
<h1>Problems</h1>
<p>Every refusal of this service. <code>code</code> is stable: program against it.</p>
<table>
<thead><tr><th>code</th><th>status</th><th>title</th><th>what to do</th></tr></thead>
<tbody>
${rows.join('\n')}
</tbody>
</table>
</body>
</html>
`
}

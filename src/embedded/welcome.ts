import { adminLogin, demoLogins, demoPassword } from './demo.ts'
import { say } from './steps.ts'

/** Where everything is, and one request to copy. */
export function welcome(host: string, http: string, dir: string, demo: boolean): void {
  const isLocal = ['127.0.0.1', 'localhost', '::1'].includes(host)
  say('')
  say(`  API      ${http}/api/v1   docs ${http}/docs`)
  say(`  health   ${http}/readyz   metrics ${http}/metrics`)
  say(`  data     ${dir}   (run.json has the URLs of Redis and PostgreSQL, logs/ the logs)`)
  if (demo) {
    say(`  admin    ${adminLogin.email} / ${adminLogin.password}`)
    say(`  users    ${demoLogins.map(({ email }) => email).join(', ')} / ${demoPassword}`)
    if (!isLocal) say(`  WARNING  HOST is ${host}: everyone who reaches it knows these passwords`)
    say('')
    say(`  curl -s ${http}/api/v1/auth/login -H 'content-type: application/json' \\`)
    say(`    -d '${JSON.stringify({ email: demoLogins[0]!.email, password: demoPassword })}'`)
  }
  say('')
}

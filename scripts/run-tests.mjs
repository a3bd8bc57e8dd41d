// Runs a group of compiled tests with Node's own runner. Groups by file name under dist/: unit = src/**/*.test.js and
// test/{golden,contract,fuzz}; e2e = test/{e2e,interop}/*.test.js; e2e-newest = those of them that do not measure; long = those
// with a longer form, with COPRIME_LONG=1, then the long form of the simulator (docs/testing.md); kernel = test/interop/kernel-peer,
// kernel-short = the few rows of it that `npm test` runs.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const group = process.argv[2] ?? 'unit'
const only = process.argv[3]

function walk(folder) {
  let entries
  try {
    entries = readdirSync(join(root, folder), { withFileTypes: true })
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name)
    return entry.isDirectory() ? walk(path) : [path]
  })
}

/** The others would only be repeated: `npm test` has run them. */
const hasLongForm = (path) => readFileSync(join(root, path), 'utf8').includes('COPRIME_LONG')
const tests = (folder) => walk(folder).filter((path) => path.endsWith('.test.js'))
const groups = {
  unit: () => [
    ...tests('dist/src'),
    ...tests('dist/test/golden'),
    ...tests('dist/test/contract'),
    ...tests('dist/test/fuzz'),
    ...tests('dist/test/tidy'),
  ],
  e2e: () => [...tests('dist/test/e2e'), ...tests('dist/test/interop')].filter((path) => !path.includes('kernel-peer')),
  'e2e-newest': () => groups.e2e().filter((path) => !path.endsWith('/orders.test.js')),
  kernel: () => tests('dist/test/interop/kernel-peer'),
  'kernel-short': () => KERNEL_SHORT.map((name) => `dist/test/interop/kernel-peer/${name}.test.js`),
  long: () => [...tests('dist/src'), ...tests('dist/test')].filter(hasLongForm),
}
/** Files with rows of the short form, the longest first: two guests run at a time. */
const KERNEL_SHORT = ['two-primaries', 'resync', 'disks', 'writes', 'connect']
const isKernel = group.startsWith('kernel')
const files = (groups[group] ?? groups.unit)()
  .filter((path) => only === undefined || path.includes(only))
  .sort()
if (files.length === 0) {
  console.error(`no tests in group ${group}`)
  process.exit(1)
}
// A guest is one busy core.
const concurrency = group === 'unit' || isKernel ? '2' : '1'
if (isKernel) prepareKernel()
const result = spawnSync(
  process.execPath,
  ['--enable-source-maps', '--test', `--test-concurrency=${concurrency}`, ...files],
  {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...environment() },
  },
)
if (result.status !== 0) process.exit(result.status ?? 1)
if (group === 'long') runSimulator()

function environment() {
  if (group === 'long') return { COPRIME_LONG: '1' }
  return group === 'kernel-short' ? { COPRIME_KERNEL_ROWS: 'short' } : {}
}

/** The guest's kernel is fetched before tests run side by side that would all fetch it. */
function prepareKernel() {
  const { status } = spawnSync(process.execPath, ['dist/test/interop/kernel-peer/prepare.js'], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (status !== 0) process.exit(status ?? 1)
}

/** Random stories, and every interleaving of two writes, under every order; named scenarios. COPRIME_SIM_SEEDS: stories for each order. */
function runSimulator() {
  const seeds = process.env.COPRIME_SIM_SEEDS ?? '1500'
  const runs = [
    ['dist/src/sim/main.js', '--seeds', seeds],
    ['dist/src/sim/main.js', '--explore', 'two-writes'],
    ['dist/src/sim/main.js', '--at-most', '6'],
  ]
  for (const [script, ...args] of runs) {
    console.log(`\n${script} ${args.join(' ')}`)
    const { status } = spawnSync(process.execPath, [script, ...args], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    if (status !== 0) process.exit(status ?? 1)
  }
}

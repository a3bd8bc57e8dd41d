// Makes sure of what `npm run demo`, `npm test`, `npm run test:long` and `npm run bench` need, and builds:
// `node scripts/setup.mjs build|demo|test|long|interop|bench`. It runs before anything is installed, so it is plain JavaScript without
// dependencies. Three steps, each left out when there is nothing to do:
//
//   npm packages     `npm ci`, if node_modules is missing, incomplete or older than package-lock.json
//   Debian packages  those whose files are missing; as root with apt-get they are installed, else they are named, and what
//                    needs them says so itself (tests skip with the reason). In CI (CI=true) a failure here ends the run.
//   build            tsc, if a source is newer, gone or added since the last build
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { delimiter, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const NODE_MAJOR_MIN = 20
const root = fileURLToPath(new URL('..', import.meta.url))

/** What each Debian package is needed for, told by files of which one is enough; names without a slash are programs. */
const PACKAGES = {
  e2fsprogs: ['mkfs.ext4'],
  'libnbd-bin': ['nbdcopy'],
  nbdkit: ['nbdkit'],
  fio: ['fio'],
  'qemu-utils': ['qemu-nbd'],
  'qemu-system-common': ['qemu-storage-daemon'],
  'drbd-utils': ['drbdmeta'],
  'python3-libnbd': ['nbdsh'],
  // The newest Node.js, of scripts/newest-node.mjs, is linked with it.
  libatomic1: ['x86_64', 'aarch64'].map((machine) => `/usr/lib/${machine}-linux-gnu/libatomic.so.1`),
  'qemu-system-x86': ['qemu-system-x86_64'],
  'busybox-static': ['busybox'],
  'xz-utils': ['xz'],
}

/** A real kernel as the peer: test/interop/kernel-peer. It fetches the kernel itself, into a cache. */
const KERNEL_PEER = ['qemu-system-x86', 'drbd-utils', 'busybox-static', 'xz-utils']

const TEST = ['e2fsprogs', 'libnbd-bin', 'nbdkit', 'fio', 'qemu-utils', 'python3-libnbd', ...KERNEL_PEER]
const TARGETS = {
  build: [],
  demo: ['e2fsprogs', 'libnbd-bin'],
  test: TEST,
  long: [...TEST, 'libatomic1'],
  interop: KERNEL_PEER,
  bench: ['fio', 'libnbd-bin', 'nbdkit', 'qemu-utils', 'qemu-system-common'],
}

const target = process.argv[2] ?? ''
if (!Object.hasOwn(TARGETS, target)) fail(`usage: node scripts/setup.mjs ${Object.keys(TARGETS).join('|')}`)
checkNodeVersion()
installNpmPackages()
installDebianPackages(TARGETS[target])
build()

function checkNodeVersion() {
  const major = Number(process.versions.node.split('.')[0])
  if (major < NODE_MAJOR_MIN) fail(`Node.js ${process.versions.node} is too old: ${NODE_MAJOR_MIN} or newer is needed`)
}

function installNpmPackages() {
  const mark = 'node_modules/.package-lock.json' // npm writes it last, so it is missing after a broken installation
  const installedMs = modifiedMs(mark)
  if (installedMs !== undefined && installedMs >= modifiedMs('package-lock.json')) return
  say(`npm ci: node_modules is ${installedMs === undefined ? 'missing' : 'older than package-lock.json'}`)
  if (!run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])) fail('npm ci failed, see above')
}

function installDebianPackages(names) {
  const missing = names.filter((name) => !PACKAGES[name].some(isInstalled))
  if (missing.length === 0) return
  const list = missing.join(' ')
  if (process.getuid?.() !== 0 || !isInstalled('apt-get')) {
    say(`not installed here: ${list}. What needs them will say so; to install them: sudo apt-get install ${list}`)
    return
  }
  say(`apt-get install ${list}`)
  const apt = ['-qq', '-o', 'Acquire::Retries=3', '-o', 'DPkg::Lock::Timeout=300']
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const installed =
    run('apt-get', [...apt, 'update'], env) &&
    run('apt-get', [...apt, '-o', 'Dpkg::Use-Pty=0', 'install', '-y', '--no-install-recommends', ...missing], env)
  if (installed) return
  if (process.env.CI === undefined) say(`could not install ${list}: going on without`)
  else fail(`could not install ${list}: without them tests would be skipped, and in CI nobody would see it`)
}

function isInstalled(program) {
  if (program.includes('/')) return existsSync(program)
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return folders.some((folder) => existsSync(join(folder, program)))
}

/** Every source with size and time: also one that vanished must lead to a build, its output would still be run. */
function build() {
  const stampPath = join(root, 'dist', '.sources')
  const sources = [...['src', 'test', 'scripts'].flatMap(walk).filter((path) => path.endsWith('.ts')), 'tsconfig.json']
  const stamp = [...sources, 'node_modules/.package-lock.json'].map(describe).join('\n')
  if (existsSync(stampPath) && readFileSync(stampPath, 'utf8') === stamp) return
  say('building')
  removeOrphans(new Set(sources.map((path) => join('dist', path.replace(/\.ts$/, '.js')))))
  if (!run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']))
    fail('the build failed, see above')
  writeFileSync(stampPath, stamp)
}

function removeOrphans(outputs) {
  for (const path of ['dist/src', 'dist/test', 'dist/scripts'].flatMap(walk)) {
    const output = path.replace(/\.js\.map$/, '.js')
    if (output.endsWith('.js') && !outputs.has(output)) rmSync(join(root, path))
  }
}

function describe(path) {
  const { size, mtimeMs } = statSync(join(root, path))
  return `${path} ${size} ${mtimeMs}`
}

/** Files below a folder of the repository, relative to its root, in a stable order. */
function walk(folder) {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort()
}

function modifiedMs(path) {
  return existsSync(join(root, path)) ? statSync(join(root, path)).mtimeMs : undefined
}

function run(command, args, env = process.env) {
  const result = spawnSync(command, args, { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] })
  if (result.error !== undefined) say(`${command}: ${result.error.message}`)
  return result.status === 0
}

function say(text) {
  console.log(`setup: ${text}`)
}

function fail(text) {
  console.error(`setup: ${text}`)
  process.exit(1)
}

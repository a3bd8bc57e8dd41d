// The main job, shown live and then proven: `npm run demo [-- --keep]`. Two hosts, one disk, both write; one of them is
// killed in the middle of it and comes back; then everything that was acknowledged must be there, on both. Ends with
// status 0 only if all of it held. With --keep the two hosts stay up afterwards, to look at.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Prng } from '../src/base/prng.ts'
import { MIB, SECTOR_BYTES } from '../src/base/units.ts'
import type { ResourceReport, VolumeReport } from '../src/control/api.ts'
import { History } from '../src/sim/history.ts'
import { within } from '../test/support/bounded.ts'
import { repositoryRoot } from '../test/support/root.ts'
import { onProcessExit } from '../test/support/scratch.ts'
import { elapsedSeconds, formatTable, mebibytes, print, say, sayProgress, thousands } from './console.ts'
import { Client, type Range } from './demo/clients.ts'
import { type FileSystem, makeFileSystem } from './demo/file-system.ts'
import { conflictingPairs, Load } from './demo/load.ts'
import { type Check, prove } from './demo/proof.ts'
import { Lab } from './lab.ts'
import { missingPrograms, run } from './processes.ts'

const DISK_BYTES = 256 * MIB
const FILE_SYSTEM_BYTES = 104 * MIB
const areaAt = (fromBytes: number, bytes: number): Range => ({
  sector: fromBytes / SECTOR_BYTES,
  sectors: bytes / SECTOR_BYTES,
})
const AREA_OF_A = areaAt(FILE_SYSTEM_BYTES, 48 * MIB)
const AREA_OF_B = areaAt(152 * MIB, 48 * MIB)
const CONTESTED = areaAt(200 * MIB, 2 * MIB)
const WRITTEN = areaAt(FILE_SYSTEM_BYTES, 98 * MIB)

const PAIRS = 3000
const PAIRS_AFTERWARDS = 1000
const LOAD_BEFORE_KILL_MS = 2000
const LOAD_ON_SURVIVOR_MS = 3000
const REQUESTS_UNDER_WAY_MAX = 100
const BLOCK_BYTES = 4096
const POLL_MS = 100
/** Nothing here takes that long; what does is stuck. */
const GO_ON_TIMEOUT_MS = 20_000
const RETURN_TIMEOUT_MS = 60_000
const WHOLE_TIMEOUT_MS = 300_000

const { values: options } = parseArgs({ options: { keep: { type: 'boolean', default: false } } })
const prng = new Prng(Date.now())
const history = new History()

async function main(): Promise<boolean> {
  const missing = missingPrograms(['mkfs.ext4', 'e2fsck', 'debugfs', 'nbdcopy'])
  if (missing.length > 0) throw new Error(`not installed: ${missing.join(', ')} (Debian: e2fsprogs, libnbd-bin)`)
  const folder = mkdtempSync(join(tmpdir(), 'coprime-demo-'))
  const path = (name: string): string => join(folder, name)
  let keepFiles = false
  onProcessExit(() => {
    if (keepFiles) print(`Files: ${folder}`)
    else rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  })
  const lab = await Lab.start({ folder: path('lab'), size: `${DISK_BYTES / MIB}M`, detached: options.keep })
  let keepLab = false
  try {
    const held = await showAndProve(lab, path)
    keepLab = options.keep
    keepFiles = keepLab || !held
    return held
  } catch (error) {
    keepFiles = true
    throw error
  } finally {
    if (keepLab) leaveUp(lab)
    else await stop(lab)
  }
}

/** A lab that does not stop is a failure of its own, and must not hide the one before it. */
async function stop(lab: Lab): Promise<void> {
  try {
    await lab.stop()
  } catch (error) {
    print(`demo: ${error instanceof Error ? error.message : String(error)}`)
    process.exitCode = 1
  }
}

async function showAndProve(lab: Lab, path: (name: string) => string): Promise<boolean> {
  const a = new Client({ host: lab.a, writer: 1, history })
  const b = new Client({ host: lab.b, writer: 2, history })
  const clients = [a, b] as const
  await Promise.all(clients.map((client) => client.connect()))
  say(`two hosts, a and b, share a disk of ${mebibytes(a.sizeBytes)}; both are Primary. Dashboard: ${lab.dashboard}`)
  const fileSystem = await copyFileSystem(a, b, path)
  await fightForBlocks(clients, PAIRS)
  await killAndReturn(lab, clients)
  await fightForBlocks(clients, PAIRS_AFTERWARDS)
  await Promise.all(clients.map((client) => client.flush()))
  say('all written and flushed; now the proof')
  const { sizeBytes } = a
  const checks = await prove({ clients, history, sizeBytes, written: WRITTEN, contested: CONTESTED, fileSystem, path })
  await Promise.all(clients.map((client) => client.disconnect()))
  return summarize(checks)
}

/** A file system is copied in through a, by a program that knows nothing of coprime, while b is written too. */
async function copyFileSystem(a: Client, b: Client, path: (name: string) => string): Promise<FileSystem> {
  const image = { path: path('file-system.img'), bytes: FILE_SYSTEM_BYTES }
  const fileSystem = await makeFileSystem(repositoryRoot, path('files'), image)
  const { checksums, filesBytes, imagePath } = fileSystem
  say(`made an ext4 file system of ${thousands(checksums.size)} files, ${mebibytes(filesBytes)}`)
  const load = new Load(b, prng.fork('b-copy'), { own: AREA_OF_B, contested: undefined })
  const beganMs = performance.now()
  await run('nbdcopy', ['--flush', imagePath, a.host.nbdUri])
  const seconds = (performance.now() - beganMs) / 1000
  await load.stop()
  say(
    `copied in through a in ${seconds.toFixed(1)} s (${mebibytes(FILE_SYSTEM_BYTES / seconds)}/s), ` +
      `while b made ${thousands(b.acknowledgedWrites)} writes of its own`,
  )
  return fileSystem
}

async function fightForBlocks(clients: readonly [Client, Client], pairs: number): Promise<void> {
  say(`both hosts write the same blocks at the same moment, ${thousands(pairs)} times`)
  const before = await conflictCounters(clients)
  const counts = await conflictingPairs(clients, prng.fork(`pairs-${pairs}`), {
    area: CONTESTED,
    pairs,
    onPair: (done) => sayProgress(() => `${thousands(done)} pairs`),
  })
  const after = await conflictCounters(clients)
  say(
    `    ${counts.equal} on equal blocks, ${counts.overlapping} overlapping partly, ${counts.inside} one inside the other; ` +
      `${thousands(after - before)} had to be decided between the hosts`,
  )
}

async function conflictCounters(clients: readonly Client[]): Promise<number> {
  const reports = await Promise.all(clients.map(({ host }) => host.report()))
  return reports.reduce((sum, report) => {
    const { superseded, retried } = volumeOf(report).counters
    return sum + superseded + retried
  }, 0)
}

async function killAndReturn(lab: Lab, [a, b]: readonly [Client, Client]): Promise<void> {
  const loadOnA = new Load(a, prng.fork('a-kill'), { own: AREA_OF_A, contested: CONTESTED })
  const loadOnB = new Load(b, prng.fork('b-kill'), { own: AREA_OF_B, contested: CONTESTED })
  say('both hosts under load, in areas of their own and in one that both write and read')
  await watchLoad([a, b], LOAD_BEFORE_KILL_MS)
  b.beginPauseWatch()
  await lab.kill('a')
  await within(GO_ON_TIMEOUT_MS, 'the end of the connections to a', loadOnA.hostLost())
  say(`host a: SIGKILL in the middle of it, ${a.unansweredRequests} requests without an answer`)
  const answeredAlready = b.acknowledgedWrites + REQUESTS_UNDER_WAY_MAX
  await reaches(() => b.acknowledgedWrites > answeredAlready, GO_ON_TIMEOUT_MS, 'b goes on without a')
  say(`host b goes on alone; its longest pause was ${(b.longestPauseMs / 1000).toFixed(2)} s`)
  await watchLoad([b], LOAD_ON_SURVIVOR_MS)
  say(
    `host a comes back, ${mebibytes(volumeOf(await b.host.report()).outOfSyncBlocks * BLOCK_BYTES)} behind; b goes on writing`,
  )
  const restartedMs = performance.now()
  await lab.restart('a')
  const loadOnReturned = await watchReturn([a, b], restartedMs)
  await watchLoad([a, b], LOAD_BEFORE_KILL_MS)
  await Promise.all([loadOnReturned.stop(), loadOnB.stop()])
}

async function watchLoad(clients: readonly Client[], durationMs: number): Promise<void> {
  const untilMs = performance.now() + durationMs
  while (performance.now() < untilMs) {
    await sleep(POLL_MS)
    sayProgress(() =>
      clients.map(({ host, acknowledgedWrites: n }) => `${host.name}: ${thousands(n)} writes`).join(', '),
    )
  }
}

/** Until both are UpToDate and Primary. The load on a begins as soon as a takes clients. */
async function watchReturn(clients: readonly [Client, Client], beganMs: number): Promise<Load> {
  const deadlineMs = performance.now() + RETURN_TIMEOUT_MS
  let load: Load | undefined
  for (;;) {
    const reports = await Promise.all(clients.map(({ host }) => host.report().catch(notYet)))
    const [onA, onB] = reports.map((report) => report?.volumes[0])
    load ??= await connectAndLoad(clients[0])
    if (load !== undefined && onA !== undefined && reports.every(isWhole)) {
      const seconds = ((performance.now() - beganMs) / 1000).toFixed(1)
      say(`both UpToDate again ${seconds} s after the restart; ${mebibytes(onA.resyncBytes)} were resynced`)
      return load
    }
    if (onB !== undefined) {
      const left = onB.resyncTotalBlocks > 0 ? onB.resyncLeftBlocks : onB.outOfSyncBlocks
      const state = onA === undefined ? 'starting' : `${onA.disk}, ${onA.connection}`
      sayProgress(() => `a: ${state}; ${mebibytes(left * BLOCK_BYTES)} to go`)
    }
    if (performance.now() > deadlineMs) throw new Error(`a does not become UpToDate: ${JSON.stringify(reports)}`)
    await sleep(POLL_MS)
  }
}

async function connectAndLoad(client: Client): Promise<Load | undefined> {
  const connected = await client.connect().then(() => true, notYet)
  if (connected === undefined) return undefined
  return new Load(client, prng.fork('returned'), { own: AREA_OF_A, contested: CONTESTED })
}

/** A host that is starting refuses connections, and clients until it may be Primary. */
const notYet = (): undefined => undefined

const isWhole = (report: ResourceReport | undefined): boolean => {
  if (report === undefined) return false
  const { disk, peerDisk, connection } = volumeOf(report)
  return report.role === 'Primary' && disk === 'UpToDate' && peerDisk === 'UpToDate' && connection === 'Connected'
}

function volumeOf(report: ResourceReport): VolumeReport {
  const [volume] = report.volumes
  if (volume === undefined) throw new Error(`${report.name} has no volume`)
  return volume
}

async function reaches(holds: () => boolean, timeoutMs: number, what: string): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(POLL_MS)
  }
}

function summarize(checks: readonly Check[]): boolean {
  const held = checks.every((check) => check.held)
  print()
  const rows = checks.map((check) => [check.held ? 'held' : 'FAILED', check.what, check.evidence])
  for (const line of formatTable(rows)) print(line)
  print(`\n${held ? 'All of it held' : 'NOT all of it held'}, after ${elapsedSeconds().toFixed(0)} s.`)
  return held
}

function leaveUp(lab: Lab): void {
  lab.leaveRunning()
  print(`\nThe two hosts stay up.`)
  print(`  dashboard   ${lab.dashboard}`)
  print(`  host a      ${lab.a.nbdUri}`)
  print(`  host b      ${lab.b.nbdUri}`)
  print(`  status      ${lab.commandLine('status')}`)
  print(`  stop        kill ${lab.pid}`)
}

const watchdog = setTimeout(() => {
  print(`demo: not finished within ${WHOLE_TIMEOUT_MS / 1000} s`)
  process.exit(1)
}, WHOLE_TIMEOUT_MS)
try {
  if (!(await main())) process.exitCode = 1
} catch (error) {
  print(`demo: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
  process.exitCode = 1
} finally {
  clearTimeout(watchdog)
}

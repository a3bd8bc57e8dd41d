// Measures coprime beside what is already there, in one run, interleaved, so that a busy machine slows all of them alike:
// `npm run bench [-- --quick] [--json FILE] [--dir FOLDER] [--target NAME ...] [--job NAME ...] [--rounds N]`. docs/benchmarks.md says how to read it.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, release, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MIB } from '../src/base/units.ts'
import { repositoryRoot } from '../test/support/root.ts'
import { onProcessExit } from '../test/support/scratch.ts'
import { fill, JOBS, measure } from './bench/fio.ts'
import { formatSummary, type Result, summarize } from './bench/report.ts'
import { startTarget, TARGET_NAMES, type Target } from './bench/targets.ts'
import { mebibytes, print, say, thousands } from './console.ts'
import { fileSystemType } from './files.ts'
import { missingPrograms, run } from './processes.ts'

const FULL = { diskBytes: 512 * MIB, rampSeconds: 1, seconds: 5 }
const QUICK = { diskBytes: 128 * MIB, rampSeconds: 0.5, seconds: 1 }

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    dir: { type: 'string' },
    target: { type: 'string', multiple: true, default: [...TARGET_NAMES] },
    job: { type: 'string', multiple: true, default: JOBS.map((job) => job.name) },
    rounds: { type: 'string', default: '3' },
  },
})

async function main(): Promise<void> {
  const targetNames = chosen('--target', options.target, TARGET_NAMES)
  const jobNames = chosen(
    '--job',
    options.job,
    JOBS.map((job) => job.name),
  )
  const jobs = JOBS.filter((job) => jobNames.includes(job.name))
  const rounds = Number(options.rounds)
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds ${options.rounds}: a whole number from 1`)
  const missing = missingPrograms(['fio', 'qemu-nbd', 'qemu-storage-daemon', 'nbdkit'])
  if (missing.length > 0) throw new Error(`not installed: ${missing.join(', ')}`)
  const folder = mkdtempSync(join(options.dir ?? tmpdir(), 'coprime-bench-'))
  onProcessExit(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
  const machine = await machineFacts(folder)
  for (const [name, value] of Object.entries(machine)) print(`${name.padEnd(12)} ${value}`)
  print()
  const size = options.quick ? QUICK : FULL
  const targets: Target[] = []
  const results: Result[] = []
  try {
    for (const name of targetNames) targets.push(await startTarget(name, { folder, sizeBytes: size.diskBytes }))
    for (const target of targets) await warmUp(target)
    for (let round = 1; round <= rounds; round++) {
      for (const job of jobs) {
        for (const target of targets) {
          if (job.everySide && target.uris.length === 1) continue
          const uris = job.everySide ? target.uris : target.uris.slice(0, 1)
          await settle(targets)
          const measurement = await measure(job, uris, { ...size, seed: round })
          results.push({ round, job: job.name, target: target.name, measurement })
          const { iops, p99Us } = measurement
          say(
            `round ${round} of ${rounds}: ${job.title}, ${target.name}: ${thousands(iops)} IOPS, p99 ${thousands(p99Us)} us`,
          )
        }
      }
      for (const target of targets) await target.verify()
    }
  } finally {
    for (const target of targets) await target.stop()
  }
  const summary = summarize(results)
  print()
  for (const line of formatSummary(summary)) print(line)
  print(`\nMedian of ${rounds} interleaved rounds of ${size.seconds} s; disk ${mebibytes(size.diskBytes)}.`)
  print(
    'After each round both copies of coprime and of the mirror were compared: byte-identical, nothing left unwritten.',
  )
  if (options.json !== undefined) {
    writeFileSync(options.json, `${JSON.stringify({ machine, size, summary, results }, null, 2)}\n`)
  }
}

function chosen<Name extends string>(
  option: string,
  given: readonly string[],
  names: readonly Name[],
): readonly Name[] {
  const wrong = given.find((name) => !names.includes(name as Name))
  if (wrong !== undefined) throw new Error(`${option} ${wrong}: there are ${names.join(', ')}`)
  return names.filter((name) => given.includes(name))
}

async function warmUp(target: Target): Promise<void> {
  say(`${target.name}: writing the whole disk once`)
  for (const uri of target.uris.slice(0, 1)) await fill(uri)
}

/** What the measurement before has left dirty in the page cache must not be written during the next one. */
async function settle(targets: readonly Target[]): Promise<void> {
  await run(
    'sync',
    targets.flatMap((target) => target.files),
  )
}

async function machineFacts(folder: string): Promise<Record<string, string>> {
  const firstLine = async (command: string): Promise<string> => (await run(command, ['--version'])).split('\n')[0] ?? ''
  const { version } = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')) as { version: string }
  return {
    date: new Date().toISOString(),
    coprime: version,
    processor: `${cpus().length} x ${cpus()[0]?.model ?? 'unknown'}`,
    memory: mebibytes(totalmem()),
    kernel: release(),
    'file system': await fileSystemType(folder),
    'Node.js': process.versions.node,
    qemu: await firstLine('qemu-storage-daemon'),
    nbdkit: await firstLine('nbdkit'),
    fio: await firstLine('fio'),
  }
}

try {
  await main()
} catch (error) {
  print(`bench: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}

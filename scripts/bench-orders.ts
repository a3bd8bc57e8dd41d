// The write orders beside each other: each with four workloads, at several delays of the link, in one run:
// `npm run bench:orders [-- --seconds S] [--rounds N] [--delay MS ...] [--order NAME ...] [--workload NAME ...] [--markdown]`.
// docs/write-orders.md has the result.
//
// Each host has a core of its own (Lab.pin). A round has new processes. All labs of a round are up at once, idle but for the one
// that is measured. Each order is measured once with each workload, the orders directly one after the other, so that what else
// the machine does meets all of them; figures are medians over the rounds. At the end: `auto` is to be at least as fast as the
// better of the two orders that it is made of, less a tenth, and no side below a quarter of the writes of a duel.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MIB } from '../src/base/units.ts'
import type { ResourceReport } from '../src/control/api.ts'
import { onProcessExit } from '../test/support/scratch.ts'
import { runLoad, WORKLOADS, type Workload } from './bench/two-sided-load.ts'
import { formatTable, print, say, thousands } from './console.ts'
import { compareFiles } from './files.ts'
import { Lab } from './lab.ts'

const DISK_BYTES = 64 * MIB
/** `auto` tries both of its ways within the first half second. */
const RAMP_SECONDS = 1
const SHARE_MIN = 0.25
const AUTO_RATIO_MIN = 0.9
const VARIANTS: readonly { readonly name: string; readonly more: readonly string[] }[] = [
  { name: 'arbitration', more: ['--order', 'arbitration'] },
  { name: 'coordinator', more: ['--order', 'coordinator'] },
  { name: 'coordinator, write-now-acks', more: ['--order', 'coordinator', '--write-now-acks'] },
  { name: 'lock-extents', more: ['--order', 'lock-extents'] },
  { name: 'auto', more: ['--order', 'auto'] },
]

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    workload: { type: 'string', multiple: true, default: WORKLOADS.map(({ name }) => name) },
    delay: { type: 'string', multiple: true, default: ['0', '1', '5'] },
    order: { type: 'string', multiple: true, default: VARIANTS.map(({ name }) => name) },
    markdown: { type: 'boolean', default: false },
  },
})

interface Cell {
  readonly delay: string
  readonly workload: Workload
  readonly order: string
}

/** Of one round; rates are per second, the rest per write. */
interface Figures {
  readonly a: number
  readonly b: number
  readonly both: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly packets: number
  readonly handovers: number
  /** Changes of mind of `auto`. */
  readonly switches: number
  /** Share of the writes that were superseded or sent again, in percent. */
  readonly undone: number
}

interface Result extends Cell {
  readonly rounds: Figures[]
}

interface Totals {
  readonly packets: number
  readonly handovers: number
  readonly switches: number
  readonly undone: number
}

async function main(): Promise<boolean> {
  const seconds = Number(options.seconds)
  const rounds = Number(options.rounds)
  if (!(seconds > 0 && rounds > 0)) throw new Error('--seconds and --rounds: numbers above 0')
  const variants = VARIANTS.filter(({ name }) => options.order.includes(name))
  const workloads = WORKLOADS.filter(({ name }) => options.workload.includes(name))
  if (variants.length === 0) throw new Error(`--order: there are ${VARIANTS.map(({ name }) => name).join('; ')}`)
  if (workloads.length === 0) throw new Error(`--workload: there are ${WORKLOADS.map(({ name }) => name).join(', ')}`)
  const folder = mkdtempSync(join(tmpdir(), 'coprime-bench-orders-'))
  onProcessExit(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
  const results: Result[] = []
  for (const delay of options.delay) {
    for (let round = 1; round <= rounds; round++) {
      const labs = new Map<string, Lab>()
      try {
        for (const [i, { name, more }] of variants.entries()) {
          const place = { folder: join(folder, `${i}-${delay}-${round}`), size: String(DISK_BYTES), detached: false }
          const lab = await Lab.start({ ...place, more: [...more, '--link-delay-ms', delay] })
          labs.set(name, lab)
          await lab.pin()
          await warmUp(lab)
        }
        await measureAll(labs, workloads, { delay, seconds, round }, results)
        for (const lab of labs.values()) await verify(lab)
      } finally {
        for (const lab of labs.values()) await lab.stop()
      }
    }
  }
  const sorted = workloads.flatMap((workload) => results.filter((result) => result.workload === workload))
  print()
  for (const line of table(sorted)) print(line)
  print(
    `\n4 KiB writes through both hosts at once, one order after another on one machine, medians of ${rounds} rounds of ${seconds} s; the disks were equal.`,
  )
  return judge(sorted)
}

async function measureAll(
  labs: ReadonlyMap<string, Lab>,
  workloads: readonly Workload[],
  how: { delay: string; seconds: number; round: number },
  results: Result[],
): Promise<void> {
  const { delay } = how
  for (const workload of workloads) {
    for (const [order, lab] of labs) {
      const figures = await measure(lab, workload, how.seconds)
      const known = results.find((one) => one.workload === workload && one.order === order && one.delay === delay)
      if (known === undefined) results.push({ delay, workload, order, rounds: [figures] })
      else known.rounds.push(figures)
      say(`round ${how.round}, link ${delay} ms, ${workload.title}, ${order}: ${describe(figures)}`)
    }
  }
}

/** So that no measurement allocates blocks in the files below, finds its extents cold, or code that is not compiled yet. */
async function warmUp(lab: Lab): Promise<void> {
  const clients = await Promise.all([lab.a.connect(), lab.b.connect()])
  for (let at = 0; at < DISK_BYTES; at += MIB) await clients[0].write(at, new Uint8Array(MIB).fill(1))
  for (const workload of WORKLOADS) await runLoad(workload, clients, { diskBytes: DISK_BYTES, seconds: 1, seed: 1 })
  for (const client of clients) await client.disconnect()
}

async function measure(lab: Lab, workload: Workload, seconds: number): Promise<Figures> {
  const clients = await Promise.all([lab.a.connect(), lab.b.connect()])
  try {
    const how = { diskBytes: DISK_BYTES, seed: 1 }
    await runLoad(workload, clients, { ...how, seconds: RAMP_SECONDS })
    const before = await totals(lab)
    const sides = await runLoad(workload, clients, { ...how, seconds })
    const after = await totals(lab)
    const [a = 0, b = 0] = sides.map(({ writes }) => writes)
    const latenciesMs = sides.flatMap((side) => [...side.latenciesMs]).sort((x, y) => x - y)
    return {
      a: a / seconds,
      b: b / seconds,
      both: (a + b) / seconds,
      p50Ms: percentile(latenciesMs, 50),
      p99Ms: percentile(latenciesMs, 99),
      packets: (after.packets - before.packets) / (a + b),
      handovers: (after.handovers - before.handovers) / seconds,
      switches: (after.switches - before.switches) / seconds,
      undone: (100 * (after.undone - before.undone)) / (a + b),
    }
  } finally {
    for (const client of clients) await client.disconnect()
  }
}

async function totals(lab: Lab): Promise<Totals> {
  const reports = await Promise.all([lab.a.report(), lab.b.report()])
  const sum = (of: (report: ResourceReport) => number): number => reports.reduce((all, report) => all + of(report), 0)
  const counters = (report: ResourceReport) => report.volumes[0]?.counters ?? fail(`${report.name} has no volume`)
  return {
    packets: sum(({ packets }) => packets.sent),
    handovers: sum((report) => counters(report).lockHandovers),
    switches: sum((report) => counters(report).orderSwitches),
    undone: sum((report) => counters(report).superseded + counters(report).retried),
  }
}

async function verify(lab: Lab): Promise<void> {
  const files = [lab.a.diskPath, lab.b.diskPath] as const
  const { differingBlocks, firstDifferenceBytes } = await compareFiles(files, DISK_BYTES)
  if (differingBlocks > 0)
    fail(`${differingBlocks} blocks differ between the disks, the first at byte ${firstDifferenceBytes}`)
}

function fail(message: string): never {
  throw new Error(message)
}

const percentile = (sorted: readonly number[], percent: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN

function median({ rounds }: Result, figure: keyof Figures): number {
  const sorted = rounds.map((round) => round[figure]).sort((a, b) => a - b)
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]]
  return ((low ?? Number.NaN) + (high ?? Number.NaN)) / 2
}

const describe = ({ a, b, p99Ms }: Figures): string =>
  `${thousands(a)} + ${thousands(b)} writes/s, p99 ${p99Ms.toFixed(2)} ms`

function table(results: readonly Result[]): string[] {
  const head = [
    'workload',
    'link',
    'order',
    'a /s',
    'b /s',
    'both /s',
    'p50 ms',
    'p99 ms',
    'packets/write',
    'hand-overs/s',
    'undone',
  ]
  const rows = results.map((result) => [
    result.workload.title,
    `${result.delay} ms`,
    result.order,
    thousands(median(result, 'a')),
    thousands(median(result, 'b')),
    thousands(median(result, 'both')),
    median(result, 'p50Ms').toFixed(2),
    median(result, 'p99Ms').toFixed(2),
    median(result, 'packets').toFixed(2),
    median(result, 'handovers').toFixed(0),
    `${median(result, 'undone').toFixed(1)} %`,
  ])
  if (!options.markdown) return formatTable([head, ...rows], [3, 4, 5, 6, 7, 8, 9, 10])
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`)
}

/** Ratios within a round, whose measurements are neighbours in time; the median of these. */
function judge(results: readonly Result[]): boolean {
  let holds = true
  for (const result of results) {
    const rival = (order: string): Result | undefined =>
      results.find(
        (other) => other.order === order && other.delay === result.delay && other.workload === result.workload,
      )
    const where = `${result.workload.title}, link ${result.delay} ms, ${result.order}`
    const [locks, coordinator] = [rival('lock-extents'), rival('coordinator')]
    if (result.order === 'auto' && locks !== undefined && coordinator !== undefined) {
      const best = median(locks, 'both') > median(coordinator, 'both') ? locks : coordinator
      const ratios = result.rounds
        .map(({ both }, i) => both / (best.rounds[i]?.both ?? Number.NaN))
        .sort((x, y) => x - y)
      const ratio = ((ratios[(ratios.length - 1) >> 1] ?? 0) + (ratios[ratios.length >> 1] ?? 0)) / 2
      const ok = ratio >= AUTO_RATIO_MIN
      print(`${ok ? 'ok' : 'FAILED'} ${where}: ${ratio.toFixed(2)} of ${best.order}`)
      holds &&= ok
    }
    const share = Math.min(median(result, 'a'), median(result, 'b')) / (median(result, 'a') + median(result, 'b'))
    if (share >= SHARE_MIN) continue
    print(`FAILED ${where}: one side has ${(100 * share).toFixed(0)} % of the writes`)
    holds = false
  }
  return holds
}

try {
  if (!(await main())) process.exitCode = 1
} catch (error) {
  print(`bench:orders: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}

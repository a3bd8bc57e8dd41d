// The write orders beside each other: each with four workloads, at several delays of the link, in one run:
// `npm run bench:orders [-- --seconds S] [--delay MS ...] [--order NAME ...] [--markdown]`. docs/write-orders.md has the result.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MIB } from '../src/base/units.ts'
import type { ResourceReport } from '../src/control/api.ts'
import { onProcessExit } from '../test/support/scratch.ts'
import { runLoad, type SideResult, WORKLOADS, type Workload } from './bench/two-sided-load.ts'
import { formatTable, print, say, thousands } from './console.ts'
import { compareFiles } from './files.ts'
import { Lab } from './lab.ts'

const DISK_BYTES = 64 * MIB
const RAMP_SECONDS = 0.5
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
    delay: { type: 'string', multiple: true, default: ['0', '1', '5'] },
    order: { type: 'string', multiple: true, default: VARIANTS.map(({ name }) => name) },
    markdown: { type: 'boolean', default: false },
  },
})

interface Cell {
  readonly delay: string
  readonly workload: Workload
  readonly order: string
  readonly sides: readonly SideResult[]
  readonly seconds: number
  readonly packets: number
  readonly handovers: number
  readonly switches: number
  /** Writes that were superseded or sent again. */
  readonly undone: number
}

interface Totals {
  readonly packets: number
  readonly handovers: number
  readonly switches: number
  readonly undone: number
}

async function main(): Promise<void> {
  const seconds = Number(options.seconds)
  if (!(seconds > 0)) throw new Error(`--seconds ${options.seconds}: a number above 0`)
  const variants = VARIANTS.filter(({ name }) => options.order.includes(name))
  if (variants.length === 0) throw new Error(`--order: there are ${VARIANTS.map(({ name }) => name).join('; ')}`)
  const folder = mkdtempSync(join(tmpdir(), 'coprime-bench-orders-'))
  onProcessExit(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
  const cells: Cell[] = []
  for (const delay of options.delay) {
    for (const [i, { name, more }] of variants.entries()) {
      const lab = await Lab.start({
        folder: join(folder, `${i}-${delay}`),
        size: String(DISK_BYTES),
        detached: false,
        more: [...more, '--link-delay-ms', delay],
      })
      try {
        await fill(lab)
        for (const workload of WORKLOADS) {
          const cell = await measure(lab, { delay, workload, order: name, seconds })
          cells.push(cell)
          say(`link ${delay} ms, ${workload.title}, ${name}: ${describe(cell)}`)
        }
        await verify(lab)
      } finally {
        await lab.stop()
      }
    }
  }
  const sorted = WORKLOADS.flatMap((workload) => cells.filter((cell) => cell.workload === workload))
  print()
  for (const line of table(sorted)) print(line)
  print(
    `\n4 KiB writes through both hosts at once, ${seconds} s each, one after another on one machine; the disks were equal.`,
  )
}

/** Once over the whole disk, so that no measurement allocates blocks in the files below or finds its extents cold. */
async function fill(lab: Lab): Promise<void> {
  const client = await lab.a.connect()
  for (let at = 0; at < DISK_BYTES; at += MIB) await client.write(at, new Uint8Array(MIB).fill(1))
  await client.disconnect()
}

async function measure(lab: Lab, what: Pick<Cell, 'delay' | 'workload' | 'order' | 'seconds'>): Promise<Cell> {
  const clients = await Promise.all([lab.a.connect(), lab.b.connect()])
  try {
    const how = { diskBytes: DISK_BYTES, seed: 1 }
    await runLoad(what.workload, clients, { ...how, seconds: RAMP_SECONDS })
    const before = await totals(lab)
    const sides = await runLoad(what.workload, clients, { ...how, seconds: what.seconds })
    const after = await totals(lab)
    return {
      ...what,
      sides,
      packets: after.packets - before.packets,
      handovers: after.handovers - before.handovers,
      switches: after.switches - before.switches,
      undone: after.undone - before.undone,
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

const writesOf = ({ sides }: Cell): number => sides.reduce((sum, { writes }) => sum + writes, 0)

function percentileMs({ sides }: Cell, percent: number): number {
  const sorted = sides.flatMap(({ latenciesMs }) => [...latenciesMs]).sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN
}

function describe(cell: Cell): string {
  const [a, b] = cell.sides.map(({ writes }) => thousands(writes / cell.seconds))
  return `${a} + ${b} writes/s, p99 ${percentileMs(cell, 99).toFixed(2)} ms`
}

function table(cells: readonly Cell[]): string[] {
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
  const rows = cells.map((cell) => [
    cell.workload.title,
    `${cell.delay} ms`,
    cell.order,
    ...cell.sides.map(({ writes }) => thousands(writes / cell.seconds)),
    thousands(writesOf(cell) / cell.seconds),
    percentileMs(cell, 50).toFixed(2),
    percentileMs(cell, 99).toFixed(2),
    (cell.packets / writesOf(cell)).toFixed(2),
    (cell.handovers / cell.seconds).toFixed(0),
    `${((100 * cell.undone) / writesOf(cell)).toFixed(1)} %`,
  ])
  if (!options.markdown) return formatTable([head, ...rows], [3, 4, 5, 6, 7, 8, 9, 10])
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`)
}

try {
  await main()
} catch (error) {
  print(`bench:orders: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}

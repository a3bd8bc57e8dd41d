// From the measurements of all rounds to one table: the median of each figure, and its ratio to the mirror.

import { formatTable, thousands } from '../console.ts'
import { JOBS, type Measurement } from './fio.ts'
import { TARGET_NAMES, type TargetName } from './targets.ts'

export interface Result {
  readonly round: number
  readonly job: string
  readonly target: TargetName
  readonly measurement: Measurement
}

export interface SummaryRow {
  readonly job: string
  readonly title: string
  readonly target: TargetName
  readonly median: Measurement
  /** Smallest and largest of the rounds. */
  readonly iopsMin: number
  readonly iopsMax: number
  /** Median over the rounds of (IOPS here / IOPS of the mirror in the same round); undefined without a mirror. */
  readonly ratioToMirror: number | undefined
}

const REFERENCE: TargetName = 'mirror'

export function summarize(results: readonly Result[]): SummaryRow[] {
  const rows: SummaryRow[] = []
  for (const { name: job, title } of JOBS) {
    const reference = new Map(
      select(results, job, REFERENCE).map(({ round, measurement }) => [round, measurement.iops]),
    )
    for (const target of TARGET_NAMES) {
      const own = select(results, job, target)
      if (own.length === 0) continue
      const iops = own.map(({ measurement }) => measurement.iops)
      const ratios = own.flatMap(({ round, measurement }) => {
        const mirror = reference.get(round)
        return mirror === undefined ? [] : [measurement.iops / mirror]
      })
      rows.push({
        job,
        title,
        target,
        median: medianOf(own.map(({ measurement }) => measurement)),
        iopsMin: Math.min(...iops),
        iopsMax: Math.max(...iops),
        ratioToMirror: ratios.length === 0 ? undefined : median(ratios),
      })
    }
  }
  return rows
}

export function formatSummary(rows: readonly SummaryRow[]): string[] {
  const head = ['job', 'target', 'IOPS', 'min', 'max', 'MB/s', 'p50 us', 'p99 us', 'to mirror']
  const body = rows.map((row, i) => [
    rows[i - 1]?.job === row.job ? '' : row.title,
    row.target,
    thousands(row.median.iops),
    thousands(row.iopsMin),
    thousands(row.iopsMax),
    (row.median.bytesPerSecond / 1e6).toFixed(1),
    thousands(row.median.p50Us),
    thousands(row.median.p99Us),
    row.ratioToMirror === undefined ? '-' : row.ratioToMirror.toFixed(2),
  ])
  return formatTable([head, ...body], [2, 3, 4, 5, 6, 7, 8])
}

function select(results: readonly Result[], job: string, target: TargetName): Result[] {
  return results.filter((result) => result.job === job && result.target === target)
}

function medianOf(measurements: readonly Measurement[]): Measurement {
  const of = (key: keyof Measurement): number => median(measurements.map((measurement) => measurement[key]))
  return { iops: of('iops'), bytesPerSecond: of('bytesPerSecond'), p50Us: of('p50Us'), p99Us: of('p99Us') }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

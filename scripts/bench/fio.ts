// One measurement: fio with its NBD engine (libnbd) against one export or, with two, against both at once.

import { ProgramError, run } from '../processes.ts'

export interface Job {
  readonly name: string
  readonly title: string
  readonly pattern: 'randwrite' | 'randread' | 'write'
  readonly blockBytes: number
  /** For each export. */
  readonly queueDepth: number
  /** On every export of the target at once; only targets with more than one take part. */
  readonly everySide: boolean
}

export const JOBS: readonly Job[] = [
  {
    name: 'randwrite-4k-qd1',
    title: '4 KiB random write, QD 1',
    pattern: 'randwrite',
    blockBytes: 4096,
    queueDepth: 1,
    everySide: false,
  },
  {
    name: 'randwrite-4k-qd32',
    title: '4 KiB random write, QD 32',
    pattern: 'randwrite',
    blockBytes: 4096,
    queueDepth: 32,
    everySide: false,
  },
  {
    name: 'randread-4k-qd32',
    title: '4 KiB random read, QD 32',
    pattern: 'randread',
    blockBytes: 4096,
    queueDepth: 32,
    everySide: false,
  },
  {
    name: 'write-1m-qd4',
    title: '1 MiB sequential write, QD 4',
    pattern: 'write',
    blockBytes: 1 << 20,
    queueDepth: 4,
    everySide: false,
  },
  {
    name: 'randwrite-4k-qd32-both',
    title: '4 KiB random write, QD 32 on both hosts',
    pattern: 'randwrite',
    blockBytes: 4096,
    queueDepth: 32,
    everySide: true,
  },
]

export interface Measurement {
  readonly iops: number
  readonly bytesPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
}

export interface Duration {
  readonly rampSeconds: number
  readonly seconds: number
}

export async function measure(
  job: Job,
  uris: readonly string[],
  how: Duration & { seed: number },
): Promise<Measurement> {
  const timed = ['--time_based', `--runtime=${how.seconds}`, `--ramp_time=${how.rampSeconds * 1000}ms`]
  return runFio(job, uris, [...timed, '--norandommap', `--randseed=${how.seed}`])
}

/** Writes the whole disk once, so that no measurement allocates blocks in the file below. */
export async function fill(uri: string): Promise<void> {
  await runFio({ pattern: 'write', blockBytes: 1 << 20, queueDepth: 8 }, [uri], [])
}

async function runFio(
  job: Pick<Job, 'pattern' | 'blockBytes' | 'queueDepth'>,
  uris: readonly string[],
  more: readonly string[],
): Promise<Measurement> {
  const common = ['--ioengine=nbd', `--rw=${job.pattern}`, `--bs=${job.blockBytes}`, `--iodepth=${job.queueDepth}`]
  const sides = uris.flatMap((uri, i) => [`--name=side${i}`, `--uri=${uri}`])
  const report = ['--output-format=json', '--group_reporting', '--percentile_list=50:99']
  return parse(await run('fio', [...report, ...common, ...more, ...sides]), job.pattern)
}

interface FioReport {
  readonly jobs: readonly (Readonly<Record<'read' | 'write', FioDirection>> & { readonly error: number })[]
}

interface FioDirection {
  readonly total_ios: number
  readonly iops: number
  readonly bw_bytes: number
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> }
}

function parse(text: string, pattern: Job['pattern']): Measurement {
  // fio may print notes before the report.
  const report = JSON.parse(text.slice(text.indexOf('{'))) as FioReport
  const [job, more] = report.jobs
  if (job === undefined || more !== undefined)
    throw new ProgramError(`fio reports ${report.jobs.length} groups instead of one`)
  const direction = job[pattern === 'randread' ? 'read' : 'write']
  if (job.error !== 0 || direction.total_ios === 0) {
    throw new ProgramError(`fio: error ${job.error} after ${direction.total_ios} requests`)
  }
  const percentile = direction.clat_ns.percentile ?? {}
  return {
    iops: direction.iops,
    bytesPerSecond: direction.bw_bytes,
    p50Us: (percentile['50.000000'] ?? Number.NaN) / 1000,
    p99Us: (percentile['99.000000'] ?? Number.NaN) / 1000,
  }
}

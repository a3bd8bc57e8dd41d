// What must hold in the end. Each check looks at the disks anew; none relies on what the program says of itself.

import { open } from 'node:fs/promises'
import { MIB, SECTOR_BYTES } from '../../src/base/units.ts'
import { checkRegister, splitIntoSectors } from '../../src/sim/checkers/linearizability.ts'
import { type History, toRequestRecords } from '../../src/sim/history.ts'
import { decodeSectors, describeValue, type SectorValue } from '../../src/sim/payload.ts'
import { mebibytes, thousands } from '../console.ts'
import { compareFiles } from '../files.ts'
import type { LabHost } from '../lab.ts'
import { run } from '../processes.ts'
import type { Client, Range } from './clients.ts'
import { type FileSystem, fileSystemDamage, wrongFiles } from './file-system.ts'

const CHUNK_SECTORS = MIB / SECTOR_BYTES
const SHOWN_MAX = 3

export interface Check {
  readonly what: string
  readonly held: boolean
  readonly evidence: string
}

export interface Evidence {
  readonly clients: readonly [Client, Client]
  readonly history: History
  readonly sizeBytes: number
  /** Where the clients wrote: all but the file system. */
  readonly written: Range
  readonly contested: Range
  readonly fileSystem: FileSystem
  /** For the copies that are made here. */
  readonly path: (name: string) => string
}

/** Both hosts are flushed, and nobody writes any more. */
export async function prove(evidence: Evidence): Promise<Check[]> {
  const [a, b] = evidence.clients
  const copies = [evidence.path('read-through-a.img'), evidence.path('read-through-b.img')] as const
  const finalReads = evidence.history.requests.length
  await copyOut(evidence, a.host, copies[0])
  await copyOut(evidence, b.host, copies[1])
  return [
    await same('the two disks are byte-identical', [a.host.diskPath, b.host.diskPath], evidence.sizeBytes),
    await same('both hosts read the same', copies, evidence.sizeBytes),
    await fileSystemIsClean(copies[1]),
    await filesAreRight(evidence, copies[1]),
    acknowledgedIsThere(evidence),
    contestedBlocks(evidence, finalReads),
    noErrors(evidence.clients),
  ]
}

/** Reads the whole disk through a host into a file, and notes what it saw as one more read of every sector written. */
async function copyOut(evidence: Evidence, host: LabHost, path: string): Promise<void> {
  const { history, written } = evidence
  const reads: { readonly range: Range; readonly logged: ReturnType<History['invoke']> }[] = []
  for (let at = 0; at < written.sectors; at += CHUNK_SECTORS) {
    const range = { sector: written.sector + at, sectors: Math.min(CHUNK_SECTORS, written.sectors - at) }
    const invokedAtUs = Math.round(performance.now() * 1000)
    const logged = history.invoke({ host: host.name, kind: 'read', ...range, fua: false, values: [], invokedAtUs })
    reads.push({ range, logged })
  }
  await run('nbdcopy', [host.nbdUri, path])
  const file = await open(path)
  try {
    for (const { range, logged } of reads) {
      const bytes = Buffer.alloc(range.sectors * SECTOR_BYTES)
      await file.read(bytes, 0, bytes.length, range.sector * SECTOR_BYTES)
      history.complete(logged, 'done', decodeSectors(bytes, range.sector))
    }
  } finally {
    await file.close()
  }
}

async function same(what: string, paths: readonly [string, string], sizeBytes: number): Promise<Check> {
  const { blocks, differingBlocks, firstDifferenceBytes, zeroBlocks } = await compareFiles(paths, sizeBytes)
  const evidence =
    differingBlocks === 0
      ? `${mebibytes(sizeBytes)} compared, ${mebibytes((blocks - zeroBlocks) * 4096)} of them in use`
      : `${differingBlocks} of ${blocks} blocks of 4 KiB differ, the first at byte ${firstDifferenceBytes}`
  return { what, held: differingBlocks === 0 && zeroBlocks < blocks, evidence }
}

async function fileSystemIsClean(path: string): Promise<Check> {
  const damage = await fileSystemDamage(path)
  return {
    what: 'file system written through a, read through b: clean',
    held: damage === undefined,
    evidence: damage ?? 'e2fsck -f -n: exit status 0',
  }
}

async function filesAreRight({ fileSystem, path }: Evidence, copy: string): Promise<Check> {
  const wrong = await wrongFiles(fileSystem, copy, path('files-read-through-b'))
  const count = thousands(fileSystem.checksums.size)
  return {
    what: 'every file in it has its checksum',
    held: wrong.length === 0 && fileSystem.checksums.size > 0,
    evidence:
      wrong.length === 0
        ? `${count} files, ${mebibytes(fileSystem.filesBytes)}, SHA-256`
        : `${wrong.length} of ${count} wrong: ${wrong.slice(0, SHOWN_MAX).join(', ')}`,
  }
}

/**
 * Every sector as a register: is there one order of all requests of both hosts that explains each answer and the final
 * reads through both? An acknowledged write that is lost, a sector that is torn or stands in the wrong place, a read that
 * goes back to older content: each leaves a sector without such an order.
 */
function acknowledgedIsThere({ history, clients }: Evidence): Check {
  const sectors = splitIntoSectors(toRequestRecords(history.requests))
  const violations: string[] = []
  let wrongSectors = 0
  for (const [sector, operations] of sectors) {
    const violation = checkRegister(operations)
    if (violation === undefined) continue
    wrongSectors++
    if (violations.length === SHOWN_MAX) continue
    violations.push(`sector ${sector}: ${violation.message} (${violation.values.map(describeValue).join('; ')})`)
  }
  const acknowledged = clients
    .map((client) => `${thousands(client.acknowledgedWrites)} of ${client.host.name}`)
    .join(', ')
  const reads = thousands(clients.reduce((sum, client) => sum + client.acknowledgedReads, 0))
  return {
    what: 'every acknowledged write is there, and no read went back',
    held: wrongSectors === 0 && clients.every((client) => client.acknowledgedWrites > 0),
    evidence:
      wrongSectors === 0
        ? `writes: ${acknowledged}; ${reads} reads meanwhile; ${thousands(sectors.size)} sectors judged`
        : `${wrongSectors} of ${sectors.size} sectors wrong: ${violations.join(', ')}`,
  }
}

/** Whose write stands in the blocks that both wrote: the same one on both, and not always the same host's. */
function contestedBlocks({ history, contested, clients }: Evidence, finalReads: number): Check {
  const [inA, inB] = clients.map(({ host }) => {
    const values = new Map<number, SectorValue>()
    for (const { host: name, sector, values: read } of history.requests.slice(finalReads)) {
      if (name === host.name) read.forEach((value, i) => void values.set(sector + i, value))
    }
    return values
  }) as [Map<number, SectorValue>, Map<number, SectorValue>]
  const winners = new Map<string, number>()
  let different = 0
  for (let sector = contested.sector; sector < contested.sector + contested.sectors; sector++) {
    const value = inA.get(sector) ?? 'not read'
    if (value !== inB.get(sector)) different++
    const winner = describeValue(value).split(' operation ')[0] ?? ''
    winners.set(winner, (winners.get(winner) ?? 0) + 1)
  }
  const named = clients
    .map(({ host }, i) => `${thousands(winners.get(`writer ${i + 1}`) ?? 0)} of ${host.name}`)
    .join(', ')
  return {
    what: 'blocks that both wrote hold one value, the same on both',
    held: different === 0,
    evidence:
      different === 0
        ? `${thousands(contested.sectors)} sectors; the last write was ${named}`
        : `${different} of ${contested.sectors} sectors differ`,
  }
}

function noErrors(clients: readonly Client[]): Check {
  const errors = clients.flatMap((client) => client.errors.map((error) => `${client.host.name}: ${error}`))
  const unanswered = clients.reduce((sum, client) => sum + client.unansweredRequests, 0)
  return {
    what: 'no request failed but those that the killed host had in its hands',
    held: errors.length === 0 && clients[1]?.unansweredRequests === 0,
    evidence: errors.length === 0 ? `${unanswered} without an answer` : errors.slice(0, SHOWN_MAX).join(', '),
  }
}

// Two endpoints of one disk, as the end-to-end tests see them: the lab of real processes (lab.ts) or two replicas in this
// process (pair.ts). And what both have in common: looking at the backing files past the endpoints.

import { closeSync, openSync, readSync } from 'node:fs'
import type { NbdConnectionToServer } from '../../src/adapters/nbd-client.ts'
import { BLOCK_BYTES, MIB, SECTOR_BYTES } from '../../src/base/units.ts'

export type Side = 'a' | 'b'
export const SIDES: readonly Side[] = ['a', 'b']
export const otherSide = (side: Side): Side => (side === 'a' ? 'b' : 'a')

export interface DiskPair {
  /** What clients see, on both sides. */
  readonly sizeBytes: number
  connect(side: Side): Promise<NbdConnectionToServer>
  /** The backing file. */
  diskPath(side: Side): string
}

/** Undefined if both backing files hold the same in the data area; else the first differences. Only while quiet. */
export function differenceOfDisks(pair: DiskPair, shownMax = 8): string | undefined {
  const differing = differingBlocks(pair.diskPath('a'), pair.diskPath('b'), {
    offsetBytes: 0,
    lengthBytes: pair.sizeBytes,
  })
  if (differing.length === 0) return undefined
  const shown = differing.slice(0, shownMax).map((block) => `sector ${(block * BLOCK_BYTES) / SECTOR_BYTES}`)
  return `${differing.length} blocks of 4 KiB differ between the disks: ${shown.join(', ')}`
}

/** Numbers of the blocks that differ; the range begins at a block's border. */
export function differingBlocks(
  pathA: string,
  pathB: string,
  { offsetBytes, lengthBytes }: { readonly offsetBytes: number; readonly lengthBytes: number },
): number[] {
  const endBytes = offsetBytes + lengthBytes
  const [a, b] = [openSync(pathA, 'r'), openSync(pathB, 'r')]
  try {
    const differing: number[] = []
    const chunkA = Buffer.alloc(MIB)
    const chunkB = Buffer.alloc(MIB)
    for (let at = offsetBytes; at < endBytes; at += MIB) {
      const wanted = Math.min(MIB, endBytes - at)
      readExactly(a, chunkA, wanted, at, pathA)
      readExactly(b, chunkB, wanted, at, pathB)
      if (chunkA.subarray(0, wanted).equals(chunkB.subarray(0, wanted))) continue
      for (let block = 0; block < wanted; block += BLOCK_BYTES) {
        const end = Math.min(block + BLOCK_BYTES, wanted)
        if (!chunkA.subarray(block, end).equals(chunkB.subarray(block, end))) differing.push((at + block) / BLOCK_BYTES)
      }
    }
    return differing
  } finally {
    closeSync(a)
    closeSync(b)
  }
}

function readExactly(fd: number, into: Buffer, lengthBytes: number, offsetBytes: number, path: string): void {
  for (let done = 0; done < lengthBytes; ) {
    const readBytes = readSync(fd, into, done, lengthBytes - done, offsetBytes + done)
    if (readBytes === 0) throw new Error(`${path} ends at ${offsetBytes + done}, inside of the data area`)
    done += readBytes
  }
}

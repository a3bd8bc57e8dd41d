// Comparing files, machine facts about the file system that they stand on.

import { type FileHandle, open, readFile, realpath } from 'node:fs/promises'
import { MIB } from '../src/base/units.ts'
import { ProgramError } from './processes.ts'

const CHUNK_BYTES = MIB
const COMPARE_BYTES = 4096

export interface Comparison {
  readonly blocks: number
  readonly differingBlocks: number
  readonly firstDifferenceBytes: number | undefined
  /** Blocks that are zero in both. */
  readonly zeroBlocks: number
}

/** Compares the first `lengthBytes` of two files in blocks of 4 KiB. A file that is shorter is an error. */
export async function compareFiles(
  paths: readonly [string, string],
  lengthBytes: number,
  offsetBytes = 0,
): Promise<Comparison> {
  const [first, second] = await Promise.all([open(paths[0]), open(paths[1])])
  try {
    const result = {
      blocks: 0,
      differingBlocks: 0,
      firstDifferenceBytes: undefined as number | undefined,
      zeroBlocks: 0,
    }
    const buffers = [Buffer.alloc(CHUNK_BYTES), Buffer.alloc(CHUNK_BYTES)] as const
    const zero = Buffer.alloc(COMPARE_BYTES)
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += CHUNK_BYTES) {
      const chunkBytes = Math.min(CHUNK_BYTES, offsetBytes + lengthBytes - at)
      await Promise.all([
        readFully(first, paths[0], buffers[0], at, chunkBytes),
        readFully(second, paths[1], buffers[1], at, chunkBytes),
      ])
      for (let from = 0; from < chunkBytes; from += COMPARE_BYTES) {
        const to = Math.min(from + COMPARE_BYTES, chunkBytes)
        const block = buffers[0].subarray(from, to)
        result.blocks++
        if (!block.equals(buffers[1].subarray(from, to))) {
          result.differingBlocks++
          result.firstDifferenceBytes ??= at + from
        } else if (block.equals(zero.subarray(0, to - from))) result.zeroBlocks++
      }
    }
    return result
  } finally {
    await Promise.all([first.close(), second.close()])
  }
}

async function readFully(
  file: FileHandle,
  path: string,
  into: Uint8Array,
  offsetBytes: number,
  lengthBytes: number,
): Promise<void> {
  for (let done = 0; done < lengthBytes; ) {
    const { bytesRead } = await file.read(into, done, lengthBytes - done, offsetBytes + done)
    if (bytesRead === 0) throw new ProgramError(`${path} ends at byte ${offsetBytes + done}`)
    done += bytesRead
  }
}

/** Type of the file system that a path is on, as the kernel names it: ext4, xfs, tmpfs, overlay. */
export async function fileSystemType(path: string): Promise<string> {
  const real = await realpath(path)
  let best = { mountPoint: '', type: 'unknown' }
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')) {
    const [before, after] = line.split(' - ')
    const mountPoint = before?.split(' ')[4]
    const type = after?.split(' ')[0]
    if (mountPoint === undefined || type === undefined || mountPoint.length < best.mountPoint.length) continue
    if (real === mountPoint || real.startsWith(mountPoint.endsWith('/') ? mountPoint : `${mountPoint}/`)) {
      best = { mountPoint, type }
    }
  }
  return best.type
}

// Metadata of a device that no daemon has attached: create-md, and a look at the superblock for show-gi, get-gi and dstate
// (config-and-tools.md 2.3 and 3.7). Writing claims the device; looking does not, since a superblock on disk is always whole.

import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import { DiskOpenError, systemCodeOf } from '../adapters/disk-errors.ts'
import { openFileDisk } from '../adapters/file-disk.ts'
import { loadPosix } from '../adapters/posix.ts'
import { SystemEntropy } from '../adapters/system-entropy.ts'
import { AppError } from '../base/errors.ts'
import type { Volume } from '../config/index.ts'
import { alExtentsClamped } from '../meta/activity-log.ts'
import { createMetadata } from '../meta/create.ts'
import { MetadataMagicError } from '../meta/errors.ts'
import {
  DEFAULT_AL_GEOMETRY,
  flexibleExternalLayout,
  indexedLayout,
  internalLayout,
  type MdLayout,
} from '../meta/layout.ts'
import { decodeSuperblock, SUPERBLOCK_BYTES, type Superblock } from '../meta/superblock.ts'
import type { Disk } from '../runtime/ports.ts'
import { StartError } from './errors.ts'

const EXIT_NO_METADATA = 1
const EXIT_NO_DEVICE = 20
const EXIT_FAILED = 10

// ---- create -----------------------------------------------------------------------------------------------------------

export interface CreateOptions {
  readonly volume: Volume
  /** Write over what is there. */
  readonly force: boolean
  /** Asked when something is there that would be lost; false: leave it alone. */
  confirm(found: string): Promise<boolean>
  print(line: string): void
}

/** Throws StartError: the device cannot be had, the user declined, writing failed. */
export async function createMetadataOffline({ volume, force, confirm, print }: CreateOptions): Promise<void> {
  const path = metadataPath(volume)
  const disk = openClaimed(path, volume.metaDisk.kind === 'external')
  try {
    const layout = layoutOf(volume, disk.sizeBytes, path)
    const found = force ? undefined : await findOldContents(disk, layout, volume.metaDisk.kind === 'internal')
    if (found !== undefined && !(await confirm(`${path}: ${found}`))) {
      throw new StartError('E_DECLINED', `${path}: ${found}; nothing was changed`, {
        hint: 'Use --force to write over it.',
        exitCode: EXIT_NO_METADATA,
      })
    }
    await writeMetadata(disk, volume, layout, print)
  } finally {
    await closed(disk)
  }
}

async function writeMetadata(
  disk: Disk,
  volume: Volume,
  layout: MdLayout,
  print: (line: string) => void,
): Promise<void> {
  const writes = createMetadata({
    layout,
    geometry: DEFAULT_AL_GEOMETRY,
    alExtents: alExtentsClamped(volume.diskOptions.alExtents, DEFAULT_AL_GEOMETRY),
    deviceUuid: new SystemEntropy().u64(),
    kind: kindOf(volume),
  })
  print('initializing activity log')
  print(`initializing bitmap (${Math.ceil(layout.bitmapAreaBytes / 1024)} KB) to all zero`)
  print('Writing meta data...')
  for (const { offsetBytes, data } of writes) {
    await completed((done) => disk.write(offsetBytes, data, done))
    // The superblock comes last: everything else is durable before it.
    await completed((done) => disk.flush(done))
  }
  print('New drbd meta data block successfully created.')
}

function completed(start: (done: Parameters<Disk['flush']>[0]) => void): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    start((error, data) => {
      if (error === undefined) resolve(data)
      else reject(new StartError('E_METADATA', error.message, { exitCode: EXIT_FAILED }))
    })
  })
}

function closed(disk: ReturnType<typeof openFileDisk>): Promise<void> {
  disk.close()
  return new Promise((resolve) => disk.whenReleased(resolve))
}

const metadataPath = ({ metaDisk, disk }: Volume): string => (metaDisk.kind === 'internal' ? disk : metaDisk.path)

function kindOf({ metaDisk }: Volume): 'internal' | 'flexible' | 'indexed' {
  if (metaDisk.kind === 'internal') return 'internal'
  return metaDisk.index === 'flexible' ? 'flexible' : 'indexed'
}

function layoutOf(volume: Volume, deviceBytes: number, path: string): MdLayout {
  const { metaDisk } = volume
  try {
    if (metaDisk.kind === 'internal') return internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)
    if (metaDisk.index === 'flexible') return flexibleExternalLayout(deviceBytes, DEFAULT_AL_GEOMETRY)
    return indexedLayout(metaDisk.index)
  } catch (cause) {
    if (!(cause instanceof AppError)) throw cause
    const options = { hint: cause.hint, exitCode: EXIT_FAILED, cause }
    throw new StartError('E_METADATA', `${path}: ${cause.message}`, options)
  }
}

function openClaimed(path: string, isMeta: boolean): ReturnType<typeof openFileDisk> {
  try {
    return openFileDisk(path, isMeta ? { role: 'meta' } : {})
  } catch (cause) {
    if (!(cause instanceof DiskOpenError)) throw cause
    throw new StartError('E_METADATA', cause.message, { hint: cause.hint, exitCode: EXIT_NO_DEVICE, cause })
  }
}

// ---- what would be lost -------------------------------------------------------------------------------------------------

interface Signature {
  readonly offsetBytes: number
  readonly bytes: readonly number[]
  readonly what: string
}

const ascii = (text: string): number[] => [...text].map((character) => character.charCodeAt(0))
const SIGNATURES: readonly Signature[] = [
  { offsetBytes: 1080, bytes: [0x53, 0xef], what: 'an ext2, ext3 or ext4 file system' },
  { offsetBytes: 0, bytes: ascii('XFSB'), what: 'an xfs file system' },
  { offsetBytes: 65_600, bytes: ascii('_BHRfS_M'), what: 'a btrfs file system' },
  { offsetBytes: 0, bytes: ascii('LUKS'), what: 'a LUKS volume' },
  { offsetBytes: 536, bytes: ascii('LVM2 001'), what: 'an LVM physical volume' },
  { offsetBytes: 4086, bytes: ascii('SWAPSPACE2'), what: 'swap space' },
]
const SIGNATURE_BYTES = 128 * 1024

/** What is on the device, in words; undefined: nothing that is known. */
async function findOldContents(disk: Disk, layout: MdLayout, isInternal: boolean): Promise<string | undefined> {
  const offsetBytes = layout.superblockOffsetBytes
  if (offsetBytes + SUPERBLOCK_BYTES > disk.sizeBytes) {
    throw new StartError('E_METADATA', `the device has only ${disk.sizeBytes} bytes`, { exitCode: EXIT_FAILED })
  }
  const block = await completed((done) => disk.read(offsetBytes, SUPERBLOCK_BYTES, done))
  try {
    decodeSuperblock(block ?? new Uint8Array(SUPERBLOCK_BYTES))
    return 'there is DRBD metadata (v08) already'
  } catch (error) {
    if (!(error instanceof MetadataMagicError)) return 'there is damaged DRBD metadata already'
    if (error.details.found !== 'nothing') return `there is DRBD metadata (${error.details.found}) already`
  }
  if (!isInternal) return undefined
  const lengthBytes = Math.min(SIGNATURE_BYTES, disk.sizeBytes)
  const head = (await completed((done) => disk.read(0, lengthBytes, done))) ?? new Uint8Array(0)
  const found = SIGNATURES.find(({ offsetBytes: at, bytes }) => bytes.every((byte, i) => head[at + i] === byte))
  return found === undefined
    ? undefined
    : `there is ${found.what}, and internal metadata takes the last ${layout.mdSizeSectors * 512} bytes of the device`
}

// ---- look -------------------------------------------------------------------------------------------------------------

export interface OfflineMetadata {
  readonly superblock: Superblock
  readonly layout: MdLayout
}

/** Throws StartError: no device, or no metadata on it (exit code 1, as drbdmeta's). */
export function readMetadata(volume: Volume): OfflineMetadata {
  const path = metadataPath(volume)
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (cause) {
    const message = `${path}: cannot be opened (${systemCodeOf(cause) ?? String(cause)})`
    throw new StartError('E_METADATA', message, { exitCode: EXIT_NO_DEVICE, cause })
  }
  try {
    const layout = layoutOf(volume, deviceBytes(fd), path)
    const block = new Uint8Array(SUPERBLOCK_BYTES)
    readSync(fd, block, 0, SUPERBLOCK_BYTES, layout.superblockOffsetBytes)
    return { superblock: decodeSuperblock(block), layout }
  } catch (cause) {
    if (!(cause instanceof AppError) || cause instanceof StartError) throw cause
    const options = { hint: cause.hint, exitCode: EXIT_NO_METADATA, cause }
    throw new StartError('E_METADATA', `${path}: ${cause.message}`, options)
  } finally {
    closeSync(fd)
  }
}

function deviceBytes(fd: number): number {
  const status = fstatSync(fd)
  if (!status.isBlockDevice()) return status.size
  const sizeBytes = loadPosix()?.blockSizeBytes(fd) ?? -1
  if (sizeBytes >= 0) return sizeBytes
  const major = Math.floor(status.rdev / 256) % 4096
  const minor = (status.rdev % 256) + Math.floor(status.rdev / 0x10_0000) * 256
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * 512
}
